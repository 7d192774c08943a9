"""What is left of a whole record, and what is told, after each move: field by field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import (
    MAX_TEXT,
    MODES,
    Batch,
    Circuit,
    Command,
    CommandKind,
    Effective,
    Event,
    Grant,
    Override,
    Permit,
    Witness,
)
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import CircuitState, Mode, Outcome
from circuitbreaker_django.core.window import Slice

SECOND = 1_000_000
NOW = 1000 * SECOND
CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
POLICY = Policy(
    failure_threshold=5,
    failure_window=10,
    failure_rate_threshold=0.5,
    slow_call_duration=2,
    minimum_calls=100,
    recovery_timeout=30,
    recovery_backoff=2,
    trial_timeout=7,
    half_open_max_calls=2,
    success_threshold=2,
)
#: Closed, with something in every field.
FULL = Circuit(
    epoch=5,
    since=NOW - 50 * SECOND,
    retry_at=NOW - 60 * SECOND,
    openings=2,
    failures=(NOW - 2 * SECOND, NOW - SECOND),
    slices=(Slice(NOW - SECOND, 9, 3, 4),),
    suspect_since=NOW - 3 * SECOND,
    witnesses=(Witness("one", NOW - SECOND),),
    spared=4,
    trials=6,
    trial_successes=1,
    permits=(Permit("old", NOW + SECOND),),
    actor="bob",
    reason="before",
    last_error="Old",
    last_message="it was",
    last_error_at=NOW - 2 * SECOND,
)
#: What is kept of the last error by what is otherwise begun anew.
ERROR: dict[str, Any] = {
    "last_error": "Old",
    "last_message": "it was",
    "last_error_at": NOW - 2 * SECOND,
}
#: The same, open; it may be tried.
FULL_OPEN = replace(
    FULL, state=OPEN, retry_at=NOW - SECOND, failures=(), slices=(), suspect_since=0, witnesses=()
)
#: What is empty in a circuit that is not closed.
NOTHING_COUNTED: dict[str, Any] = {
    "failures": (),
    "slices": (),
    "suspect_since": 0,
    "witnesses": (),
    "trial_successes": 0,
}
SEEN = {"failures": 3, "calls": 9, "slow": 4}


def given(mode: Mode, until: int | None = None, aside: Circuit | None = None) -> Override:
    return Override(mode, 5, NOW - 20 * SECOND, until, "ann", "why", aside)


def order(
    circuit: Circuit, kind: CommandKind, policy: Policy = POLICY, duration: int | None = None
) -> tuple[Circuit, Event]:
    result = core.command(circuit, Command(kind, duration, "eve", "so"), policy, NOW)
    assert result is not None
    after, (event,) = result
    return after, event


def told(before: CircuitState, after: CircuitState, mode: Mode, cause: str, **more: Any) -> Event:
    return Event(NOW, NOW, before, after, mode, cause, **more)


# -- modes whose time is over -------------------------------------------------------------------


@pytest.mark.parametrize("circuit", [FULL, FULL_OPEN], ids=["closed", "open"])
@pytest.mark.parametrize("openings", [0, 2])
def test_after_a_hold_it_is_half_open_and_has_counted_nothing(circuit, openings):
    until = NOW - SECOND // 2
    held = replace(circuit, openings=openings, override=given(Mode.FORCED_OPEN, until))
    assert core.settle(held, NOW) == replace(
        circuit,
        **NOTHING_COUNTED,
        state=OPEN,
        since=circuit.since if circuit.state is OPEN else NOW - 20 * SECOND,
        retry_at=until,
        openings=max(1, openings),
        override=None,
        actor="ann",
        reason="the hold is over",
    )


def test_after_it_was_disabled_it_is_what_it_was():
    circuit = replace(FULL, override=given(Mode.DISABLED, NOW))
    assert core.settle(circuit, NOW) == FULL


def test_after_metrics_only_it_is_what_was_set_aside():
    aside = replace(FULL_OPEN, override=given(Mode.AUTO))
    circuit = replace(FULL, override=given(Mode.METRICS_ONLY, NOW - SECOND, aside))
    # An epoch that every process finds, whatever its clock.
    assert core.settle(circuit, NOW) == replace(FULL_OPEN, epoch=FULL.epoch + 1)


def test_after_metrics_only_that_has_lost_what_was_set_aside_it_is_new():
    circuit = replace(FULL, override=given(Mode.METRICS_ONLY, NOW - SECOND))
    assert core.settle(circuit, NOW) == Circuit(epoch=FULL.epoch + 1, since=NOW - SECOND)


@pytest.mark.parametrize("mode", [Mode.FORCED_OPEN, Mode.DISABLED, Mode.METRICS_ONLY])
def test_until_then_nothing_changes(mode):
    circuit = replace(FULL, override=given(mode, NOW + 1))
    assert core.settle(circuit, NOW) is circuit


@pytest.mark.parametrize(
    "move",
    [
        lambda circuit: core.report(circuit, 5, "old", Outcome.FAILURE, POLICY, NOW)[0],
        lambda circuit: core.record(circuit, Batch(5, (0,) * 9), POLICY, NOW)[0],
        lambda circuit: core.acquire(circuit, 5, "new", POLICY, NOW)[0],
    ],
    ids=["report", "record", "acquire"],
)
def test_what_belongs_to_a_paper_that_is_thrown_away_is_dropped(move):
    circuit = replace(FULL, override=given(Mode.METRICS_ONLY, NOW, FULL_OPEN))
    assert move(circuit) == replace(FULL_OPEN, epoch=FULL.epoch + 1)


# -- commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CommandKind.HOLD, CommandKind.DISABLE])
@pytest.mark.parametrize("duration", [None, 9 * SECOND])
def test_a_mode_leaves_the_circuit_below_as_it_was(kind, duration):
    after, event = order(FULL, kind, duration=duration)
    until = None if duration is None else NOW + duration
    assert after == replace(
        FULL,
        epoch=NOW,
        permits=(),
        trials=0,
        override=Override(MODES[kind], NOW, NOW, until, "eve", "so"),
    )
    state = OPEN if kind is CommandKind.HOLD else CLOSED
    assert event == told(CLOSED, state, MODES[kind], kind, actor="eve", reason="so", **SEEN)


def test_metrics_only_begins_anew_and_sets_the_circuit_aside():
    before = replace(FULL_OPEN, override=given(Mode.AUTO))
    after, event = order(before, CommandKind.METRICS_ONLY)
    aside = replace(FULL_OPEN, permits=(), trials=0)
    override = Override(Mode.METRICS_ONLY, NOW, NOW, None, "eve", "so", aside)
    assert after == Circuit(epoch=NOW, since=NOW, override=override)
    assert event == told(
        HALF_OPEN, CLOSED, Mode.METRICS_ONLY, "metrics_only", actor="eve", reason="so"
    )


@pytest.mark.parametrize("kind", list(MODES))
def test_another_mode_throws_away_what_is_on_paper(kind):
    before = replace(FULL, override=given(Mode.METRICS_ONLY, None, FULL_OPEN))
    after, _ = order(before, kind)
    assert after.override is not None
    below = after.override.aside if kind is CommandKind.METRICS_ONLY else after
    assert below is not None
    assert replace(below, epoch=5, override=None) == replace(FULL_OPEN, permits=(), trials=0)


def test_enable_ends_a_hold_with_a_trial():
    after, event = order(replace(FULL, override=given(Mode.FORCED_OPEN)), CommandKind.ENABLE)
    assert after == replace(
        FULL,
        **NOTHING_COUNTED,
        epoch=NOW,
        state=OPEN,
        since=NOW - 20 * SECOND,
        retry_at=NOW,
        permits=(),
        trials=0,
        actor="ann",
        reason="the hold is over",
    )
    assert event == told(OPEN, HALF_OPEN, Mode.AUTO, "enable", actor="eve", reason="so", **SEEN)


def test_enable_leaves_what_was_disabled_as_it_is():
    after, event = order(replace(FULL, override=given(Mode.DISABLED)), CommandKind.ENABLE)
    assert after == replace(FULL, epoch=NOW, permits=(), trials=0)
    assert event == told(CLOSED, CLOSED, Mode.AUTO, "enable", actor="eve", reason="so", **SEEN)


@pytest.mark.parametrize("mode", [Mode.METRICS_ONLY, Mode.DISABLED])
def test_enable_is_remembered_where_the_policy_begins_with_a_mode(mode):
    after, event = order(FULL, CommandKind.ENABLE, replace(POLICY, initial_mode=mode))
    on_top = Override(Mode.AUTO, NOW, NOW, None, "eve", "so")
    if mode is Mode.METRICS_ONLY:  # what was counted on paper is thrown away
        assert after == Circuit(epoch=NOW, since=NOW, override=on_top)
    else:
        assert after == replace(FULL, epoch=NOW, permits=(), trials=0, override=on_top)
    assert event == told(CLOSED, CLOSED, Mode.AUTO, "enable", actor="eve", reason="so", **SEEN)


@pytest.mark.parametrize("circuit", [FULL, FULL_OPEN], ids=["closed", "open"])
def test_a_trip_restarts_the_time_and_is_no_opening_more(circuit):
    override = given(Mode.DISABLED)
    after, event = order(replace(circuit, override=override), CommandKind.TRIP)
    was_open = circuit.state is OPEN
    assert after == replace(
        circuit,
        **NOTHING_COUNTED,
        epoch=NOW,
        state=OPEN,
        since=circuit.since if was_open else NOW,
        retry_at=NOW + (60 if was_open else 30) * SECOND,
        openings=2 if was_open else 1,
        trials=0,
        permits=(),
        actor="eve",
        reason="so",
        override=override,
    )
    seen = {} if was_open else SEEN
    assert event == told(CLOSED, CLOSED, Mode.DISABLED, "trip", actor="eve", reason="so", **seen)


def test_a_trip_under_metrics_only_is_on_paper_and_nobody_sees_a_change():
    before = replace(FULL, override=given(Mode.METRICS_ONLY, None, FULL_OPEN))
    after, event = order(before, CommandKind.TRIP)
    assert (after.state, after.override) == (OPEN, before.override)
    assert (event.before, event.after, event.mode) == (CLOSED, CLOSED, Mode.METRICS_ONLY)


def test_a_trip_while_it_ramps_up_goes_on_with_the_row_and_is_no_opening_more():
    after, _ = order(FULL, CommandKind.TRIP, replace(POLICY, ramp_up=100))
    assert after.openings == 2


@pytest.mark.parametrize("circuit", [FULL, FULL_OPEN], ids=["closed", "open"])
def test_a_reset_leaves_the_last_error_alone(circuit):
    policy = replace(POLICY, ramp_up=100)
    after, event = order(
        replace(circuit, override=given(Mode.FORCED_OPEN)), CommandKind.RESET, policy
    )
    assert after == Circuit(epoch=NOW, since=NOW, actor="eve", reason="so", **ERROR)
    seen = SEEN if circuit is FULL else {}
    assert event == told(OPEN, CLOSED, Mode.AUTO, "reset", actor="eve", reason="so", **seen)


@pytest.mark.parametrize("kind", list(CommandKind))
def test_texts_from_outside_are_cut(kind):
    before = replace(FULL, override=given(Mode.DISABLED))
    long = "x" * MAX_TEXT
    policy = replace(POLICY, initial_mode=Mode.DISABLED)
    result = core.command(before, Command(kind, None, long + "a", long + "r"), policy, NOW)
    assert result is not None
    after, (event,) = result
    assert (event.actor, event.reason) == (long, long)
    kept = after.override if kind in MODES or kind == CommandKind.ENABLE else after
    assert kept is not None
    assert (kept.actor, kept.reason) == (long, long)


# -- by itself ----------------------------------------------------------------------------------


def test_what_opens_it_leaves_nothing_counted():
    batch = Batch(
        5, (7, 3, 5), "New" * MAX_TEXT, retry_after=45 * SECOND, last_message="is" * MAX_TEXT
    )
    after, (event,) = core.record(FULL, batch, POLICY, NOW)
    error, message = ("New" * MAX_TEXT)[:MAX_TEXT], ("is" * MAX_TEXT)[:MAX_TEXT]
    assert after == replace(
        FULL,
        **NOTHING_COUNTED,
        epoch=NOW,
        state=OPEN,
        since=NOW,
        retry_at=NOW + 45 * SECOND,
        openings=1,
        trials=0,
        permits=(),
        actor="",
        reason=f"5 failures within 10 s, last {error}",
        last_error=error,
        last_message=message,
        last_error_at=NOW - 3,
    )
    assert event == told(
        CLOSED,
        OPEN,
        Mode.AUTO,
        "5 failures within 10 s",
        failures=5,
        calls=9,
        slow=4,
        last_error=error,
        last_message=message,
    )


def test_a_circuit_that_has_no_error_to_tell_of_says_what_opened_it():
    circuit = replace(FULL, last_error="")
    after, _ = core.record(circuit, Batch(5, (0, 0, 0)), POLICY, NOW)
    assert (after.reason, after.last_error) == ("5 failures within 10 s", "")


def test_what_opens_nothing_is_counted_and_no_more():
    batch = Batch(
        5, (SECOND, -SECOND), "New", (Slice(NOW, 3, 2, 1),), origin="two", last_message="is"
    )
    after, events = core.record(FULL, batch, replace(POLICY, quorum=3), NOW)
    assert events == ()
    assert after == replace(
        FULL,
        failures=(NOW - 2 * SECOND, NOW - SECOND, NOW - SECOND, NOW),
        slices=(Slice(NOW - SECOND, 9, 3, 4), Slice(NOW, 3, 2, 1)),
        witnesses=(Witness("one", NOW - SECOND), Witness("two", NOW)),
        last_error="New",
        last_message="is",
        last_error_at=NOW,
    )


def test_calls_without_a_failure_leave_the_last_error():
    after, _ = core.record(FULL, Batch(5, (), "", (Slice(NOW, 3),)), POLICY, NOW)
    assert after == replace(FULL, slices=(*FULL.slices, Slice(NOW, 3)))


def test_the_first_permit_is_told_of_and_fixed():
    before = replace(FULL_OPEN, trials=0, permits=())
    after, grant, events = core.acquire(before, 5, "new", POLICY, NOW)
    assert grant == Grant(True)
    assert after == replace(before, trials=1, permits=(Permit("new", NOW + 7 * SECOND),))
    assert events == (replace(told(OPEN, HALF_OPEN, Mode.AUTO, "first trial"), epoch=5),)


def test_a_permit_more_is_told_to_nobody():
    after, grant, events = core.acquire(FULL_OPEN, 5, "new", POLICY, NOW)
    assert (grant, events) == (Grant(True), ())
    assert after == replace(
        FULL_OPEN, trials=7, permits=(*FULL_OPEN.permits, Permit("new", NOW + 7 * SECOND))
    )


def test_without_a_permit_left_it_says_when_the_next_lease_ends():
    permits = (Permit("a", NOW + 5), Permit("b", NOW + 3), Permit("over", NOW))
    circuit = replace(FULL_OPEN, permits=permits)
    assert core.acquire(circuit, 5, "new", POLICY, NOW) == (circuit, Grant(False, 3), ())


def test_before_its_time_it_says_how_long():
    circuit = replace(FULL_OPEN, retry_at=NOW + 1)
    assert core.acquire(circuit, 5, "new", POLICY, NOW) == (circuit, Grant(False, 1), ())


def test_an_ignored_trial_gives_back_its_permit():
    after, events = core.report(FULL_OPEN, 5, "old", Outcome.IGNORED, POLICY, NOW, "New")
    assert (after, events) == (replace(FULL_OPEN, permits=()), ())


def test_a_failed_trial_is_one_opening_more():
    override = given(Mode.METRICS_ONLY, None, Circuit(epoch=1))
    before = replace(FULL_OPEN, override=override)
    after, (event,) = core.report(before, 5, "old", Outcome.FAILURE, POLICY, NOW, "New", 0, "is")
    assert after == replace(
        before,
        **NOTHING_COUNTED,
        epoch=NOW,
        retry_at=NOW + 120 * SECOND,
        openings=3,
        trials=0,
        permits=(),
        actor="",
        reason="a trial failed, last New",
        last_error="New",
        last_message="is",
        last_error_at=NOW,
    )
    assert event == told(
        HALF_OPEN,
        OPEN,
        Mode.METRICS_ONLY,
        "a trial failed",
        last_error="New",
        last_message="is",
    )


def test_a_failed_trial_that_says_nothing_asks_for_nothing():
    after, _ = core.report(FULL_OPEN, 5, "old", Outcome.FAILURE, POLICY, NOW)
    assert (after.last_error, after.last_message) == ("", "")
    assert after.retry_at == NOW + 120 * SECOND


def test_jitter_is_spread_evenly_over_the_times_of_openings():
    policy = replace(POLICY, recovery_timeout=65.536, recovery_jitter=1)
    waits = sorted(core._wait(policy, 1, 0, epoch) for epoch in range(65_536, 131_072))
    assert waits == [65_536_000 + 1000 * step for step in range(65_536)]


def test_a_success_that_is_not_enough_is_counted():
    more = replace(POLICY, success_threshold=3)
    after, events = core.report(FULL_OPEN, 5, "old", Outcome.SUCCESS, more, NOW)
    assert (after, events) == (replace(FULL_OPEN, permits=(), trial_successes=2), ())


@pytest.mark.parametrize("ramp_up", [0, 9])
def test_the_last_success_closes_it_and_the_mode_stays(ramp_up):
    override = given(Mode.METRICS_ONLY, None, Circuit(epoch=1))
    policy = replace(POLICY, ramp_up=ramp_up)
    before = replace(FULL_OPEN, override=override)
    after, (event,) = core.report(before, 5, "old", Outcome.SUCCESS, policy, NOW)
    assert after == Circuit(
        epoch=NOW,
        since=NOW,
        openings=2 if ramp_up else 0,
        spared=4,
        override=override,
        reason="2 trials succeeded",
        **ERROR,
    )
    assert event == told(HALF_OPEN, CLOSED, Mode.METRICS_ONLY, "2 trials succeeded")


def test_one_success_is_told_as_one():
    policy = replace(POLICY, success_threshold=1)
    before = replace(FULL_OPEN, trial_successes=0)
    after, (event,) = core.report(before, 5, "old", Outcome.SUCCESS, policy, NOW)
    assert (after.reason, event.cause) == ("a trial succeeded",) * 2


# -- what is seen -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "seen"),
    [
        (given(Mode.FORCED_OPEN), Effective(OPEN, Mode.FORCED_OPEN, None)),
        (given(Mode.FORCED_OPEN, NOW + 7), Effective(OPEN, Mode.FORCED_OPEN, 7)),
        (given(Mode.FORCED_OPEN, NOW), Effective(HALF_OPEN, Mode.AUTO, 0)),
        (given(Mode.DISABLED), Effective(CLOSED, Mode.DISABLED, 0)),
        (given(Mode.METRICS_ONLY), Effective(CLOSED, Mode.METRICS_ONLY, 0)),
        (given(Mode.AUTO), Effective(HALF_OPEN, Mode.AUTO, 0)),
    ],
)
def test_a_mode_is_what_is_seen(override, seen):
    assert core.effective(replace(FULL_OPEN, override=override), POLICY, NOW) == seen


def test_a_wait_is_seen_to_the_microsecond():
    circuit = replace(FULL_OPEN, retry_at=NOW + 1)
    assert core.effective(circuit, POLICY, NOW) == Effective(OPEN, Mode.AUTO, 1)
    assert core.effective(circuit, POLICY, NOW + 1) == Effective(HALF_OPEN, Mode.AUTO, 0)


def test_no_wait_and_no_ramp_is_longer_than_the_policy_allows():
    late = replace(FULL_OPEN, retry_at=NOW + 301 * SECOND, since=NOW + 1)
    assert core.clamp(late, POLICY, NOW) == replace(late, retry_at=NOW + 300 * SECOND, since=NOW)
    right = replace(FULL_OPEN, retry_at=NOW + 300 * SECOND, since=NOW)
    assert core.clamp(right, POLICY, NOW) is right


@pytest.mark.parametrize(("ramp_up", "share"), [(1000, 0.1), (100, 0.5), (50, 1), (10, 1), (0, 1)])
def test_the_share_is_never_above_all_nor_below_a_tenth(ramp_up, share):
    assert core.share(FULL, replace(POLICY, ramp_up=ramp_up), NOW) == share


def test_an_epoch_is_the_time_or_one_more_than_the_last():
    assert core.next_epoch(Circuit(epoch=5), 9) == 9
    assert core.next_epoch(Circuit(epoch=5), 6) == 6
    assert core.next_epoch(Circuit(epoch=5), 5) == 6
    assert core.next_epoch(Circuit(epoch=5), 1) == 6
