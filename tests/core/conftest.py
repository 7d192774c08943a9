from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.backends.memory import MemoryBackend
from tests.clock import Clock

Make = Callable[..., CircuitBreaker]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def backend(clock):
    return MemoryBackend(clock=clock)


@pytest.fixture
def make(backend: MemoryBackend) -> Make:
    """Makes a breaker on the backend whose clock the test holds; one failure opens it."""

    def make(name: str = "payments", **options: Any) -> CircuitBreaker:
        options = {"failure_threshold": 1, "recovery_timeout": 30, "backend": backend, **options}
        return CircuitBreaker(name, **options)

    return make


@pytest.fixture
def half_open(make: Make, clock: Clock) -> Make:
    """Makes a breaker whose wait is over."""

    def half_open(name: str = "payments", **options: Any) -> CircuitBreaker:
        breaker = make(name, **options)
        breaker.trip()
        clock.advance(30)
        return breaker

    return half_open
