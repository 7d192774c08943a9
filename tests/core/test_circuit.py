from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import (
    MAX_PERMITS,
    MAX_TEXT,
    Batch,
    Circuit,
    Command,
    CommandKind,
    Effective,
    Event,
    Grant,
    Override,
    Permit,
)
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import CircuitState, Mode, Outcome
from circuitbreaker_django.core.window import Slice

SECOND = 1_000_000
NOW = 1000 * SECOND
CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
POLICY = Policy(failure_threshold=2, failure_window=10, recovery_timeout=30, trial_timeout=60)
NEW = Circuit(epoch=1)


def command(
    circuit: Circuit, kind: CommandKind, now: int = NOW, **options: Any
) -> tuple[Circuit, Event]:
    result = core.command(circuit, Command(kind, **options), POLICY, now)
    assert result is not None
    circuit, (event,) = result
    return circuit, event


def opened(now: int = NOW, policy: Policy = POLICY) -> Circuit:
    failures = (0,) * (policy.failure_threshold or 0)
    circuit, _ = core.record(NEW, Batch(1, failures, "Down"), policy, now)
    assert circuit.state is OPEN
    return circuit


def with_trial(token: str = "a", policy: Policy = POLICY) -> Circuit:
    """A circuit that has been half-open for no time, with one trial under way."""
    circuit = opened(NOW - 30 * SECOND, policy)
    circuit, grant, _ = core.acquire(circuit, circuit.epoch, token, policy, NOW)
    assert grant == Grant(True)
    return circuit


def held(now: int = NOW, circuit: Circuit = NEW, **options: object) -> Circuit:
    return command(circuit, CommandKind.HOLD, now, **options)[0]


# -- counting ---------------------------------------------------------------------------------


def test_failures_below_the_threshold_are_counted_and_leave_it_closed():
    batch = Batch(1, (3 * SECOND,), "Down", last_message="refused")
    circuit, events = core.record(NEW, batch, POLICY, NOW)
    then = NOW - 3 * SECOND
    assert events == ()
    assert circuit == replace(
        NEW, failures=(then,), last_error="Down", last_message="refused", last_error_at=then
    )


def test_the_threshold_opens_it_with_a_new_epoch_and_says_why():
    circuit, _ = core.record(NEW, Batch(1, (0,), "Down"), POLICY, NOW)
    batch = Batch(1, (0,), "Gone", last_message="404")
    circuit, (event,) = core.record(circuit, batch, POLICY, NOW + SECOND)
    assert circuit == Circuit(
        epoch=NOW + SECOND,
        state=OPEN,
        since=NOW + SECOND,
        retry_at=NOW + 31 * SECOND,
        openings=1,
        reason="2 failures within 10 s, last Gone",
        last_error="Gone",
        last_message="404",
        last_error_at=NOW + SECOND,
    )
    assert (event.epoch, event.at) == (NOW + SECOND, NOW + SECOND)
    assert (event.before, event.after, event.mode) == (CLOSED, OPEN, Mode.AUTO)
    assert (event.cause, event.failures) == ("2 failures within 10 s", 2)
    assert (event.last_error, event.last_message) == ("Gone", "404")


def test_one_failure_is_told_in_the_singular_and_without_an_error_that_has_no_name():
    circuit, (event,) = core.record(NEW, Batch(1, (0,)), Policy(failure_threshold=1), NOW)
    assert circuit.reason == event.cause == "1 failure within 60 s"


@pytest.mark.parametrize(
    ("ages", "state"),
    [
        ((10 * SECOND - 1, 0), OPEN),
        ((10 * SECOND, 0), CLOSED),
    ],
)
def test_the_edge_of_the_window_is_exact(ages, state):
    circuit, _ = core.record(NEW, Batch(1, ages), POLICY, NOW)
    assert circuit.state is state


def test_no_failure_is_of_the_future():
    circuit, _ = core.record(NEW, Batch(1, (-5,)), POLICY, NOW)
    assert circuit.failures == (NOW,)


def test_no_failures_change_nothing():
    assert core.record(NEW, Batch(1, ()), POLICY, NOW) == (NEW, ())


@pytest.mark.parametrize(
    "circuit", [NEW, opened(NOW), with_trial(), held(), replace(held(), state=OPEN)]
)
def test_failures_of_another_epoch_change_nothing(circuit):
    batch = Batch(circuit.epoch - 1, (0, 0, 0), "Down")
    assert core.record(circuit, batch, POLICY, NOW) == (circuit, ())


