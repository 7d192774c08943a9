from __future__ import annotations

import contextvars
from dataclasses import replace
from math import inf

import pytest

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import Batch, Circuit, Event, Override
from circuitbreaker_django.core.gate import Bell
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.core.tally import TELL_EVERY
from circuitbreaker_django.core.traffic import NOTHING, Counts
from circuitbreaker_django.core.trial import (
    Trial,
    come_out,
    go_inside,
    rides_on_a_trial,
    step_out,
)
from circuitbreaker_django.core.view import View
from circuitbreaker_django.core.window import Slice

SECOND = 1_000_000
NOW = 1000 * SECOND
POLICY = Policy(failure_threshold=2, failure_window=10, recovery_timeout=30)
CLOSED = Circuit(epoch=5)
OPENED = Circuit(epoch=6, state=CircuitState.OPEN, since=NOW, retry_at=NOW + 30 * SECOND)


def view_of(circuit: Circuit = CLOSED, incarnation: int = 1) -> View:
    breaker = CircuitBreaker("payments", failure_threshold=2, failure_window=10)
    return View(breaker, "payments", circuit, incarnation)


# -- the gate -----------------------------------------------------------------------------


def test_a_new_view_s_gate_lets_nobody_pass_nor_rejects_anybody():
    gate = view_of().gate
    assert not gate.is_open
    assert gate.rejection() is None


def test_the_gate_of_a_closed_circuit_is_open_while_the_bell_is_still():
    view, bell = view_of(), Bell()
    view.open_gate(bell, POLICY, NOW)
    gate = view.gate
    assert gate.is_open
    assert (gate.word, gate.epoch, gate.reject) == (None, 5, None)


def test_the_gate_of_an_open_circuit_rejects_until_its_wait_is_over():
    view = view_of(OPENED)
    view.open_gate(Bell(), POLICY, NOW)
    gate = view.gate
    assert gate.word is not None
    assert gate.word[()] == gate.reject
    assert (gate.admit, gate.epoch, gate.until) == (None, 0, NOW + 30 * SECOND)


def test_the_gate_of_an_endless_hold_rejects_for_ever():
    hold = Override(Mode.FORCED_OPEN, 6, NOW, None, "", "")
    view = view_of(replace(CLOSED, override=hold))
    view.open_gate(Bell(), POLICY, NOW)
    assert view.gate.until == inf


@pytest.mark.parametrize("circuit", [CLOSED, OPENED])
def test_nobody_passes_or_is_rejected_on_a_bell_that_has_rung_or_was_never_seen(circuit):
    view = view_of(circuit)
    for seen in (2.0, None):
        view.open_gate(Bell(seen=seen), POLICY, NOW)
        assert not view.gate.is_open
        assert view.gate.rejection() is None


def test_a_shut_gate_sends_all_the_long_way():
    view = view_of()
    view.open_gate(Bell(), POLICY, NOW)
    view.shut()
    assert (view.gate.admit, view.gate.reject) == (None, None)


def test_calls_are_kept_when_the_gate_is_replaced():
    view = view_of()
    for _ in range(3):
        view.gate.calls += 2
        view.open_gate(Bell(), POLICY, NOW)
    assert view.calls == 6


def test_a_wait_that_is_too_long_ends_once_though_nobody_writes_it_down():
    view = view_of(replace(OPENED, retry_at=NOW + 10**15))  # the store's clock has stepped back
    view.open_gate(Bell(), POLICY, NOW)
    assert view.gate.until == NOW + 300 * SECOND
    view.open_gate(Bell(), POLICY, NOW + 200 * SECOND)
    assert view.gate.until == NOW + 300 * SECOND


# -- what is believed -------------------------------------------------------------------------


def test_a_newer_record_is_adopted_and_the_gate_shut():
    view = view_of()
    view.count(POLICY, NOW, failed=True, slow=False)
    view.open_gate(Bell(), POLICY, NOW)
    view.pause_until = NOW
    view.adopt(OPENED, 1)
    assert (view.circuit, view.epoch, view.shared_epoch) == (OPENED, 0, 6)
    assert (view.own, view.pause_until, view.gate.admit) == ((), 0, None)


