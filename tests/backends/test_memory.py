from __future__ import annotations

import os

from circuitbreaker_django import CircuitState
from circuitbreaker_django.backends.memory import HISTORY, MemoryBackend
from tests.core.calls import failing


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
