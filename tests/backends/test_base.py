"""What every backend inherits: this process's own part."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from contextlib import contextmanager

import pytest

from circuitbreaker_django import CircuitOpenError, CircuitState
from circuitbreaker_django.backends import base
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.backends.pending import MAX_REPORTS
from circuitbreaker_django.backends.process import Process, Turn, on_event_loop
from circuitbreaker_django.backends.store import Changes, StoreBusy, StoreLost
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.core.trial import Trial
from tests.backends.waiting import until
from tests.core.calls import Down, fail, failing, ok

POLICY = Policy(failure_threshold=2, recovery_timeout=30)


class Flaky(MemoryBackend):
    """A store in memory that can be busy or away."""

    error: Exception | None = None
    away = False
    visits = 0

    @property
    def available(self):
        return not self.away

    @contextmanager
    def _transaction(self, process, patience):
        self.visits += 1
        if self.error is not None:
            raise self.error
        with super()._transaction(process, patience) as step:
            yield step


@pytest.fixture
def backend(clock):
    return Flaky(clock=clock)


@pytest.fixture
def breaker(backend, make):
    return make(backend)


def test_all_that_is_kept_of_a_breaker_goes_with_its_last_view(backend, make):
    first, second = make(backend), make(backend)
    backend.on_first_rejection = lambda error: None
    first.trip()
    with pytest.raises(CircuitOpenError):
        first.call(ok)
    first.reset()
    backend.error = StoreLost("away")
    failing(first)
    backend.drop_view(first.view, "")
    assert (
        set(backend._views) == set(backend._pending.evidence) == set(backend._told) == {"payments"}
    )
    backend.drop_view(second.view, "")
    assert backend._views == backend._pending.evidence == backend._told == {}


def test_what_a_dropped_breaker_has_counted_is_told_as_of_its_heir(backend, make):
    for name in ("tenant:a", "tenant:b"):
        breaker = make(backend, name)
        breaker.call(ok)
        failing(breaker)
        backend.drop_view(breaker.view, "tenant")
        backend.drop_view(breaker.view, "tenant")
    assert list(backend._uncounted.counts) == ["tenant"]
    stats = backend.stats()["tenant"].last_hour
    assert (stats.calls, stats.failures) == (4, 2)


def test_what_could_not_be_told_of_a_dropped_breaker_is_its_heirs(backend, make):
    """Whether it was dropped before that, or while it was being told; else names pile up."""
    early, late, kept = (make(backend, f"tenant:{name}") for name in "abc")
    for breaker in (early, late, kept):
        breaker.call(ok)

    def fail_to_tell(meanwhile):
        with backend._telling() as (counted, _):
            assert "tenant:c" in counted
            meanwhile()
            raise StoreBusy

    for meanwhile in (lambda: None, lambda: backend.drop_view(late.view, "tenant")):
        with pytest.raises(StoreBusy):
            fail_to_tell(meanwhile)
    backend.drop_view(early.view, "tenant")
    assert {name: one.calls for name, one in backend._uncounted.counts.items()} == {
        "tenant": 2,
        "tenant:c": 1,
    }
    backend.drop_view(kept.view, "tenant")
    assert {name: one.calls for name, one in backend._uncounted.counts.items()} == {"tenant": 3}
    assert not backend._uncounted._heirs


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda least, most: most)


@pytest.mark.parametrize("error", [StoreBusy("busy"), StoreLost("lost")])
def test_own_evidence_trips_without_the_store(backend, breaker, error, caplog):
    backend.error = error
    backend.away = True
    failing(breaker)
    failing(breaker)
    assert breaker.state is CircuitState.OPEN
    assert backend.overview().circuits == {}
    assert "circuit payments is open" in caplog.text


def test_an_own_trip_is_not_told_while_the_store_will_tell_it(backend, breaker, caplog):
    backend.error = StoreBusy("busy")
    failing(breaker)
    failing(breaker)
    assert breaker.state is CircuitState.OPEN
    assert "is open" not in caplog.text
    backend.error = None
    backend._flush(backend._here(), 0)
    backend.announce()
    assert caplog.text.count("is open") == 1


def test_what_could_not_be_delivered_is_kept_and_merged(backend, breaker, make, clock):
    backend.error = StoreBusy("busy")
    failing(breaker)
    backend.error = None
    clock.advance(5)
    failing(breaker)
    circuit = backend.overview().circuits["payments"]
    assert circuit.state is CircuitState.OPEN


def test_failures_are_delivered_with_their_age(backend, breaker, clock):
    backend.error = StoreBusy("busy")
    failing(breaker)
    backend.error = None
    clock.advance(59)
    backend._flush(backend._here(), 0)
    assert backend.overview().circuits["payments"].failures == (clock() - 59_000_000,)
    clock.advance(1)
    failing(breaker)
    assert breaker.state is CircuitState.CLOSED


def test_the_failures_of_an_outage_are_one_entry_and_the_newest(backend, make, clock):
    breaker = make(backend, failure_threshold=3)
    for _ in range(50):
        backend._keep(breaker.view, breaker.policy, clock(), (clock(),), "Down")
        clock.advance(1)
    kept = backend._pending.evidence["payments"]
    assert len(kept.times) == 3
    assert kept.times[-1] == clock() - 1_000_000


def test_failures_that_came_while_others_were_refused_are_merged(backend, breaker, clock):
    process = backend._here()
    backend._keep(breaker.view, POLICY, clock(), (clock(),), "Old")

    @contextmanager
    def refuse(process, patience):
        clock.advance(1)
        backend._keep(breaker.view, POLICY, clock(), (clock(),), "New")
        backend._keep(other.view, POLICY, clock(), (clock(),), "Other")
        yield from ()
        raise StoreBusy("busy")

    other = type(breaker)("other", backend=backend)
    backend._transaction = refuse
    backend._flush(process, 0)
    assert len(backend._pending.evidence["payments"].times) == 2
    assert backend._pending.evidence["other"].last_error == "Other"


def test_a_message_goes_with_its_class(backend, breaker, clock):
    def keep(error, message, times):
        backend._keep(breaker.view, POLICY, clock(), times, error, message=message)

    keep("Old", "of the old", (clock(),))
    keep("New", "", (clock(),))
    kept = backend._pending.evidence["payments"]
    assert (kept.last_error, kept.last_message) == ("New", "")
    keep("", "", ())
    keep("Newer", "of the newer", (clock(),))
    keep("", "", ())
    assert (kept.last_error, kept.last_message) == ("Newer", "of the newer")
    backend._flush(backend._here(), 0)
    circuit = backend.overview().circuits["payments"]
    assert (circuit.last_error, circuit.last_message) == ("Newer", "of the newer")


def test_failures_of_a_new_epoch_replace_those_that_were_refused(backend, breaker, clock):
    process = backend._here()
    backend._keep(breaker.view, POLICY, clock(), (clock(),), "Old")

    @contextmanager
    def refuse(process, patience):
        breaker.view.shared_epoch += 1
        backend._keep(breaker.view, POLICY, clock(), (clock(),), "New")
        yield from ()
        raise StoreBusy("busy")

    backend._transaction = refuse
    backend._flush(process, 0)
    assert backend._pending.evidence["payments"].last_error == "New"
    assert len(backend._pending.evidence["payments"].times) == 1


def test_reports_are_kept_in_order_and_bounded(backend, breaker, clock):
    breaker.trip()
    clock.advance(30)
    trial = breaker.enter()
    backend.error = StoreLost("lost")
    for _ in range(MAX_REPORTS + 10):
        trial.live = True
        backend.finish(trial, POLICY, Outcome.SUCCESS, "")
    assert len(backend._pending.reports) == MAX_REPORTS
    backend.error = None
    backend._flush(backend._here(), 0)
    assert breaker.state is CircuitState.CLOSED
    assert backend._pending.reports == []


def test_a_process_without_its_store_runs_one_trial_of_its_own_later_than_others(
    backend, make, clock
):
    breaker = make(backend, half_open_max_calls=5)
    breaker.trip()
    backend.away = True
    clock.advance(30)
    early = breaker.enter()
    assert isinstance(early, CircuitOpenError)
    assert early.retry_after == 3
    clock.advance(3)
    trial = breaker.enter()
    assert isinstance(trial, Trial)
    assert trial.local
    assert isinstance(breaker.enter(), CircuitOpenError)
    breaker.leave(trial, Outcome.SUCCESS)
    assert breaker.state is CircuitState.CLOSED
    assert backend.overview().circuits["payments"].state is CircuitState.OPEN


def test_a_trial_of_its_own_that_fails_opens_again_here(backend, breaker, clock):
    breaker.trip()
    backend.away = True
    clock.advance(30)
    breaker.enter()
    clock.advance(3)
    failing(breaker)
    assert breaker.state is CircuitState.OPEN
    clock.advance(29)
    assert breaker.state is CircuitState.OPEN


def test_a_store_that_is_lost_at_a_trial_makes_it_a_local_one(backend, breaker, clock):
    breaker.trip()
    clock.advance(30)
    backend.error = StoreLost("lost")
    assert isinstance(breaker.enter(), CircuitOpenError)
    clock.advance(3)
    assert breaker.enter().local


def test_a_store_that_is_busy_at_a_trial_rejects_it(backend, breaker, clock):
    breaker.trip()
    clock.advance(30)
    backend.error = StoreBusy("busy")
    error = breaker.enter()
    assert isinstance(error, CircuitOpenError)
    assert not breaker.view.local


def test_a_local_trial_from_before_the_store_came_back_changes_nothing(backend, breaker, clock):
    breaker.trip()
    backend.away = True
    clock.advance(30)
    breaker.enter()
    clock.advance(3)
    trial = breaker.enter()
    backend.away = False
    breaker.reset()
    epoch = breaker.view.epoch
    breaker.leave(trial, Outcome.FAILURE, fail)
    assert breaker.view.epoch == epoch


def test_a_newer_shared_epoch_replaces_the_local_circuit(backend, breaker):
    backend.error = StoreBusy("busy")
    failing(breaker)
    failing(breaker)
    assert breaker.view.local
    backend.error = None
    breaker.reset()
    assert breaker.call(ok) == "ok"
    assert not breaker.view.local


def test_a_trial_is_asked_for_by_one_thread_at_a_time(backend, breaker, clock):
    breaker.trip()
    clock.advance(30)
    with backend._here().writing.taken(0):
        visits = backend.visits
        assert isinstance(breaker.enter(), CircuitOpenError)
        assert backend.visits == visits


def test_a_thread_that_waited_for_its_turn_looks_before_it_asks(backend, breaker, clock):
    breaker.trip()
    clock.advance(30)
    process = backend._here()
    before = backend.visits
    breaker.view.pause_until = clock() + 1
    assert backend._try(process, breaker.view, POLICY, time.monotonic() + 1) is None
    assert backend.visits == before


def test_a_call_that_asks_twice_waits_no_longer_than_one(backend, breaker, clock, monkeypatch):
    breaker.trip()
    clock.advance(30)
    patience = []
    monkeypatch.setattr(backend, "_try", lambda *args: patience.append(args[-1]))
    assert isinstance(breaker.enter(), CircuitOpenError)
    assert len(patience) == 2
    assert len(set(patience)) == 1


def test_thirty_two_threads_at_the_edge_run_one_trial(backend, breaker, clock):
    breaker.trip()
    clock.advance(30)
    start, found = threading.Barrier(32), []

    def come():
        start.wait(10)
        found.append(breaker.enter())

    threads = [threading.Thread(target=come) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 32
    assert sum(isinstance(admission, Trial) for admission in found) == 1


def test_who_has_the_turn_takes_what_others_left_meanwhile(clock, make, monkeypatch):
    class Queueless(Flaky):
        queues = False

    backend = Queueless(clock=clock)
    breaker = make(backend, failure_threshold=5)
    inside, go = threading.Event(), threading.Event()
    transaction = backend._transaction

    @contextmanager
    def slow(process, patience):
        with transaction(process, patience) as step:
            inside.set()
            go.wait(10)
            yield step

    monkeypatch.setattr(backend, "_transaction", slow)
    thread = threading.Thread(target=failing, args=(breaker,))
    thread.start()
    assert inside.wait(10)
    failing(breaker)  # does not wait
    go.set()
    thread.join(10)
    until(lambda: len(backend.overview().circuits["payments"].failures) == 2)


def test_what_was_left_while_a_trial_was_asked_for_is_delivered(clock, make, monkeypatch):
    class Queueless(Flaky):
        queues = False

    backend = Queueless(clock=clock)
    breaker, other = make(backend), make(backend, "other")
    breaker.trip()
    clock.advance(30)
    acquire = backend._acquire

    def slow(*args):
        thread = threading.Thread(target=failing, args=(other,))
        thread.start()
        thread.join(10)
        assert backend._pending.evidence
        return acquire(*args)

    monkeypatch.setattr(backend, "_acquire", slow)
    assert isinstance(breaker.enter(), Trial)
    assert not backend._pending.evidence
    assert backend.overview().circuits["other"].failures


def test_a_command_waits_for_its_turn_and_not_for_ever(backend, breaker, monkeypatch):
    monkeypatch.setattr(base, "COMMAND_PATIENCE", 0.01)
    with (
        backend._here().writing.taken(0),
        pytest.raises(CircuitBackendError, match="nothing was applied"),
    ):
        breaker.trip()
    assert breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize("error", [StoreBusy("busy"), StoreLost("lost")])
def test_a_command_that_is_not_confirmed_is_an_error(backend, breaker, error):
    backend.error = error
    with pytest.raises(CircuitBackendError, match=f"nothing was applied: {error}"):
        breaker.trip()
    assert breaker.state is CircuitState.CLOSED


def test_changes_of_another_store_are_left_to_the_next_look(backend, breaker):
    changes = Changes(7, {"payments": breaker.view.circuit})
    backend._adopt(backend._here(), changes)
    assert backend._rows == {}


def test_an_older_row_does_not_replace_a_newer_one(backend, breaker):
    old = breaker.view.circuit
    breaker.trip()
    backend._keep_row("payments", old)
    assert backend._rows["payments"].state is CircuitState.OPEN


# -- forks -----------------------------------------------------------------------------------


@pytest.fixture
def forked(monkeypatch):
    """Makes this process another one, as far as its pid tells."""
    pid = os.getpid()
    return lambda: monkeypatch.setattr(os, "getpid", lambda: pid + 1)


def test_a_fork_has_locks_of_its_own(backend, breaker, forked):
    process = backend._here()
    with process.lock, process.writing.taken(0):
        forked()
        assert backend._here() is not process
        failing(breaker)
    assert backend._here() is backend._here()


def test_a_fork_that_two_threads_notice_is_one_process(backend, forked, monkeypatch):
    forked()
    parent = backend._process
    first = backend._here()
    backend._process = parent  # as another thread has read it
    assert backend._here() is first


def test_what_is_pending_is_the_parents_to_deliver(backend, breaker, forked):
    backend.error = StoreBusy("busy")
    failing(breaker)
    forked()
    backend.error = None
    backend._here()
    assert backend._pending.evidence == {}


def test_a_trial_is_the_parents_to_report(backend, breaker, clock, forked):
    breaker.trip()
    clock.advance(30)
    trial = breaker.enter()
    forked()
    breaker.leave(trial, Outcome.SUCCESS)
    assert breaker.state is CircuitState.HALF_OPEN


def test_a_process_is_known_by_a_random_id():
    assert Process().id != Process().id


async def test_a_loop_is_noticed():
    assert on_event_loop()
    assert not await asyncio.to_thread(on_event_loop)


def in_a_thread(what):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(what()))
    thread.start()
    thread.join()
    return answers[0]


# -- turns --------------------------------------------------------------------------------


def test_a_turn_is_taken_by_one_and_only_once():
    turn = Turn()
    with turn.taken(0) as mine, turn.taken(0) as again:
        assert (mine, again) == (True, False)
        assert not turn.take(0)
        assert not in_a_thread(lambda: turn.take(0))
    turn.give_back()  # it is nobody's
    assert in_a_thread(lambda: turn.take(0))
    turn.give_back()  # it is not this thread's
    assert not turn.take(0)


def test_a_turn_comes_back_whatever_a_signal_handler_raises_in_it():
    turn = Turn()
    with pytest.raises(KeyboardInterrupt), turn.taken(0):
        raise KeyboardInterrupt
    assert turn.take(0)


def test_a_signal_handler_that_fails_in_the_midst_of_a_write_waits_for_nobody(backend, breaker):
    with backend._here().writing.taken(0), pytest.raises(Down):
        breaker.call(fail)  # by the same thread, as a handler would
    with pytest.raises(Down):
        breaker.call(fail)
    assert breaker.state is CircuitState.OPEN
    assert backend.events()[0][1].failures == 2