@pytest.mark.parametrize("circuit", [opened(NOW), with_trial(), held(), held(duration=SECOND)])
def test_failures_of_a_circuit_that_is_not_closed_change_nothing(circuit):
    batch = Batch(circuit.epoch, (0, 0, 0), "Down")
    assert core.record(circuit, batch, POLICY, NOW) == (circuit, ())


# -- trials -----------------------------------------------------------------------------------


def test_no_permit_before_the_wait_is_over():
    circuit = opened(NOW)
    almost = NOW + 30 * SECOND - 1
    assert core.acquire(circuit, NOW, "a", POLICY, almost) == (circuit, Grant(False, 1), ())


def test_the_first_permit_of_an_epoch_is_told_and_the_second_is_not():
    policy = replace(POLICY, half_open_max_calls=2)
    circuit = opened(NOW)
    later = NOW + 30 * SECOND
    circuit, grant, (event,) = core.acquire(circuit, NOW, "a", policy, later)
    assert grant == Grant(True)
    assert circuit.permits == (Permit("a", later + 60 * SECOND),)
    assert (event.epoch, event.before, event.after) == (NOW, OPEN, HALF_OPEN)
    circuit, grant, events = core.acquire(circuit, NOW, "b", policy, later)
    assert (grant, events) == (Grant(True), ())
    assert circuit.trials == 2


def test_a_denied_attempt_changes_nothing_and_says_when_the_first_lease_ends():
    circuit = with_trial()
    later = NOW + 20 * SECOND
    assert core.acquire(circuit, circuit.epoch, "b", POLICY, later) == (
        circuit,
        Grant(False, 40 * SECOND),
        (),
    )


def test_the_same_token_is_granted_once_and_not_prolonged():
    circuit = with_trial("a")
    again = core.acquire(circuit, circuit.epoch, "a", POLICY, NOW + SECOND)
    assert again == (circuit, Grant(True), ())


def test_a_lease_that_has_run_out_makes_room_for_another():
    circuit = with_trial("a")
    end = NOW + 60 * SECOND
    _, grant, _ = core.acquire(circuit, circuit.epoch, "b", POLICY, end - 1)
    assert grant == Grant(False, 1)
    circuit, grant, events = core.acquire(circuit, circuit.epoch, "b", POLICY, end)
    assert (grant, events) == (Grant(True), ())
    assert [permit.token for permit in circuit.permits] == ["a", "b"]


def test_another_process_s_settings_neither_prolong_nor_shorten_a_lease():
    circuit = with_trial("a")
    other = replace(POLICY, trial_timeout=1)
    _, grant, _ = core.acquire(circuit, circuit.epoch, "b", other, NOW + 2 * SECOND)
    assert grant == Grant(False, 58 * SECOND)


def test_a_lease_longer_than_any_can_be_holds_nobody_up():
    circuit = replace(with_trial(), permits=(Permit("garbage", 10**18),))
    _, grant, _ = core.acquire(circuit, circuit.epoch, "b", POLICY, NOW)
    assert grant == Grant(True)


def test_a_lease_of_the_longest_duration_is_kept():
    policy = replace(POLICY, trial_timeout=3600)
    circuit = with_trial("a", policy)
    _, grant, _ = core.acquire(circuit, circuit.epoch, "b", policy, NOW)
    assert grant == Grant(False, 3600 * SECOND)


def test_trials_that_never_end_are_remembered_in_bounded_memory_the_live_ones_longest():
    circuit = with_trial("long", replace(POLICY, trial_timeout=3600))
    policy = replace(POLICY, trial_timeout=1e-6, half_open_max_calls=2)
    for number in range(MAX_PERMITS + 10):
        now = NOW + number
        circuit, grant, _ = core.acquire(circuit, circuit.epoch, f"{number}", policy, now)
        assert grant.granted
    assert len(circuit.permits) == MAX_PERMITS
    tokens = {permit.token for permit in circuit.permits}
    assert {"long", f"{MAX_PERMITS + 9}"} <= tokens
    assert "0" not in tokens


@pytest.mark.parametrize(
    "circuit",
    [NEW, held(), held(duration=SECOND), held(NOW, with_trial()), held(NOW, opened(1), duration=1)],
)
def test_no_permit_for_a_circuit_that_is_closed_or_held(circuit):
    assert core.acquire(circuit, circuit.epoch, "a", POLICY, NOW) == (circuit, Grant(False), ())


def test_no_permit_for_another_epoch():
    circuit = with_trial()
    stale = core.acquire(circuit, circuit.epoch - 1, "b", POLICY, NOW)
    assert stale == (circuit, Grant(False), ())


