"""What happens to the database backend on a real server, and that no caller suffers from it.

Each member has threads and connections of its own, as in a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections, transaction

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.backends.database import DatabaseBackend
from circuitbreaker_django.backends.database import store as module
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.trial import Trial
from tests.backends.postgres import Postgres, registered
from tests.backends.waiting import until
from tests.core.calls import failing, ok

TABLES = [
    f"circuitbreaker_{name}"
    for name in ("store", "circuit", "event", "process", "declaration", "traffic")
]
Member = Callable[..., CircuitBreaker]


@pytest.fixture(autouse=True)
def often(monkeypatch, short_rounds):
    monkeypatch.setattr(module, "POLL_EVERY", 0.02)


@contextmanager
def members(alias: str, namespace: str) -> Iterator[Member]:
    """Makes breakers, each of a member of its own of one store."""
    made: list[DatabaseBackend] = []

    def member(**options: Any) -> CircuitBreaker:
        backend = DatabaseBackend(alias, namespace=namespace)
        made.append(backend)
        options = {"failure_threshold": 2, "recovery_timeout": 300, **options}
        return CircuitBreaker("payments", backend=backend, **options)

    yield member
    for backend in made:
        process = backend._here()
        backend.close()
        for thread in (process.writer, process.feed):
            if thread is not None:
                thread.join(20)


@pytest.fixture
def member(database: str, request: pytest.FixtureRequest) -> Iterator[Member]:
    with members(database, request.node.nodeid) as made:
        yield made


@pytest.fixture
def mortal(mortal_postgres: Postgres) -> Iterator[tuple[Member, Postgres]]:
    with registered("mortal", mortal_postgres.settings()), members("mortal", "x") as made:
        yield made, mortal_postgres


def run(alias: str, *statements: str) -> None:
    """As an administrator of the database does."""
    with connections[alias].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def is_shared(breaker: CircuitBreaker) -> bool:
    breaker.state  # noqa: B018 # a look is a use
    return breaker.backend.available


def is_alone(breaker: CircuitBreaker) -> bool:
    return not is_shared(breaker) and breaker.backend.problem is not None


def is_open(breaker: CircuitBreaker) -> bool:
    return breaker.state is CircuitState.OPEN


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was told of the store."""
    return [text for text in caplog.messages if "shared" in text]


# -- what members do for each other ------------------------------------------------------------


def test_what_one_has_opened_is_open_for_all(member):
    ours, theirs = member(), member()
    until(lambda: is_shared(theirs) and is_shared(ours))
    failing(ours)
    failing(ours)
    until(lambda: is_open(theirs))


def test_failures_of_all_are_summed(member):
    ours, theirs = member(failure_threshold=4), member(failure_threshold=4)
    until(lambda: is_shared(theirs) and is_shared(ours))
    for breaker in (ours, theirs, ours, theirs):
        failing(breaker)
    until(lambda: is_open(ours) and is_open(theirs))


def test_one_trial_at_once(member):
    ours, theirs = member(recovery_timeout=0.1), member(recovery_timeout=0.1)
    until(lambda: is_shared(theirs) and is_shared(ours))
    ours.trip()
    until(lambda: theirs.state is CircuitState.HALF_OPEN)
    trial = until(lambda: isinstance(found := ours.enter(), Trial) and found)
    assert isinstance(theirs.enter(), CircuitOpenError)
    ours.leave_block(trial, None)
    until(lambda: theirs.state is CircuitState.CLOSED)


def test_the_permit_of_a_process_that_was_killed_comes_back(member, database, request):
    ours = member(recovery_timeout=0.05, trial_timeout=0.5)
    until(lambda: is_shared(ours))
    ours.trip()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        until(lambda: is_shared(ours))
        until(lambda: isinstance(found := ours.enter(), Trial) and not found.local)
        os.write(writer, b"!")
        time.sleep(60)
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read(1) == b"!"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert isinstance(ours.enter(), CircuitOpenError)
    until(lambda: isinstance(ours.enter(), Trial))


def test_a_fork_has_connections_of_its_own(member):
    ours = member()
    until(lambda: is_shared(ours))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        until(lambda: is_shared(ours))
        ours.trip(hold=True)
        os.write(writer, b"!")
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read(1) == b"!"
    assert os.waitpid(child, 0)[1] == 0
    until(lambda: is_open(ours))
    ours.reset()
    assert is_shared(ours)


def test_an_event_loop_gets_a_permit_and_is_never_kept_waiting(member):
    ours = member(recovery_timeout=0.05)
    until(lambda: is_shared(ours))
    ours.trip()

    @ours
    async def answer() -> str:
        return "ok"

    async def call() -> str:
        while True:
            try:
                return str(await answer())
            except CircuitOpenError:
                await asyncio.sleep(0.01)

    assert asyncio.run(asyncio.wait_for(call(), 20)) == "ok"
    until(lambda: ours.state is CircuitState.CLOSED)


