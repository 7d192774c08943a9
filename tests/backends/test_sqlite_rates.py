"""Rates, quorum, ramp-up and modes among real processes. Every wait is by looking again."""

from __future__ import annotations

import pytest

from tests.backends.test_sqlite_processes import hire
from tests.backends.waiting import until

__all__ = ["hire"]

RATE = {
    "failure_threshold": None,
    "failure_rate_threshold": 0.5,
    "minimum_calls": 10,
    "recovery_timeout": 300,
}


def settled(hands):
    """Each process has kept house twice from now on, and heard of what the others have told."""
    goals = [hand.rounds() + 2 for hand in hands]
    until(lambda: all(hand.rounds() >= goal for hand, goal in zip(hands, goals, strict=True)))


def test_four_processes_that_fail_too_often_open_each_by_its_own_calls_at_the_latest(hire):
    hands = hire(4, **RATE)
    assert [hand.ok() for hand in hands] == ["ok"] * 4
    for hand in hands:
        hand.send("calls", "FFSFS" * 10)
    for hand in hands:
        told = hand.answer()
        assert told.endswith("R")
        assert len(told) <= 10  # nine calls after the first complete the minimum
    assert until(lambda: hands[0].openings() == 1)
    assert [hand.ok() for hand in hands] == ["rejected"] * 4


def test_what_each_has_seen_is_too_little_but_all_together_open_it_for_all(hire):
    hands = hire(4, **RATE)
    assert [hand.calls("SFF") for hand in hands] == ["SFF"] * 4
    assert until(lambda: hands[0].openings() == 1)
    assert [hand.ok() for hand in hands] == ["rejected"] * 4


def test_the_successes_of_others_keep_it_closed(hire):
    sick, *well = hire(4, **RATE)
    assert [hand.calls("S" * 10) for hand in well] == ["S" * 10] * 3
    assert sick.calls("SFFFFFFFF") == "SFFFFFFFF"
    settled([sick, *well])
    assert [hand.ok() for hand in (sick, *well)] == ["ok"] * 4
    assert sick.openings() == 0


def test_a_process_that_is_sick_alone_opens_only_itself(hire):
    sick, *well = hands = hire(4, quorum=2, recovery_timeout=300)
    assert [hand.ok() for hand in hands] == ["ok"] * 4
    assert sick.calls("FFFF") == "FFFR"
    assert [hand.calls("SSS") for hand in well] == ["SSS"] * 3
    settled(hands)
    assert [hand.state() for hand in hands] == ["open", "closed", "closed", "closed"]
    assert sick.openings() == 0
    assert any("in this process alone" in line for line in sick.told())
    # A second one is a quorum.
    assert well[0].calls("F") == "F"
    assert [hand.ok() for hand in hands] == ["rejected"] * 4
    assert sick.openings() == 1


def test_slow_starts_are_obeyed_by_all(hire):
    hands = hire(4, recovery_timeout=0.05, ramp_up=3600)
    assert [hand.ok() for hand in hands] == ["ok"] * 4
    assert hands[0].trip() == "done"
    assert until(lambda: hands[1].ok() == "ok")
    assert [hand.state() for hand in hands] == ["closed"] * 4
    for chance, answer in ((0.5, "rejected"), (0.05, "ok")):
        assert [hand.chance(chance) for hand in hands] == ["done"] * 4
        assert [hand.ok() for hand in hands] == [answer] * 4
    # One failure of any of them is a relapse, for all and with a second opening in a row.
    assert hands[2].calls("F") == "F"
    assert until(lambda: hands[3].openings() == 2)


@pytest.mark.parametrize("mode", ["disabled", "metrics_only"])
def test_a_mode_is_obeyed_by_all(hire, mode):
    hands = hire(3, recovery_timeout=300)
    assert [hand.calls("F") for hand in hands[:2]] == ["F"] * 2
    assert (hands[0].disable if mode == "disabled" else hands[0].metrics_only)() == "done"
    assert [hand.calls("FFFFF") for hand in hands] == ["FFFFF"] * 3
    assert [(hand.mode(), hand.state()) for hand in hands] == [(mode, "closed")] * 3
    if mode == "metrics_only":
        # On paper it has opened at the third, and what passed since was not to pass.
        assert until(lambda: hands[0].spared() == 12)
    assert hands[1].enable() == "done"
    # What was counted before counts again.
    assert [hand.failures() for hand in hands] == [2] * 3
    assert [hand.mode() for hand in hands] == ["auto"] * 3
    assert hands[2].calls("F") == "F"
    assert [hand.ok() for hand in hands] == ["rejected"] * 3


def test_a_mode_ends_for_all_when_its_time_is_over(hire):
    hands = hire(3, recovery_timeout=300)
    assert [hand.ok() for hand in hands] == ["ok"] * 3
    assert hands[0].metrics_only(0.2) == "done"
    assert until(lambda: [hand.mode() for hand in hands] == ["auto"] * 3)
    assert [hand.ok() for hand in hands] == ["ok"] * 3
    assert hands[2].calls("FFFF") == "FFFR"
    assert [hand.ok() for hand in hands] == ["rejected"] * 3