def test_a_wait_longer_than_the_policy_allows_is_shortened_and_kept_so():
    circuit = replace(opened(NOW), retry_at=NOW + 10**15)
    assert core.effective(circuit, POLICY, NOW).wait == 300 * SECOND
    circuit, grant, _ = core.acquire(circuit, circuit.epoch, "a", POLICY, NOW)
    assert grant == Grant(False, 300 * SECOND)
    _, grant, _ = core.acquire(circuit, circuit.epoch, "a", POLICY, NOW + 300 * SECOND)
    assert grant == Grant(True)


def test_a_successful_trial_closes_it_and_clears_everything():
    circuit = with_trial()
    closed, (event,) = core.report(
        circuit, circuit.epoch, "a", Outcome.SUCCESS, POLICY, NOW + SECOND
    )
    assert closed == Circuit(
        epoch=NOW + SECOND,
        since=NOW + SECOND,
        reason="a trial succeeded",
        last_error="Down",
        last_error_at=circuit.last_error_at,
    )
    assert (event.before, event.after, event.cause) == (HALF_OPEN, CLOSED, "a trial succeeded")
    assert (event.last_error, event.last_message) == ("", "")


def test_as_many_trials_as_the_success_threshold_must_succeed():
    policy = replace(POLICY, success_threshold=2)
    circuit = with_trial("a", policy)
    epoch = circuit.epoch
    circuit, events = core.report(circuit, epoch, "a", Outcome.SUCCESS, policy, NOW)
    assert (circuit.epoch, circuit.trial_successes, circuit.permits, events) == (epoch, 1, (), ())
    circuit, _, events = core.acquire(circuit, epoch, "b", policy, NOW)
    assert events == ()
    circuit, (event,) = core.report(circuit, epoch, "b", Outcome.SUCCESS, policy, NOW)
    assert (circuit.state, event.cause) == (CLOSED, "2 trials succeeded")


def test_a_failed_trial_opens_it_again_and_forgets_the_successes():
    policy = replace(POLICY, success_threshold=2)
    circuit = with_trial("a", policy)
    epoch = circuit.epoch
    circuit, _ = core.report(circuit, epoch, "a", Outcome.SUCCESS, policy, NOW)
    circuit, _, _ = core.acquire(circuit, epoch, "b", policy, NOW)
    since = circuit.since
    circuit, (event,) = core.report(
        circuit, epoch, "b", Outcome.FAILURE, policy, NOW, "Gone", last_message="404"
    )
    assert circuit == Circuit(
        epoch=NOW,
        state=OPEN,
        since=since,
        retry_at=NOW + 30 * SECOND,
        openings=2,
        reason="a trial failed, last Gone",
        last_error="Gone",
        last_message="404",
        last_error_at=NOW,
    )
    assert (event.before, event.after) == (HALF_OPEN, OPEN)
    assert (event.cause, event.last_error) == ("a trial failed", "Gone")
    assert event.last_message == "404"


def test_a_neutral_trial_gives_its_permit_back_and_counts_as_nothing():
    circuit = with_trial()
    after, events = core.report(circuit, circuit.epoch, "a", Outcome.IGNORED, POLICY, NOW)
    assert after == replace(circuit, permits=())
    assert events == ()


@pytest.mark.parametrize("outcome", Outcome)
def test_a_token_reports_once(outcome):
    policy = replace(POLICY, success_threshold=9)
    circuit = with_trial("a", policy)
    after, _ = core.report(circuit, circuit.epoch, "a", outcome, policy, NOW)
    assert core.report(after, after.epoch, "a", outcome, policy, NOW) == (after, ())


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize(("epoch", "token"), [(0, "never"), (-1, "a"), (1, "a")])
def test_a_token_never_granted_or_of_another_epoch_changes_nothing(outcome, epoch, token):
    circuit = with_trial("a")
    after = core.report(circuit, circuit.epoch + epoch, token, outcome, POLICY, NOW)
    assert after == (circuit, ())


@pytest.mark.parametrize(("outcome", "state"), [(Outcome.SUCCESS, CLOSED), (Outcome.FAILURE, OPEN)])
def test_a_report_after_its_lease_counts_within_its_epoch(outcome, state):
    circuit = with_trial("a")
    late = NOW + 600 * SECOND
    circuit, _, _ = core.acquire(circuit, circuit.epoch, "b", POLICY, late)
    circuit, (event,) = core.report(circuit, circuit.epoch, "a", outcome, POLICY, late)
    assert (circuit.state, event.after) == (state, state)