def test_a_transaction_of_the_project_that_is_undone_undoes_nothing(
    member, database, django_db_blocker
):
    ours, theirs = member(), member()
    until(lambda: is_shared(theirs) and is_shared(ours))
    with django_db_blocker.unblock(), transaction.atomic(using=database):
        run(database, "SELECT 1")
        failing(ours)
        ours.trip(hold=True)
        transaction.set_rollback(True, using=database)
    until(lambda: is_open(theirs))


def test_a_process_has_two_connections_and_none_when_it_is_closed(
    database, request, django_db_blocker
):
    name = request.node.name
    others = (
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE application_name = 'circuitbreaker_{name[-20:]}'"
    )
    config = {**connections.settings[database]}
    config["OPTIONS"] = {"application_name": f"circuitbreaker_{name[-20:]}"}

    def count() -> int:
        with connections[database].cursor() as cursor:
            cursor.execute(others)
            return int(cursor.fetchone()[0])

    with django_db_blocker.unblock(), registered("named", config):
        with members("named", name) as member:
            ours = member()
            process: Any = ours.backend._here()
            # Before its threads run, callers have a connection instead of the writer's.
            until(lambda: is_shared(ours) and process.alive.is_set())
            ours.trip()
            until(lambda: count() == 2)
            assert len(ours.backend.overview().processes) == 1
        until(lambda: count() == 0)
        with members("named", name) as member:
            theirs = member()
            until(lambda: is_shared(theirs))
            assert len(theirs.backend.overview().processes) == 1


# -- faults ------------------------------------------------------------------------------------


def test_before_the_tables_are_there_nobody_is_hurt(postgres, caplog, django_db_blocker):
    with django_db_blocker.unblock():
        with registered("owner", postgres.settings()):
            run("owner", "CREATE DATABASE unmigrated")
        with (
            registered("unmigrated", postgres.settings("unmigrated")),
            members("unmigrated", "x") as member,
        ):
            ours = member()
            assert ours.call(ok) == "ok"
            until(lambda: is_alone(ours))
            failing(ours)
            failing(ours)
            assert is_open(ours)  # by itself
            assert "manage.py migrate" in str(ours.backend.problem)
            with pytest.raises(CircuitBackendError, match="migrate"):
                ours.reset()
            call_command("migrate", database="unmigrated", verbosity=0)
            until(lambda: is_shared(ours))
            ours.reset()
            assert ours.call(ok) == "ok"
    assert len(warnings(caplog)) == 1


def test_a_server_that_is_killed_and_comes_back_costs_nobody_anything(mortal, caplog):
    member, server = mortal
    ours, theirs = member(), member(recovery_timeout=0.05)
    until(lambda: is_shared(theirs) and is_shared(ours))
    ours.trip(hold=True, reason="maintenance")
    until(lambda: is_open(theirs))
    server.stop(signal.SIGQUIT)
    until(lambda: is_alone(ours) and is_alone(theirs))
    assert is_open(ours)
    assert is_open(theirs)
    with pytest.raises(CircuitBackendError):
        ours.reset()
    assert len(warnings(caplog)) == 2  # one for each
    server.start()
    until(lambda: is_shared(theirs) and is_shared(ours))
    assert is_open(ours)
    ours.reset()
    until(lambda: theirs.state is CircuitState.CLOSED)
    assert len(warnings(caplog)) == 2


def test_a_server_that_stands_still_costs_nobody_anything(mortal):
    member, server = mortal
    ours, theirs = member(recovery_timeout=0.05), member(recovery_timeout=0.05)
    until(lambda: is_shared(theirs) and is_shared(ours))
    server.pause()
    try:
        for _ in range(100):
            assert ours.call(ok) == "ok"
        failing(ours)
        failing(ours)
        assert rejected(ours)
        until(lambda: is_alone(ours) and is_alone(theirs))
        until(lambda: not rejected(ours))  # after a trial of its own
        assert ours.state is CircuitState.CLOSED
    finally:
        server.go_on()
    until(lambda: is_shared(theirs) and is_shared(ours))
    ours.trip(hold=True)
    until(lambda: is_open(theirs))


def rejected(breaker: CircuitBreaker) -> bool:
    try:
        breaker.call(ok)
    except CircuitOpenError:
        return True
    return False


def test_a_hold_is_put_back_into_tables_that_were_emptied(mortal, django_db_blocker):
    member, _ = mortal
    ours, theirs = member(), member()
    until(lambda: is_shared(theirs) and is_shared(ours))
    ours.trip(hold=True, reason="maintenance", actor="ann")
    until(lambda: is_open(theirs))
    before = theirs.view.incarnation
    with django_db_blocker.unblock():
        run("mortal", "TRUNCATE " + ", ".join(TABLES))
    until(lambda: ours.view.incarnation == theirs.view.incarnation != before)
    until(lambda: is_open(ours) and is_open(theirs))
    hold = ours.backend.overview().circuits["payments"].override
    assert hold is not None
    assert (hold.actor, hold.reason) == ("ann", "maintenance")