def test_an_older_record_is_not_adopted():
    view = view_of(OPENED)
    view.adopt(CLOSED, 1)
    assert view.circuit is OPENED


def test_a_record_of_the_same_epoch_is_adopted_and_own_evidence_kept():
    view = view_of()
    view.count(POLICY, NOW, failed=True, slow=False)
    view.adopt(replace(CLOSED, failures=(1,)), 1)
    assert view.circuit.failures == (1,)
    assert view.own == (NOW,)


def test_another_incarnation_is_adopted_whole_though_its_epoch_is_older():
    view = view_of(OPENED)
    view.adopt(CLOSED, 2)
    assert (view.circuit, view.incarnation, view.epoch) == (CLOSED, 2, 5)


def tripped_here(view: View) -> View:
    view.count(POLICY, NOW, failed=True, slow=False)
    view.count(POLICY, NOW, failed=True, slow=False)
    assert view.trip_on_own_evidence(POLICY, NOW, view.own_evidence(NOW, "Down"), jitter=SECOND)
    return view


def test_own_evidence_opens_it_here_with_some_jitter():
    view = view_of()
    view.count(POLICY, NOW, failed=True, slow=False)
    assert view.trip_on_own_evidence(POLICY, NOW, view.own_evidence(NOW, "Down"), jitter=0) == ()
    view.count(POLICY, NOW, failed=True, slow=False)
    (event,) = view.trip_on_own_evidence(POLICY, NOW, view.own_evidence(NOW, "Down"), jitter=SECOND)
    assert (event.after, event.failures, event.last_error) == (CircuitState.OPEN, 2, "Down")
    assert (view.local, view.epoch, view.own) == (True, 0, ())
    assert view.circuit.retry_at == NOW + 31 * SECOND
    assert view.shared_epoch == 5


def test_own_evidence_is_this_process_s_alone():
    view = view_of(replace(CLOSED, failures=(NOW,)))
    view.count(POLICY, NOW, failed=True, slow=False)
    assert view.trip_on_own_evidence(POLICY, NOW, view.own_evidence(NOW, "Down"), jitter=0) == ()


def test_the_jitter_of_a_local_circuit_is_waited_for():
    view = tripped_here(view_of())
    for now in (NOW, NOW + 30 * SECOND):
        view.open_gate(Bell(), POLICY, now)
    assert view.gate.until == NOW + 31 * SECOND


def test_what_opened_here_stays_open_until_the_store_has_a_newer_epoch():
    view = tripped_here(view_of())
    view.adopt(replace(CLOSED, failures=(1,)), 1)
    assert (view.local, view.epoch) == (True, 0)
    view.adopt(Circuit(epoch=9), 1)
    assert (view.local, view.epoch) == (False, 9)


def test_what_closed_here_again_is_the_store_s_again():
    view = tripped_here(view_of())
    view.go_on(Circuit(epoch=NOW + 5))
    assert (view.local, view.epoch) == (True, NOW + 5)
    view.adopt(CLOSED, 1)
    assert (view.local, view.epoch) == (False, 5)


def test_a_shared_opening_ends_a_local_circuit_of_the_same_epoch():
    view = view_of(OPENED)
    view.go_local(NOW + 31 * SECOND)
    view.adopt(OPENED, 1)
    assert not view.local


def test_going_local_waits_for_the_jitter_also_after_a_hold():
    view = view_of(OPENED)
    view.go_local(NOW + 35 * SECOND)
    assert (view.local, view.circuit.retry_at) == (True, NOW + 35 * SECOND)
    view.go_local(NOW)
    assert view.circuit.retry_at == NOW + 35 * SECOND

    hold = Override(Mode.FORCED_OPEN, 6, NOW, NOW + SECOND, "", "")
    view = view_of(replace(CLOSED, override=hold))
    view.go_local(NOW + 3 * SECOND)
    assert (view.circuit.override, view.circuit.retry_at) == (None, NOW + 3 * SECOND)


