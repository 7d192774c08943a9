from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitState
from circuitbreaker_django.backends import base, remote_permits, remote_process
from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.database import DatabaseBackend
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.backends.redis import RedisBackend
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from tests.backends import postgres as postgres_server
from tests.backends.servers import RedisServer, short_folder
from tests.backends.waiting import see_end, until
from tests.clock import Clock

#: By how many microseconds the clock of a server is ahead of those of its clients: by quarters of
#: an hour, so that a minute of one is a minute of the other.
AHEAD = 1_699_999_200_000_000

postgres, mortal_postgres = postgres_server.postgres, postgres_server.mortal_postgres
database, pgbouncer = postgres_server.database, postgres_server.pgbouncer

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


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server for all tests that do it no harm; each has a namespace of its own."""
    for folder in short_folder():
        server = RedisServer(folder)
        server.start()
        yield server
        server.kill()


@pytest.fixture
def redis(redis_server: RedisServer, clock: Clock) -> Iterator[Join]:
    """Makes members of one store on a server, each as a process of its own without threads."""
    with closing(redis_server.client()) as client:
        client.flushall()
    members: list[RedisBackend] = []

    def join(**options: Any) -> RedisBackend:
        member = RedisBackend(
            redis_server.url,
            **{
                "threads": False,
                "clock": clock,
                "server_clock": lambda: clock() + AHEAD,
                **options,
            },
        )
        member.turn_every, member.turn_patience = 0, 20
        members.append(member)
        return member

    yield join
    for member in members:
        member.close()


@pytest.fixture
def tables(database: str, clock: Clock, request: pytest.FixtureRequest) -> Iterator[Join]:
    """Makes members of one store in a database, each as a process of its own without threads."""
    members: list[DatabaseBackend] = []

    def join(**options: Any) -> DatabaseBackend:
        member = DatabaseBackend(
            database,
            **{
                "namespace": request.node.nodeid,
                "threads": False,
                "clock": clock,
                "server_clock": lambda: clock() + AHEAD,
                **options,
            },
        )
        member.turn_every, member.turn_patience = 0, 20
        members.append(member)
        return member

    yield join
    for member in members:
        member.close()


@pytest.fixture(params=["memory", "sqlite", "redis", "tables"])
def join(request: pytest.FixtureRequest, clock: Clock) -> Join:
    """Makes members of one store; add a backend here, and the contract is tested on it."""
    if request.param != "memory":
        found: Join = request.getfixturevalue(request.param)
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


@pytest.fixture
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads look at the clock ten times a second, so that a test need not wait for their end."""
    monkeypatch.setattr(remote_process, "TICK", 0.1)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers wait until an answer comes, for the host of the tests may be busy."""
    for module in (base, remote_permits):
        monkeypatch.setattr(module, "PERMIT_PATIENCE", 10)


@pytest.fixture
def threaded(redis_server: RedisServer, short_rounds: None) -> Iterator[RedisBackend]:
    """A backend on a server, with threads."""
    with closing(redis_server.client()) as client:
        client.flushall()
    backend = RedisBackend(redis_server.url)
    backend.sync()
    process = backend._here()
    until(lambda: backend.available)
    yield backend
    backend.close()
    see_end(process)


@pytest.fixture
def half_open(threaded: RedisBackend, make: Make) -> CircuitBreaker:
    """A breaker of which a trial is due."""
    breaker = make(threaded, recovery_timeout=0.05)
    breaker.trip()
    until(lambda: breaker.state is CircuitState.HALF_OPEN)
    return breaker
