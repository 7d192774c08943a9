from __future__ import annotations

from array import array
from math import inf

import pytest

from circuitbreaker_django.core.gate import STILL, Bell, Gate
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.tally import Tally
from tests.core.calls import Down, fail, ok

HELD = 1.0  # what the still word holds


def test_a_gate_that_is_told_nothing_lets_nobody_pass_and_rejects_nobody(make):
    gate = Gate(make())
    assert not gate.is_open
    assert gate.rejection() is None
    assert (gate.epoch, gate.until, gate.calls, gate.tally) == (0, 0, 0, None)


def test_a_bell_that_nobody_rings_is_still():
    bell = Bell()
    assert bell.word is STILL
    assert bell.word[()] == bell.seen


def test_calls_and_blocks_pass_while_the_word_is_as_it_was(make):
    word = memoryview(array("d", [5.0])).cast("B").cast("d", shape=[])
    gate = Gate(make(), word, admit=5.0, epoch=3)
    assert (gate.is_open, gate.admit_blocks, gate.epoch) == (True, 5.0, 3)
    word[()] = -5.0
    assert not gate.is_open


def test_where_calls_are_tallied_no_block_passes(make):
    tally = Tally(Policy())
    gate = Gate(make(), STILL, admit=HELD, tally=tally)
    assert (gate.is_open, gate.admit_blocks, gate.tally) == (True, None, tally)


def test_a_gate_without_a_word_lets_all_pass_and_rejects_nobody(make):
    gate = Gate(make(), None, reject=HELD, until=inf)
    assert gate.is_open
    assert gate.rejection() is None


def test_a_gate_that_was_shut_lets_nobody_pass_and_rejects_nobody(make):
    for gate in (Gate(make(), None, admit=HELD), Gate(make(), STILL, reject=HELD, until=inf)):
        gate.shut()
        assert (gate.is_open, gate.admit_blocks, gate.rejection()) == (False, None, None)


def test_calls_are_rejected_until_the_wait_is_over_and_not_a_moment_longer(make, clock):
    breaker = make()
    gate = Gate(breaker, STILL, reject=HELD, until=clock.now + 2_000_000)
    rejection = gate.rejection()
    assert rejection is not None
    assert (rejection.name, rejection.state, rejection.retry_after) == ("payments", "open", 2)
    clock.now += 1_999_999
    rejection = gate.rejection()
    assert rejection is not None
    assert rejection.retry_after == 0.000_001
    clock.now += 1
    assert gate.rejection() is None
    assert breaker.view.rejected == 2


def test_a_hold_without_an_end_has_no_time_to_wait_for(make):
    rejection = Gate(make(), STILL, reject=HELD, until=inf).rejection()
    assert rejection is not None
    assert rejection.retry_after is None


@pytest.mark.parametrize("held", [2.0, -1.0])
def test_nobody_is_rejected_on_a_word_that_others_have_changed(make, held):
    word = memoryview(array("d", [held])).cast("B").cast("d", shape=[])
    assert Gate(make(), word, reject=HELD, until=inf).rejection() is None


def test_a_failure_of_two_blocks_that_have_both_passed_by_counts_once(make):
    breaker = make(failure_threshold=9)
    breaker.call(ok)
    with pytest.raises(Down), breaker, breaker:
        fail()
    assert breaker.view.failures == 1