def test_the_moment_of_a_view_changes_with_its_epoch_only():
    view = view_of()
    moment = view.moment
    view.adopt(replace(CLOSED, failures=(1,)), 1)
    assert view.moment == moment
    view.adopt(OPENED, 1)
    assert view.moment > moment


# -- what others have brought about -----------------------------------------------------------

LATER = NOW + SECOND
TOLD = replace(OPENED, actor="ann", reason="drill", last_error="Down", last_message="refused")


def change_of(before: Circuit, after: Circuit, now: int = LATER) -> Event | None:
    """What is told of a change, once."""
    view = view_of(before)
    view.adopt(after, 1)
    event = view.take_change(now)
    assert view.announced is view.circuit
    assert view.take_change(now) is None
    return event


def under(mode: Mode, circuit: Circuit = CLOSED, *, epoch: int = 6) -> Circuit:
    """The circuit under an order of bob's."""
    override = Override(mode, epoch, NOW, None, "bob", "upgrade")
    return replace(circuit, epoch=epoch, override=override)


def test_an_opening_elsewhere_is_told_once_with_its_error_and_who_has_brought_it_about():
    assert change_of(CLOSED, TOLD) == Event(
        epoch=6,
        at=LATER,
        before=CircuitState.CLOSED,
        after=CircuitState.OPEN,
        mode=Mode.AUTO,
        cause="elsewhere",
        actor="ann",
        reason="drill",
        last_error="Down",
        last_message="refused",
    )


def test_a_closing_elsewhere_is_told_without_the_error_of_the_past():
    event = change_of(OPENED, replace(TOLD, epoch=7, state=CircuitState.CLOSED))
    assert event is not None
    assert (event.before, event.after) == (CircuitState.OPEN, CircuitState.CLOSED)
    assert (event.actor, event.last_error, event.last_message) == ("ann", "", "")


def test_a_first_trial_elsewhere_is_told_as_the_end_of_the_wait():
    now = NOW + 30 * SECOND
    event = change_of(TOLD, replace(TOLD, trials=1), now)
    assert event is not None
    assert (event.before, event.after) == (CircuitState.OPEN, CircuitState.HALF_OPEN)
    assert (event.last_error, event.last_message) == ("", "")
    assert change_of(replace(TOLD, trials=1), replace(TOLD, trials=2), now) is None


def test_a_newer_life_is_told_of_unless_nothing_has_happened_in_it():
    assert change_of(CLOSED, Circuit(epoch=7)) is None
    event = change_of(CLOSED, Circuit(epoch=7, actor="ann"))
    assert event is not None
    assert (event.epoch, event.before, event.after, event.actor) == (7, "closed", "closed", "ann")
    assert change_of(CLOSED, replace(CLOSED, actor="ann")) is None


def test_a_mode_is_told_with_who_has_ordered_it_and_its_end_with_who_has_ended_it():
    event = change_of(CLOSED, under(Mode.DISABLED))
    assert event is not None
    assert (event.mode, event.actor, event.reason) == (Mode.DISABLED, "bob", "upgrade")
    event = change_of(under(Mode.DISABLED), Circuit(epoch=7, actor="ann", reason="done"))
    assert event is not None
    assert (event.mode, event.actor, event.reason) == (Mode.AUTO, "ann", "done")


def test_who_has_ordered_that_the_circuit_decides_has_not_opened_it():
    event = change_of(under(Mode.AUTO), under(Mode.AUTO, TOLD, epoch=7))
    assert event is not None
    assert (event.after, event.actor, event.reason) == (CircuitState.OPEN, "ann", "drill")


def test_on_paper_the_states_of_the_paper_are_told_and_at_its_end_those_of_the_circuit():
    event = change_of(under(Mode.METRICS_ONLY), under(Mode.METRICS_ONLY, OPENED, epoch=7))
    assert event is not None
    assert (event.before, event.after, event.actor) == ("closed", "open", "bob")
    event = change_of(under(Mode.METRICS_ONLY, OPENED), Circuit(epoch=7))
    assert event is not None
    assert (event.before, event.after, event.mode) == ("closed", "closed", Mode.AUTO)


