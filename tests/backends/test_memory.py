from __future__ import annotations

import os
import sys
import threading

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitState
from circuitbreaker_django.backends.memory import HISTORY, MemoryBackend
from circuitbreaker_django.backends.store import Changes
from tests.core.calls import failing, ok


def test_two_backends_share_nothing(make, clock):
    first, second = (make(MemoryBackend(clock=clock)) for _ in range(2))
    first.trip()
    assert second.state is CircuitState.CLOSED


def test_no_more_than_the_newest_events_are_kept(make, clock):
    breaker = make(MemoryBackend(clock=clock))
    for number in range(HISTORY + 5):
        breaker.trip(reason=str(number))
    events = breaker.backend.events(limit=10 * HISTORY)
    assert len(events) == HISTORY
    assert events[0][1].reason == str(HISTORY + 4)


def test_it_serves_a_fork_with_what_it_knew(make, clock):
    breaker = make(MemoryBackend(clock=clock))
    failing(breaker)
    child = os.fork()
    if child == 0:
        failing(breaker)
        os._exit(0 if breaker.state is CircuitState.OPEN else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert breaker.state is CircuitState.CLOSED


def test_it_is_not_shared_and_says_so():
    backend = MemoryBackend()
    assert not backend.shared
    assert "memory" in backend.describe()


def test_what_a_thread_adopts_late_does_not_undo_what_another_has_written(clock):
    backend = MemoryBackend(clock=clock)
    breaker = CircuitBreaker("payments", backend=backend)
    failing(breaker)
    late = Changes(0, {"payments": backend.overview().circuits["payments"]})
    failing(breaker)
    backend._adopt(backend._here(), late)
    assert len(backend.overview().circuits["payments"].failures) == 2


def test_no_failure_is_lost_between_threads(clock):
    breaker = CircuitBreaker("payments", failure_threshold=1000, backend=MemoryBackend(clock=clock))

    def fail_often() -> None:
        for _ in range(50):
            failing(breaker)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=fail_often) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(breaker.backend.overview().circuits["payments"].failures) == 400


def test_calls_are_put_into_their_minutes_by_requests_that_come_now_and_then(make, clock):
    breaker = make(MemoryBackend(clock=clock))
    backend = breaker.backend
    backend.publish()
    for _ in range(60):
        breaker.call(ok)
        clock.advance(1)
        backend.touch()
    first, second = backend.stats()["payments"].minutes
    assert first.counts.calls + second.counts.calls == 60
    assert 15 <= first.counts.calls <= 20  # of the five seconds of one interval nobody knows


def test_requests_do_not_count_again_and_again(make, clock, monkeypatch):
    backend = make(MemoryBackend(clock=clock)).backend
    monkeypatch.setattr(backend, "publish", lambda: times.append(clock()))
    times: list[int] = []
    backend.touch()
    clock.advance(5)
    backend.touch()
    assert times == [clock()]


def test_a_fork_begins_to_count_anew(make, clock):
    breaker = make(MemoryBackend(clock=clock))
    breaker.call(ok)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            nothing = breaker.backend.stats()
            breaker.call(ok)
            own = breaker.backend.stats()["payments"].last_hour.calls
            code = 0 if (nothing, own) == ({}, 1) else 1
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert breaker.backend.stats()["payments"].last_hour.calls == 1


# -- breakers that nobody uses any more ----------------------------------------------------------


@pytest.fixture
def backend(clock):
    return MemoryBackend(clock=clock)


def test_a_row_in_which_nothing_counts_goes_with_the_last_view(backend, make, clock):
    first, second = make(backend), make(backend)
    failing(first)
    clock.advance(60)
    backend.drop_view(first.view, "")
    assert set(backend.overview().circuits) == {"payments"}
    backend.drop_view(second.view, "")
    assert backend.overview().circuits == {}


def test_a_row_in_which_something_counts_stays(backend, make, clock):
    breaker = make(backend)
    failing(breaker)
    backend.drop_view(breaker.view, "")
    failing(make(backend))
    assert make(backend).state is CircuitState.OPEN


def test_a_breaker_without_a_row_is_dropped_too(backend, make):
    breaker = make(backend)
    backend.drop_view(breaker.view, "")
    backend.drop_view(breaker.view, "")
    assert backend._views == {}


def test_what_comes_back_is_of_no_older_epoch_and_shares_as_before(backend, make):
    breaker = make(backend)
    breaker.reset()
    epoch = breaker.view.epoch
    backend.drop_view(breaker.view, "")
    again = make(backend)
    assert again.view.epoch == epoch
    failing(again)
    failing(again)
    assert make(backend).state is CircuitState.OPEN


def test_the_counts_of_a_dropped_breaker_go_with_its_last_view(backend, make):
    first, second = make(backend), make(backend)
    first.call(ok)
    assert set(backend.stats(day=True)) == {"payments"}
    backend.drop_view(first.view, "")
    assert set(backend.stats(day=True)) == {"payments"}
    backend.drop_view(second.view, "")
    assert backend.stats(day=True) == {}


def test_a_raised_floor_takes_no_failure_from_anybody(backend, make):
    gone, early = make(backend, "gone"), make(backend, "early")
    gone.reset()
    backend.drop_view(gone.view, "")
    late = make(backend, "late")
    gone = make(backend, "gone")
    gone.reset()
    backend.drop_view(gone.view, "")
    for breaker in (early, late):
        failing(breaker)
        failing(breaker)
        assert breaker.state is CircuitState.OPEN
