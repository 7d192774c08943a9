from __future__ import annotations

import inspect

import pytest

from circuitbreaker_django import CircuitOpenError, CircuitState
from circuitbreaker_django.core.block import Block, BlockExit
from tests.core.calls import Down, fail, ok

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.mark.parametrize("is_open", [True, False])
def test_the_exit_of_an_async_block_is_async_and_that_of_another_is_not(make, is_open):
    breaker = make()
    if is_open:
        breaker.call(ok)
    asynchronous = BlockExit("__aexit__").__get__(breaker, type(breaker))
    assert inspect.iscoroutinefunction(asynchronous)
    assert not inspect.iscoroutinefunction(BlockExit("__exit__").__get__(breaker, type(breaker)))


def test_a_block_is_of_the_breaker_whose_exit_was_taken_until_it_has_ended(make):
    breaker, other = make("one"), make("other")
    block = Block(breaker)
    assert (block.is_of(breaker), block.is_of(other)) == (True, False)
    assert Block(None).is_of(other)
    block.exit(breaker, None, None, None)
    assert not block.is_of(breaker)


def test_the_exit_of_one_breaker_ends_no_trial_of_another(half_open):
    breaker, other = half_open("one"), half_open("other")
    leave = breaker.__exit__
    other.__enter__()
    leave(None, None, None)
    assert other.state is HALF_OPEN
    other.__exit__(None, None, None)
    assert other.state is CLOSED


def test_a_block_that_found_the_gate_open_after_all_counts(make):
    breaker = make(slow_call_duration=10)
    leave = breaker.__exit__
    breaker.call(ok)  # somebody else opens the gate
    breaker.__enter__()
    leave(Down, Down(), None)
    assert breaker.state is OPEN


def test_an_exit_that_is_older_than_the_circuit_counts_nothing(make):
    block = Block(None)
    breaker = make()
    block.exit(breaker, Down, Down(), None)
    assert breaker.state is CLOSED


def test_a_slow_block_is_slow_from_when_it_was_entered(make, clock):
    breaker = make(
        failure_threshold=None, slow_call_duration=10, slow_call_rate_threshold=1, minimum_calls=2
    )
    for _ in range(2):
        clock.advance(1)
        with breaker:
            clock.advance(10)
    assert breaker.state is OPEN
    with pytest.raises(CircuitOpenError), breaker:
        fail()