def test_a_mode_that_ends_by_itself_is_no_change_that_others_have_brought_about():
    hold = Override(Mode.FORCED_OPEN, 6, NOW, NOW + SECOND, "", "")
    circuit = replace(CLOSED, override=hold)
    assert change_of(circuit, replace(circuit, failures=(NOW,)), NOW + 2 * SECOND) is None


def test_a_record_that_is_adopted_may_be_a_change_or_none():
    view = view_of()
    assert view.adopt(replace(CLOSED, failures=(1,)), 1) is False
    assert view.adopt(OPENED, 1) is True
    assert view.adopt(CLOSED, 1) is False
    assert view.adopt(replace(OPENED, trials=1), 1) is True
    assert view.adopt(replace(OPENED, trials=2), 1) is False
    assert view.adopt(CLOSED, 2) is True
    view.go_on(Circuit(epoch=9))
    assert view.adopt(CLOSED, 2) is True
    assert tripped_here(view).adopt(CLOSED, 2) is False


# -- trials -----------------------------------------------------------------------------------


def in_a_context(test):
    """Contexts are for one test alone."""

    def run():
        contextvars.Context().run(test)

    run.__name__ = test.__name__
    return run


def trial_of(view: View) -> Trial:
    return Trial(
        view, (view.incarnation, view.circuit.epoch), "token", NOW + 60 * SECOND, local=False
    )


@in_a_context
def test_a_call_rides_on_the_trial_that_it_is_inside_of():
    view, other = view_of(OPENED), view_of(OPENED)
    assert not rides_on_a_trial(view, NOW)
    trial, inner = trial_of(view), trial_of(other)
    go_inside(trial)
    go_inside(inner)
    assert rides_on_a_trial(view, NOW)
    assert rides_on_a_trial(other, NOW)
    come_out(inner)
    assert rides_on_a_trial(view, NOW)
    assert not rides_on_a_trial(other, NOW)
    come_out(trial)
    assert not rides_on_a_trial(view, NOW)


@in_a_context
def test_trials_that_end_out_of_order_are_forgotten_all_the_same():
    view, other = view_of(OPENED), view_of(OPENED)
    trial, inner = trial_of(view), trial_of(other)
    go_inside(trial)
    go_inside(inner)
    come_out(trial)
    assert rides_on_a_trial(other, NOW)
    assert not rides_on_a_trial(view, NOW)
    come_out(inner)
    assert not rides_on_a_trial(other, NOW)


@in_a_context
def test_a_trial_whose_lease_is_over_carries_nobody():
    view = view_of(OPENED)
    go_inside(trial_of(view))
    assert rides_on_a_trial(view, NOW + 60 * SECOND - 1)
    assert not rides_on_a_trial(view, NOW + 60 * SECOND)


@in_a_context
def test_a_trial_that_a_fork_has_copied_carries_nobody():
    view = view_of(OPENED)
    trial = trial_of(view)
    go_inside(trial)
    trial.pid += 1
    assert not rides_on_a_trial(view, NOW)


@in_a_context
def test_a_trial_of_an_epoch_that_is_over_carries_nobody():
    view = view_of(OPENED)
    go_inside(trial_of(view))
    view.adopt(replace(OPENED, epoch=7), 1)
    assert not rides_on_a_trial(view, NOW)


@in_a_context
def test_a_trial_that_ended_in_another_context_carries_nobody():
    view = view_of(OPENED)
    trial = trial_of(view)
    go_inside(trial)
    contextvars.Context().run(come_out, trial)
    assert not rides_on_a_trial(view, NOW)


@in_a_context
def test_a_trial_that_goes_on_elsewhere_carries_nobody_here():
    view = view_of(OPENED)
    trial = trial_of(view)
    go_inside(trial)
    elsewhere = contextvars.copy_context()
    step_out(trial)
    assert not rides_on_a_trial(view, NOW)
    assert elsewhere.run(rides_on_a_trial, view, NOW)
    step_out(trial)
    go_inside(trial)
    assert rides_on_a_trial(view, NOW)