def test_openings_count_on_without_end():
    circuit = replace(with_trial(), openings=10**6)
    circuit, _ = core.report(circuit, circuit.epoch, "a", Outcome.FAILURE, POLICY, NOW)
    assert circuit.openings == 10**6 + 1
    assert circuit.retry_at == NOW + 30 * SECOND


# -- commands ---------------------------------------------------------------------------------


def test_trip_opens_as_failures_would_and_says_who():
    circuit, _ = core.record(NEW, Batch(1, (0,), "Down"), POLICY, NOW)
    circuit, event = command(circuit, CommandKind.TRIP, actor="ann", reason="upgrade")
    assert circuit == Circuit(
        epoch=NOW,
        state=OPEN,
        since=NOW,
        retry_at=NOW + 30 * SECOND,
        openings=1,
        actor="ann",
        reason="upgrade",
        last_error="Down",
        last_error_at=NOW,
    )
    assert (event.before, event.after, event.mode) == (CLOSED, OPEN, Mode.AUTO)
    assert (event.cause, event.actor, event.reason) == ("trip", "ann", "upgrade")
    assert (event.failures, event.last_error) == (1, "")


def test_trip_of_an_open_circuit_restarts_its_time_and_is_no_opening_more():
    circuit, event = command(opened(NOW), CommandKind.TRIP, NOW + 20 * SECOND)
    assert (circuit.since, circuit.retry_at) == (NOW, NOW + 50 * SECOND)
    assert (circuit.epoch, circuit.openings) == (NOW + 20 * SECOND, 1)
    assert (event.before, event.after) == (OPEN, OPEN)


#: What changes a circuit in no mode.
EFFECTIVE = [kind for kind in CommandKind if kind is not CommandKind.ENABLE]


@pytest.mark.parametrize("kind", EFFECTIVE)
def test_a_command_ends_the_trials_under_way(kind):
    circuit = with_trial("a")
    after, event = command(circuit, kind)
    assert event.before is HALF_OPEN
    assert after.epoch > circuit.epoch
    assert after.permits == ()
    late = core.report(after, circuit.epoch, "a", Outcome.SUCCESS, POLICY, NOW)
    assert late == (after, ())


def test_a_hold_lies_on_top_of_the_state_that_it_leaves_as_it_was():
    before, _ = core.record(NEW, Batch(1, (0,), "Down"), POLICY, NOW)
    circuit, event = command(before, CommandKind.HOLD, actor="ann", reason="upgrade")
    assert circuit == replace(
        before,
        epoch=NOW,
        override=Override(Mode.FORCED_OPEN, NOW, NOW, None, "ann", "upgrade"),
    )
    assert (event.before, event.after, event.mode) == (CLOSED, OPEN, Mode.FORCED_OPEN)
    assert (event.cause, event.actor, event.reason) == ("hold", "ann", "upgrade")


def test_a_hold_without_an_end_lasts():
    seen = core.effective(held(), POLICY, 10**17)
    assert seen == Effective(OPEN, Mode.FORCED_OPEN, None)


@pytest.mark.parametrize("before", [NEW, opened(NOW), with_trial()])
def test_a_hold_that_is_over_leaves_it_half_open(before):
    circuit = held(NOW, before, duration=10 * SECOND)
    end = NOW + 10 * SECOND
    assert core.effective(circuit, POLICY, end - 1) == Effective(OPEN, Mode.FORCED_OPEN, 1)
    assert core.effective(circuit, POLICY, end) == Effective(HALF_OPEN, Mode.AUTO, 0)
    after, grant, (event,) = core.acquire(circuit, circuit.epoch, "b", POLICY, end)
    assert grant == Grant(True)
    assert (event.before, event.after) == (OPEN, HALF_OPEN)
    assert (after.since, after.retry_at) == (before.since or NOW, end)
    assert after.openings == 1
    closed, _ = core.report(after, after.epoch, "b", Outcome.SUCCESS, POLICY, end)
    assert closed.state is CLOSED


def test_failures_from_before_a_hold_are_gone_when_it_is_over():
    before, _ = core.record(NEW, Batch(1, (0,)), POLICY, NOW)
    circuit = core.settle(held(NOW, before, duration=SECOND), NOW + SECOND)
    assert (circuit.failures, circuit.override, circuit.trial_successes) == ((), None, 0)


def test_a_hold_of_a_half_open_circuit_drops_the_trials_that_succeeded():
    circuit = replace(with_trial(), trial_successes=3)
    circuit = core.settle(held(NOW, circuit, duration=SECOND), NOW + SECOND)
    assert (circuit.state, circuit.trial_successes) == (OPEN, 0)


