"""Rates, rows, quorum, backoff, jitter, ramp-up and modes, as the shared record sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import (
    RAMP_FLOOR,
    Batch,
    Circuit,
    Command,
    CommandKind,
    Effective,
    Event,
    Grant,
    Override,
)
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import CircuitState, Mode, Outcome
from circuitbreaker_django.core.window import Slice

SECOND = 1_000_000
NOW = 1000 * SECOND
CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
NEW = Circuit(epoch=1)
POLICY = Policy(failure_threshold=2, failure_window=10, recovery_timeout=30)
RATE = Policy(failure_rate_threshold=0.5, minimum_calls=4, failure_window=10)


def failures(circuit: Circuit, number: int = 1, origin: str = "", **batch: Any) -> Batch:
    return Batch(circuit.epoch, (0,) * number, "Down", origin=origin, **batch)


def calls(circuit: Circuit, *slices: Slice, origin: str = "", patience: int = 0) -> Batch:
    return Batch(circuit.epoch, slices=slices, origin=origin, patience=patience)


def order(
    circuit: Circuit, kind: CommandKind, policy: Policy = POLICY, now: int = NOW, **fields: object
) -> tuple[Circuit, Event]:
    result = core.command(circuit, Command(kind, **fields), policy, now)  # type: ignore[arg-type] # of any kind
    assert result is not None
    after, (event,) = result
    return after, event


def opened(policy: Policy = POLICY, now: int = NOW) -> Circuit:
    return core.record(NEW, failures(NEW, 2), policy, now)[0]


def trial(circuit: Circuit, outcome: Outcome, policy: Policy, **asked: Any) -> Circuit:
    """One trial, as soon as it may be; the circuit after it."""
    now = circuit.retry_at
    circuit, grant, _ = core.acquire(circuit, circuit.epoch, "a", policy, now)
    assert grant.granted
    return core.report(circuit, circuit.epoch, "a", outcome, policy, now, **asked)[0]


# -- rates ------------------------------------------------------------------------------------


def test_a_rate_opens_it_also_when_the_last_call_was_a_success():
    circuit, events = core.record(NEW, calls(NEW, Slice(NOW, 3, 2)), RATE, NOW)
    assert (circuit.state, events) == (CLOSED, ())
    circuit, (event,) = core.record(circuit, calls(NEW, Slice(NOW, 1)), RATE, NOW)
    assert (circuit.state, event.cause) == (OPEN, "2 of 4 calls failed within 10 s")
    assert (event.calls, event.failures, event.slow) == (4, 2, 0)
    assert (circuit.slices, circuit.suspect_since) == ((), 0)


def test_a_rate_waits_until_the_others_had_the_time_to_tell_of_theirs():
    batch = calls(NEW, Slice(NOW, 9, 9), patience=SECOND)
    circuit, _ = core.record(NEW, batch, RATE, NOW)
    assert (circuit.state, circuit.suspect_since) == (CLOSED, NOW)
    nothing = calls(NEW, patience=SECOND)
    assert core.record(circuit, nothing, RATE, NOW + SECOND - 1)[0].state is CLOSED
    assert core.record(circuit, nothing, RATE, NOW + SECOND)[0].state is OPEN


def test_a_number_of_failures_does_not_wait():
    batch = replace(failures(NEW, 2), patience=SECOND)
    assert core.record(NEW, batch, POLICY, NOW)[0].state is OPEN


def test_it_is_suspect_while_somebody_s_failure_is_in_the_window():
    circuit, _ = core.record(NEW, calls(NEW, Slice(NOW, 9)), RATE, NOW)
    assert not core.is_suspect(circuit, RATE, NOW)
    circuit, _ = core.record(circuit, calls(NEW, Slice(NOW, 1, 0, 1)), RATE, NOW)
    assert core.is_suspect(circuit, RATE, NOW + 10 * SECOND - 1)
    assert not core.is_suspect(circuit, RATE, NOW + 10 * SECOND)


def test_suspicion_begins_once():
    circuit, _ = core.record(NEW, calls(NEW, Slice(NOW, 2, 1)), RATE, NOW)
    circuit, _ = core.record(circuit, calls(NEW, Slice(NOW, 2, 0)), RATE, NOW + SECOND)
    assert circuit.suspect_since == NOW


def test_without_a_rate_no_calls_are_kept():
    assert core.record(NEW, calls(NEW, Slice(NOW, 9, 9)), POLICY, NOW) == (NEW, ())


def test_a_row_of_failures_opens_it():
    policy = Policy(consecutive_failures=3)
    assert core.record(NEW, failures(NEW, streak=2), policy, NOW)[0].state is CLOSED
    circuit, (event,) = core.record(NEW, failures(NEW, streak=3), policy, NOW)
    assert (circuit.state, event.cause) == (OPEN, "3 failures in a row")


# -- quorum -----------------------------------------------------------------------------------


def test_one_alone_opens_nothing_where_a_quorum_is_asked_for():
    policy = replace(POLICY, quorum=2)
    circuit, events = core.record(NEW, failures(NEW, 9, "a"), policy, NOW)
    assert (circuit.state, events) == (CLOSED, ())
    circuit, _ = core.record(circuit, failures(NEW, 9, "a"), policy, NOW + SECOND)
    assert circuit.state is CLOSED
    circuit, _ = core.record(circuit, failures(NEW, 1, "b"), policy, NOW + SECOND)
    assert (circuit.state, circuit.witnesses) == (OPEN, ())


def test_a_witness_is_forgotten_with_what_it_has_seen():
    policy = replace(POLICY, quorum=2)
    for later, state in ((10 * SECOND - 1, OPEN), (10 * SECOND, CLOSED)):
        circuit, _ = core.record(NEW, failures(NEW, 1, "a"), policy, NOW)
        circuit, _ = core.record(circuit, failures(NEW, 2, "b"), policy, NOW + later)
        assert circuit.state is state


def test_slow_calls_make_a_witness_and_successes_none():
    policy = Policy(slow_call_duration=1, minimum_calls=2, quorum=2, slow_call_rate_threshold=0.5)
    circuit, _ = core.record(NEW, calls(NEW, Slice(NOW, 2, 0, 2), origin="a"), policy, NOW)
    circuit, _ = core.record(circuit, calls(NEW, Slice(NOW, 1), origin="b"), policy, NOW)
    assert circuit.state is CLOSED
    circuit, _ = core.record(circuit, calls(NEW, Slice(NOW, 1, 0, 1), origin="b"), policy, NOW)
    assert circuit.state is OPEN


def test_no_more_witnesses_are_kept_than_a_quorum_needs():
    policy = replace(POLICY, quorum=3, failure_threshold=1000)
    circuit = NEW
    for number in range(10):
        batch = failures(NEW, 1, f"{number}")
        circuit, _ = core.record(circuit, batch, policy, NOW + number)
    assert [witness.origin for witness in circuit.witnesses] == ["7", "8", "9"]


# -- how long it stays open ---------------------------------------------------------------------


def wait_of(circuit: Circuit) -> float:
    return (circuit.retry_at - circuit.epoch) / SECOND


def test_each_opening_in_a_row_multiplies_the_wait_up_to_the_longest():
    policy = replace(POLICY, recovery_backoff=2, recovery_timeout_max=100)
    circuit, waits = opened(policy), []
    for _ in range(4):
        waits.append(wait_of(circuit))
        circuit = trial(circuit, Outcome.FAILURE, policy)
    assert waits == [30, 60, 100, 100]


def test_the_backoff_begins_anew_after_a_recovery():
    policy = replace(POLICY, recovery_backoff=2)
    circuit = trial(trial(opened(policy), Outcome.FAILURE, policy), Outcome.SUCCESS, policy)
    circuit, _ = core.record(circuit, failures(circuit, 2), policy, circuit.epoch)
    assert circuit.openings == 1


@pytest.mark.parametrize("backoff", [1.0001, 2, 100])
def test_the_backoff_saturates(backoff):
    policy = replace(POLICY, recovery_backoff=backoff, recovery_timeout_max=90)
    circuit = replace(opened(policy), openings=10**6)
    assert wait_of(trial(circuit, Outcome.FAILURE, policy)) == 90


def test_a_failing_answer_may_ask_for_a_longer_wait_but_not_for_ever():
    policy = replace(POLICY, recovery_timeout_max=100)
    for asked, wait in ((10, 30), (50, 50), (10**6, 100)):
        circuit, _ = core.record(NEW, failures(NEW, 2, retry_after=asked * SECOND), policy, NOW)
        assert wait_of(circuit) == wait
        again = trial(circuit, Outcome.FAILURE, policy, retry_after=asked * SECOND)
        assert wait_of(again) == wait


def test_jitter_lengthens_a_wait_by_a_share_that_nobody_foresees():
    policy = replace(POLICY, recovery_jitter=0.5)
    waits = [wait_of(opened(policy, NOW + number)) for number in range(100)]
    assert all(30 <= wait < 45 for wait in waits)
    assert len(set(waits)) > 90
    assert max(waits) > 42
    assert min(waits) < 33


# -- ramp-up ----------------------------------------------------------------------------------

RAMP = replace(POLICY, ramp_up=100, recovery_backoff=2)


def test_after_a_recovery_a_growing_share_is_admitted():
    circuit = trial(opened(RAMP), Outcome.SUCCESS, RAMP)
    since = circuit.since
    assert core.effective(circuit, RAMP, since) == Effective(CLOSED, Mode.AUTO, 0)
    assert core.share(circuit, RAMP, since) == RAMP_FLOOR
    assert core.share(circuit, RAMP, since + 50 * SECOND) == 0.5
    assert core.share(circuit, RAMP, since + 100 * SECOND) == 1
    assert core.share(circuit, POLICY, since) == 1
    assert core.share(opened(RAMP), RAMP, NOW) == 1


def test_a_relapse_while_it_ramps_up_is_one_opening_more():
    circuit = trial(opened(RAMP), Outcome.SUCCESS, RAMP)
    now = circuit.since + 100 * SECOND - 1
    again, (event,) = core.record(circuit, failures(circuit), RAMP, now)
    assert (again.state, again.openings, wait_of(again)) == (OPEN, 2, 60)
    assert event.cause == "a relapse while it ramped up"
    assert core.record(circuit, failures(circuit), RAMP, now + 1)[0].state is CLOSED


def test_a_slow_call_is_a_relapse_and_a_success_is_none():
    policy = replace(RAMP, slow_call_duration=1)
    circuit = trial(opened(policy), Outcome.SUCCESS, policy)
    now = circuit.since
    assert core.record(circuit, calls(circuit, Slice(now, 9)), policy, now)[0].state is CLOSED
    slow = calls(circuit, Slice(now, 1, 0, 1))
    assert core.record(circuit, slow, policy, now)[0].state is OPEN


def test_what_was_never_open_or_was_reset_does_not_ramp_up():
    assert core.share(NEW, RAMP, NOW) == 1
    circuit, _ = order(trial(opened(RAMP), Outcome.SUCCESS, RAMP), CommandKind.RESET, RAMP)
    assert core.share(circuit, RAMP, NOW) == 1


def test_what_closed_in_the_future_begins_to_ramp_up_now():
    circuit = trial(opened(RAMP), Outcome.SUCCESS, RAMP)
    circuit = core.clamp(replace(circuit, since=NOW + 10**15), RAMP, NOW)
    assert circuit.since == NOW


# -- modes ------------------------------------------------------------------------------------


def test_while_it_is_disabled_nothing_counts_and_nothing_is_lost():
    before, _ = core.record(NEW, failures(NEW), POLICY, NOW)
    circuit, event = order(before, CommandKind.DISABLE, actor="ann", reason="noise")
    assert core.effective(circuit, POLICY, NOW) == Effective(CLOSED, Mode.DISABLED, 0)
    assert (event.cause, event.mode, event.actor, event.reason) == (
        "disable",
        Mode.DISABLED,
        "ann",
        "noise",
    )
    assert core.record(circuit, failures(circuit, 9), POLICY, NOW) == (circuit, ())
    after, event = order(circuit, CommandKind.ENABLE, now=NOW + SECOND)
    assert (after.override, after.failures, event.mode) == (None, before.failures, Mode.AUTO)
    assert core.record(after, failures(after), POLICY, NOW + SECOND)[0].state is OPEN


def test_a_disabled_circuit_lets_pass_though_it_is_open_and_is_open_again_afterwards():
    circuit, _ = order(opened(), CommandKind.DISABLE, duration=5 * SECOND)
    assert core.effective(circuit, POLICY, NOW).state is CLOSED
    assert core.acquire(circuit, circuit.epoch, "a", POLICY, NOW + 4 * SECOND)[1] == Grant(False)
    seen = core.effective(circuit, POLICY, NOW + 5 * SECOND)
    assert seen == Effective(OPEN, Mode.AUTO, 25 * SECOND)


def test_metrics_only_opens_and_recovers_on_paper():
    circuit, event = order(NEW, CommandKind.METRICS_ONLY)
    assert (event.before, event.after, event.mode) == (CLOSED, CLOSED, Mode.METRICS_ONLY)
    circuit, (event,) = core.record(circuit, failures(circuit, 2), POLICY, NOW + SECOND)
    assert (event.before, event.after, event.mode) == (CLOSED, OPEN, Mode.METRICS_ONLY)
    assert core.effective(circuit, POLICY, NOW + SECOND).state is CLOSED
    assert core.automatic(circuit, POLICY, NOW + SECOND).state is OPEN
    circuit = trial(circuit, Outcome.SUCCESS, POLICY)
    assert core.automatic(circuit, POLICY, NOW).state is CLOSED
    assert core.mode_of(circuit, POLICY) is Mode.METRICS_ONLY


def test_what_happened_on_paper_is_thrown_away_and_what_was_before_comes_back():
    before = opened()
    circuit, _ = order(before, CommandKind.METRICS_ONLY)
    circuit, _ = core.record(circuit, failures(circuit, 2), POLICY, NOW + SECOND)
    after, event = order(circuit, CommandKind.ENABLE, now=NOW + 2 * SECOND)
    assert after == replace(before, epoch=NOW + 2 * SECOND)
    assert (event.before, event.after, event.mode) == (CLOSED, OPEN, Mode.AUTO)


def test_metrics_only_ends_by_itself_with_an_epoch_of_its_own():
    circuit, _ = order(NEW, CommandKind.METRICS_ONLY, duration=SECOND)
    circuit, _ = core.record(circuit, failures(circuit), POLICY, NOW)
    settled = core.settle(circuit, NOW + 5 * SECOND)
    assert settled == replace(NEW, epoch=circuit.epoch + 1)
    late = core.record(circuit, failures(circuit, 9), POLICY, NOW + SECOND)
    assert late == (settled, ())


def test_the_epoch_after_a_mode_that_ended_by_itself_is_the_same_by_every_clock():
    circuit, _ = order(NEW, CommandKind.METRICS_ONLY, duration=SECOND)
    override = circuit.override
    assert override is not None
    other_clock = replace(circuit, override=replace(override, until=5))
    assert core.settle(other_clock, 5).epoch == core.settle(circuit, NOW + SECOND).epoch


def test_metrics_only_begun_again_begins_from_what_was_set_aside():
    before = opened()
    circuit, _ = order(before, CommandKind.METRICS_ONLY)
    circuit, _ = core.record(circuit, failures(circuit), POLICY, NOW)
    for kind in (CommandKind.METRICS_ONLY, CommandKind.DISABLE, CommandKind.HOLD):
        other, _ = order(circuit, kind, now=NOW + SECOND)
        after, _ = order(other, CommandKind.ENABLE, now=NOW + 2 * SECOND)
        assert after.state is OPEN
        assert after.since == before.since


def test_calls_that_would_have_been_rejected_are_counted_on_paper_only():
    circuit, _ = order(NEW, CommandKind.METRICS_ONLY)
    paper = core.paper(circuit)
    circuit, _ = core.record(circuit, Batch(1, spared=3, paper=paper), POLICY, NOW)
    circuit, _ = core.record(circuit, Batch(circuit.epoch, spared=2, paper=paper), POLICY, NOW)
    assert circuit.spared == 5
    circuit, _ = core.record(circuit, failures(circuit, 2), POLICY, NOW)
    circuit = trial(circuit, Outcome.SUCCESS, POLICY)
    assert circuit.spared == 5
    assert core.record(NEW, Batch(1, spared=3), POLICY, NOW) == (NEW, ())
    assert order(circuit, CommandKind.RESET)[0].spared == 0


def test_what_was_counted_on_one_paper_is_not_counted_on_another():
    on_paper = replace(POLICY, initial_mode="metrics_only")
    first, _ = order(NEW, CommandKind.METRICS_ONLY)
    late = Batch(first.epoch, spared=3, paper=core.paper(first))
    second, _ = order(first, CommandKind.METRICS_ONLY)
    assert core.record(second, late, on_paper, NOW)[0].spared == 0
    assert core.record(NEW, late, on_paper, NOW)[0].spared == 0
    assert core.record(NEW, replace(late, paper=0), on_paper, NOW)[0].spared == 3


def test_a_hold_that_is_ended_leaves_it_half_open():
    circuit, _ = order(NEW, CommandKind.HOLD)
    circuit, event = order(circuit, CommandKind.ENABLE, now=NOW + SECOND)
    assert (event.before, event.after) == (OPEN, HALF_OPEN)
    assert core.effective(circuit, POLICY, NOW + SECOND).state is HALF_OPEN


def test_there_is_nothing_to_end_without_a_mode():
    assert core.command(NEW, Command(CommandKind.ENABLE), POLICY, NOW) == (NEW, ())


def test_a_trip_ends_no_mode():
    circuit, _ = order(NEW, CommandKind.DISABLE)
    circuit, event = order(circuit, CommandKind.TRIP)
    assert (circuit.state, event.after, event.mode) == (OPEN, CLOSED, Mode.DISABLED)


@pytest.mark.parametrize("mode", [Mode.DISABLED, Mode.METRICS_ONLY])
def test_a_circuit_that_nobody_gave_a_mode_is_in_the_one_of_the_policy(mode):
    policy = replace(POLICY, initial_mode=mode)
    assert core.effective(NEW, policy, NOW) == Effective(CLOSED, mode, 0)
    counted, _ = core.record(NEW, failures(NEW, 2), policy, NOW)
    assert (counted.state is OPEN) == (mode is Mode.METRICS_ONLY)
    enabled, event = order(counted, CommandKind.ENABLE, policy, actor="ann", reason="go")
    assert core.effective(enabled, policy, NOW) == Effective(CLOSED, Mode.AUTO, 0)
    assert enabled.override == Override(Mode.AUTO, enabled.epoch, NOW, None, "ann", "go")
    assert enabled.state is CLOSED
    assert (event.mode, event.actor) == (Mode.AUTO, "ann")
    tripped, _ = core.record(enabled, failures(enabled, 2), policy, NOW)
    assert core.effective(tripped, policy, NOW).state is OPEN
    closed = trial(tripped, Outcome.SUCCESS, policy)
    assert core.mode_of(closed, policy) is Mode.AUTO
    reset, _ = order(closed, CommandKind.RESET, policy)
    assert core.mode_of(reset, policy) is mode


def test_a_circuit_may_begin_held_and_then_a_trial_comes_first():
    policy = replace(POLICY, initial_mode="forced_open")
    assert core.effective(NEW, policy, NOW) == Effective(OPEN, Mode.FORCED_OPEN, None)
    circuit, event = order(NEW, CommandKind.ENABLE, policy)
    assert core.effective(circuit, policy, NOW) == Effective(HALF_OPEN, Mode.AUTO, 0)
    assert (event.before, event.after, circuit.since) == (OPEN, HALF_OPEN, NOW)
    assert circuit.actor == ""  # nobody held it


def test_a_mode_of_an_operator_ends_in_the_one_of_the_policy():
    policy = replace(POLICY, initial_mode="metrics_only")
    circuit, _ = order(NEW, CommandKind.DISABLE, policy, duration=SECOND)
    assert core.mode_of(core.settle(circuit, NOW), policy) is Mode.DISABLED
    assert core.mode_of(core.settle(circuit, NOW + SECOND), policy) is Mode.METRICS_ONLY
    after, _ = order(circuit, CommandKind.ENABLE, policy)
    assert core.mode_of(after, policy) is Mode.AUTO


# -- nothing counts any more ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("circuit", "policy", "until"),
    [
        (NEW, POLICY, NOW),
        (core.record(NEW, failures(NEW), POLICY, NOW)[0], POLICY, NOW + 10 * SECOND),
        (core.record(NEW, calls(NEW, Slice(NOW, 1, 1)), RATE, NOW)[0], RATE, NOW + 10 * SECOND),
        (core.record(NEW, calls(NEW, Slice(NOW, 1, 0, 1)), RATE, NOW)[0], RATE, NOW + 10 * SECOND),
        (core.record(NEW, calls(NEW, Slice(NOW, 9)), RATE, NOW)[0], RATE, NOW),
        (replace(NEW, since=NOW, openings=1), replace(POLICY, ramp_up=20), NOW + 20 * SECOND),
        (replace(NEW, since=NOW, openings=1, last_error="Down", reason="x"), POLICY, NOW),
        (
            order(NEW, CommandKind.DISABLE, POLICY, duration=SECOND)[0],
            POLICY,
            NOW + SECOND,
        ),
    ],
    ids=["new", "failure", "rate", "slow", "successes", "ramp-up", "closed again", "mode"],
)
def test_a_circuit_is_blank_from_the_moment_on_that_nothing_counts(circuit, policy, until):
    assert core.is_blank(circuit, policy, until)
    assert until == NOW or not core.is_blank(circuit, policy, until - 1)


@pytest.mark.parametrize("kind", set(CommandKind) - {CommandKind.RESET, CommandKind.ENABLE})
def test_what_is_open_or_in_a_mode_is_not_blank(kind):
    circuit, _ = order(NEW, kind, POLICY)
    assert not core.is_blank(circuit, POLICY, NOW + 10**6 * SECOND)


def test_what_is_open_when_its_hold_is_over_is_not_blank():
    circuit, _ = order(NEW, CommandKind.HOLD, POLICY, duration=SECOND)
    assert not core.is_blank(circuit, POLICY, NOW + 2 * SECOND)