@in_a_context
def test_going_inside_of_a_trial_twice_makes_no_circle():
    view, other = view_of(OPENED), view_of(OPENED)
    trial, inner = trial_of(view), trial_of(other)
    for each in (trial, inner, trial, trial):
        go_inside(each)
    assert rides_on_a_trial(view, NOW)
    assert rides_on_a_trial(other, NOW)
    assert not rides_on_a_trial(view_of(OPENED), NOW)


def test_a_hold_that_ends_while_the_store_is_away_leaves_it_half_open_here():
    hold = Override(Mode.FORCED_OPEN, 6, NOW, NOW + SECOND, "", "")
    view = view_of(CLOSED)
    view.go_on(replace(CLOSED, override=hold))
    view.settle(POLICY, NOW + SECOND)
    assert (view.local, view.circuit.override, view.circuit.state) == (
        True,
        None,
        CircuitState.OPEN,
    )


def test_what_was_opened_alone_on_paper_is_the_shared_circuit_again_when_the_mode_is_over():
    paper = Override(Mode.METRICS_ONLY, 6, NOW, NOW + SECOND, "", "", aside=CLOSED)
    shared = replace(CLOSED, epoch=6, override=paper)
    view = view_of(shared)
    view.go_on(replace(shared, epoch=99, state=CircuitState.OPEN))
    view.settle(POLICY, NOW + SECOND)
    settled = core.settle(shared, NOW + SECOND)
    assert view.circuit == settled
    assert not view.local
    assert view.shared_epoch == view.epoch == settled.epoch == 7


# -- what is seen of calls ----------------------------------------------------------------------

RATES = {
    "failure_threshold": 2,
    "failure_rate_threshold": 0.5,
    "slow_call_duration": 1,
    "minimum_calls": 4,
    "failure_window": 10,
}
RATE = Policy(**RATES)  # type: ignore[arg-type]


def counting_view(circuit: Circuit = CLOSED) -> View:
    breaker = CircuitBreaker("payments", **RATES)  # type: ignore[arg-type]
    return View(breaker, "payments", circuit, 1)


def _tell(view: View) -> None:
    assert view.tally is not None
    view.tally.untold(NOW)


def test_it_is_suspect_by_its_own_calls_or_by_those_that_others_have_told_of():
    view = counting_view()
    assert not view.is_suspect(RATE, NOW)
    view.count(RATE, NOW, failed=False, slow=True)
    assert view.is_suspect(RATE, NOW)
    assert not view.is_suspect(RATE, NOW + 10 * SECOND)
    theirs = counting_view(replace(CLOSED, slices=(Slice(NOW, 2, 1),)))
    assert theirs.is_suspect(RATE, NOW + 10 * SECOND - 1)
    assert not theirs.is_suspect(RATE, NOW + 10 * SECOND)


def test_it_has_to_tell_of_successes_while_it_is_suspect_but_not_of_each():
    view = counting_view()
    assert not view.has_to_tell(RATE, NOW)
    view.count(RATE, NOW, failed=True, slow=False)
    assert view.has_to_tell(RATE, NOW)
    _tell(view)
    assert not view.has_to_tell(RATE, NOW)
    assert view.has_to_tell(RATE, NOW + TELL_EVERY)


def test_it_tells_at_once_of_the_success_that_reaches_a_rate():
    view = counting_view()
    for failed in (True, True, False):
        view.count(RATE, NOW, failed=failed, slow=False)
    _tell(view)
    assert not view.has_to_tell(RATE, NOW)
    view.count(RATE, NOW, failed=False, slow=False)
    assert view.has_to_tell(RATE, NOW)


def test_a_row_is_nothing_to_tell_of_a_success():
    policy = replace(RATE, consecutive_failures=1)
    view = counting_view()
    view.count(policy, NOW, failed=True, slow=False)
    _tell(view)
    assert not view.has_to_tell(policy, NOW)