def test_tables_that_are_dropped_and_made_again(mortal, django_db_blocker):
    member, _ = mortal
    ours = member()
    until(lambda: is_shared(ours))
    with django_db_blocker.unblock():
        call_command("migrate", "circuitbreaker_database", "zero", database="mortal", verbosity=0)
        until(lambda: is_alone(ours))
        assert ours.call(ok) == "ok"
        call_command("migrate", database="mortal", verbosity=0)
    until(lambda: is_shared(ours))


def test_a_dump_that_is_restored_does_not_stop_the_sharing(mortal, django_db_blocker):
    member, _ = mortal
    ours, theirs = member(), member()
    until(lambda: is_shared(theirs) and is_shared(ours))
    failing(ours)
    until(lambda: "payments" in ours.backend.overview().circuits)
    before = ours.view.incarnation
    with django_db_blocker.unblock():
        run("mortal", *(f"CREATE TABLE old_{name} AS TABLE {name}" for name in TABLES))
        ours.trip()
        until(lambda: is_open(theirs))
        ours.reset()
        until(lambda: theirs.state is CircuitState.CLOSED)
        with transaction.atomic(using="mortal"):
            run("mortal", "TRUNCATE " + ", ".join(TABLES))
            run("mortal", *(f"INSERT INTO {name} SELECT * FROM old_{name}" for name in TABLES))
    # Its rows are older than what both have seen, so nobody would believe it any more.
    until(lambda: ours.view.incarnation == theirs.view.incarnation != before)
    failing(ours)
    failing(ours)
    until(lambda: is_open(theirs))


def test_rights_that_are_taken_away_and_given_back(mortal, django_db_blocker):
    member, server = mortal
    with django_db_blocker.unblock():
        run(
            "mortal",
            "CREATE ROLE worker LOGIN",
            *(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO worker" for name in TABLES),
        )
        with (
            registered("worker", server.settings(USER="worker")),
            members("worker", "y") as member,
        ):
            ours = member()
            until(lambda: is_shared(ours))
            run("mortal", f"REVOKE ALL ON {TABLES[0]} FROM worker")
            until(lambda: is_alone(ours))
            assert ours.call(ok) == "ok"
            assert "grant the role" in str(ours.backend.problem)
            run("mortal", f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLES[0]} TO worker")
            until(lambda: is_shared(ours))


def test_a_circuit_that_an_administrator_keeps_locked_harms_no_other(
    member, database, request, django_db_blocker
):
    ours, theirs = member(recovery_timeout=0.05), member(recovery_timeout=0.05)
    other = CircuitBreaker("search", backend=ours.backend, failure_threshold=2)
    until(lambda: is_shared(theirs) and is_shared(ours))
    ours.trip()
    until(lambda: theirs.state is CircuitState.HALF_OPEN)
    with django_db_blocker.unblock(), transaction.atomic(using=database):
        run(database, "SELECT 1 FROM circuitbreaker_circuit WHERE name = 'payments' FOR UPDATE")
        for _ in range(3):
            assert rejected(ours)
        assert other.call(ok) == "ok"
        until(lambda: steered(other))
    until(lambda: not rejected(theirs))


def steered(breaker: CircuitBreaker) -> bool:
    try:
        breaker.trip()
    except CircuitBackendError:
        return False
    return True


def test_no_connection_to_be_had_is_a_store_that_is_away(mortal, django_db_blocker):
    _, server = mortal
    with django_db_blocker.unblock():
        run("mortal", "CREATE ROLE limited LOGIN SUPERUSER", "ALTER ROLE limited NOSUPERUSER")
        for name in TABLES:
            run("mortal", f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO limited")
        run("mortal", "ALTER ROLE limited CONNECTION LIMIT 0")
        with (
            registered("limited", server.settings(USER="limited")),
            members("limited", "z") as member,
        ):
            ours = member()
            assert ours.call(ok) == "ok"
            until(lambda: is_alone(ours))
            assert "too many connections" in str(ours.backend.problem)
            run("mortal", "ALTER ROLE limited CONNECTION LIMIT 2")
            until(lambda: is_shared(ours))


def test_many_members_trip_and_close_together(member):
    breakers = [member(recovery_timeout=0.2) for _ in range(6)]
    until(lambda: all(map(is_shared, breakers)))
    failing(breakers[0])
    failing(breakers[1])
    until(lambda: all(breaker.state is not CircuitState.CLOSED for breaker in breakers))
    trials: list[int] = []
    at_once: list[int] = []
    lock = threading.Lock()

    def check() -> str:
        with lock:
            trials.append(1)
            at_once.append(len(trials))
        time.sleep(0.02)
        with lock:
            trials.pop()
        return "ok"

    def use(breaker: CircuitBreaker) -> None:
        while breaker.state is not CircuitState.CLOSED:
            try:
                breaker.call(check)
            except CircuitOpenError:
                time.sleep(0.005)

    threads = [threading.Thread(target=use, args=(breaker,)) for breaker in breakers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert at_once[0] == 1
    assert all(breaker.state is CircuitState.CLOSED for breaker in breakers)
