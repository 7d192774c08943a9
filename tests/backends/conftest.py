from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from tests.clock import Clock

Join = Callable[..., Backend]
Make = Callable[..., CircuitBreaker]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def location(tmp_path):
    return tmp_path / "store" / "circuits.sqlite3"


@pytest.fixture
def sqlite(location: Path, clock: Clock) -> Iterator[Join]:
    """Makes members of one store on disk, each with everything that a process of its own has."""
    members: list[SQLiteBackend] = []

    def join(**options: Any) -> SQLiteBackend:
        threads = options.pop("threads", False)
        member = SQLiteBackend(**{"location": location, "clock": clock, **options})
        member.threads = threads
        members.append(member)
        return member

    yield join
    for member in members:
        member.close()


@pytest.fixture(params=["memory", "sqlite"])
def join(request: pytest.FixtureRequest, clock: Clock) -> Join:
    """Makes members of one store; add a backend here, and the contract is tested on it."""
    if request.param == "sqlite":
        found: Join = request.getfixturevalue("sqlite")
        return found
    backend = MemoryBackend(clock=clock)
    return lambda: backend


@pytest.fixture
def make() -> Make:
    """Makes a breaker on a backend; two failures open it."""

    def make(backend: Backend, name: str = "payments", **options: Any) -> CircuitBreaker:
        return CircuitBreaker(
            name, backend=backend, **{"failure_threshold": 2, "recovery_timeout": 30, **options}
        )

    return make