def test_its_own_evidence_is_all_that_it_has_seen():
    view = counting_view()
    view.count(RATE, NOW, failed=True, slow=True)
    view.count(RATE, NOW + 1, failed=True, slow=False)
    assert view.own_evidence(NOW + 3, "Down", 7, "refused") == Batch(
        5,
        (3, 2),
        "Down",
        (Slice(NOW, 2, 2, 1),),
        streak=2,
        retry_after=7,
        last_message="refused",
    )
    assert view.own_evidence(NOW + 3) == Batch(5, (3, 2), "", (Slice(NOW, 2, 2, 1),), streak=2)


def test_calls_that_were_tallied_stay_counted_when_the_circuit_opens():
    view = counting_view()
    tally = view.tally
    assert tally is not None
    tally.calls += 3
    view.adopt(OPENED, 1)
    assert view.tally is None
    assert view.all_calls == 3


def test_another_incarnation_has_seen_nothing_of_what_this_process_has():
    view = view_of()
    view.count(POLICY, NOW, failed=True, slow=False)
    view.adopt(CLOSED, 2)
    assert view.own == ()


def test_what_was_counted_is_told_once_and_each_kind_by_itself():
    view = view_of()
    view.gate.calls += 5
    view.failures, view.slow, view.ignored, view.rejected = 1, 2, 3, 4
    assert view.untold() == Counts(5, 1, 2, 3, 4)
    assert view.untold() == NOTHING


@pytest.mark.parametrize(("circuit", "rejects"), [(CLOSED, False), (OPENED, True)])
def test_a_circuit_that_is_not_closed_rejects_all_but_trials(circuit, rejects):
    view = view_of(circuit)
    assert view.rejects(NOW) is rejects
    assert view.rejects(NOW + 30 * SECOND) is rejects


def test_without_rates_its_own_evidence_are_the_newest_failures():
    view = view_of()
    for number in range(3):
        view.count(POLICY, NOW + number, failed=True, slow=False)
    assert view.own_evidence(NOW + 3) == Batch(5, (2, 1))


def test_what_it_has_seen_alone_is_enough_for_itself_whatever_a_quorum_is():
    view, policy = view_of(), replace(POLICY, quorum=9)
    for _ in range(2):
        view.count(policy, NOW, failed=True, slow=False)
    [event] = view.trip_on_own_evidence(policy, NOW, view.own_evidence(NOW), 5)
    assert (event.after, view.is_open_alone, view.own) == (CircuitState.OPEN, True, ())
    assert view.circuit.retry_at == NOW + 30 * SECOND + 5


def test_what_others_have_seen_does_not_open_it_alone():
    view = view_of(replace(CLOSED, failures=(NOW,)))
    view.count(POLICY, NOW, failed=True, slow=False)
    assert view.trip_on_own_evidence(POLICY, NOW, view.own_evidence(NOW), 0) == ()
    assert not view.local


def test_a_trial_that_has_come_out_is_dead_and_one_inside_of_another_comes_back_to_it():
    outer, inner = (Trial(view_of(OPENED), (1, 6), "a", NOW, local=False) for _ in range(2))
    contextvars.copy_context().run(_inside_of_both, outer, inner)


@pytest.mark.parametrize("local", [False, True])
def test_a_trial_knows_whether_it_is_of_this_process_s_own_circuit(local):
    assert Trial(view_of(OPENED), (1, 6), "a", NOW, local=local).local is local


def _inside_of_both(outer: Trial, inner: Trial) -> None:
    assert (outer.live, outer.outer) == (True, None)
    go_inside(outer)
    go_inside(inner)
    assert inner.outer is outer
    assert rides_on_a_trial(inner.view, 0)
    step_out(inner)
    assert rides_on_a_trial(outer.view, 0)
    assert not rides_on_a_trial(inner.view, 0)
    come_out(outer)
    assert outer.live is False
    assert not rides_on_a_trial(outer.view, 0)