def test_a_trip_of_a_held_circuit_leaves_it_held():
    circuit, event = command(held(NOW - SECOND), CommandKind.TRIP)
    assert core.effective(circuit, POLICY, NOW) == Effective(OPEN, Mode.FORCED_OPEN, None)
    assert (circuit.epoch, circuit.state) == (NOW, OPEN)
    assert (event.before, event.after, event.mode) == (OPEN, OPEN, Mode.FORCED_OPEN)


def test_a_hold_replaces_a_hold():
    circuit = held(NOW, held(NOW - SECOND), duration=5 * SECOND, reason="shorter")
    assert core.effective(circuit, POLICY, NOW).wait == 5 * SECOND
    assert circuit.override is not None
    assert circuit.override.reason == "shorter"


@pytest.mark.parametrize("before", [NEW, opened(NOW), with_trial(), held(), held(duration=SECOND)])
def test_reset_closes_and_clears_all(before):
    was = core.effective(before, POLICY, NOW).state
    circuit, event = command(before, CommandKind.RESET, actor="ann", reason="well")
    assert circuit == Circuit(
        epoch=max(NOW, before.epoch + 1),
        since=NOW,
        actor="ann",
        reason="well",
        last_error=before.last_error,
        last_error_at=before.last_error_at,
    )
    assert (event.before, event.after, event.mode) == (was, CLOSED, Mode.AUTO)
    assert (event.cause, event.last_error) == ("reset", "")


def test_reset_of_a_closed_circuit_is_a_transition_too():
    circuit, event = command(NEW, CommandKind.RESET)
    assert circuit.epoch > NEW.epoch
    assert (event.before, event.after) == (CLOSED, CLOSED)


@pytest.mark.parametrize("kind", CommandKind)
def test_a_command_for_another_epoch_is_refused(kind):
    order = Command(kind, expected_epoch=2)
    assert core.command(NEW, order, POLICY, NOW) is None
    assert core.command(replace(NEW, epoch=2), order, POLICY, NOW) is not None


@pytest.mark.parametrize("kind", EFFECTIVE)
def test_texts_from_outside_are_cut(kind):
    circuit, event = command(NEW, kind, actor="a" * 9999, reason="r" * 9999)
    told = circuit.override or circuit
    for text in (told.actor, told.reason, event.actor, event.reason):
        assert len(text) == MAX_TEXT


def test_names_and_messages_of_errors_are_cut():
    batch = Batch(1, (0,), "E" * 9999, last_message="m" * 9999)
    circuit, _ = core.record(NEW, batch, POLICY, NOW)
    assert (len(circuit.last_error), len(circuit.last_message)) == (MAX_TEXT, MAX_TEXT)
    circuit = with_trial()
    circuit, _ = core.report(
        circuit,
        circuit.epoch,
        "a",
        Outcome.FAILURE,
        POLICY,
        NOW,
        last_error="E" * 9999,
        last_message="m" * 9999,
    )
    assert (len(circuit.last_error), len(circuit.last_message)) == (MAX_TEXT, MAX_TEXT)


def test_a_batch_without_failures_leaves_the_last_error():
    circuit, _ = core.record(NEW, Batch(1, (0,), "Down", last_message="x"), POLICY, NOW)
    batch = Batch(1, last_error="slow call", slices=(Slice(NOW, 1, 0, 1),))
    later, _ = core.record(circuit, batch, POLICY, NOW + SECOND)
    assert (later.last_error, later.last_message, later.last_error_at) == ("Down", "x", NOW)


@pytest.mark.parametrize("kind", EFFECTIVE)
def test_epochs_increase_though_the_clock_steps_back(kind):
    circuit, _ = command(NEW, kind, NOW)
    later, _ = command(circuit, kind, NOW - 600 * SECOND)
    assert later.epoch == NOW + 1


# -- what is seen -----------------------------------------------------------------------------


def test_the_effective_state_is_right_at_every_moment_without_any_change():
    circuit = opened(NOW)
    end = NOW + 30 * SECOND
    assert core.effective(NEW, POLICY, NOW) == Effective(CLOSED, Mode.AUTO, 0)
    assert core.effective(circuit, POLICY, NOW) == Effective(OPEN, Mode.AUTO, 30 * SECOND)
    assert core.effective(circuit, POLICY, end - 1) == Effective(OPEN, Mode.AUTO, 1)
    assert core.effective(circuit, POLICY, end) == Effective(HALF_OPEN, Mode.AUTO, 0)
    assert core.effective(circuit, POLICY, end * 9) == Effective(HALF_OPEN, Mode.AUTO, 0)
