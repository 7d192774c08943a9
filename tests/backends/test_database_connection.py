"""The database backend's own connection, and what may happen to it, on a real server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.utils import DatabaseError

from circuitbreaker_django.backends import host
from circuitbreaker_django.backends.database import connection as module
from circuitbreaker_django.backends.database.connection import DatabaseConnection, DatabaseCursor
from circuitbreaker_django.backends.database.store import DatabaseStore
from circuitbreaker_django.backends.store import StoreBusy, StoreLost, StoreUnsure
from circuitbreaker_django.core.circuit import Command, CommandKind
from circuitbreaker_django.core.policy import Policy
from tests.backends.postgres import Postgres, registered
from tests.backends.waiting import until

PATIENCE = 10.0
ALIVE = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
TRIP = {"a": (Command(CommandKind.TRIP), Policy())}


@contextmanager
def connected(alias: str, patience: float = PATIENCE) -> Iterator[DatabaseConnection]:
    made = DatabaseConnection(alias, patience)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def connection(database: str) -> Iterator[DatabaseConnection]:
    with connected(database) as made:
        yield made


@contextmanager
def another(postgres: Postgres, patience: float = PATIENCE, **settings: Any) -> Any:
    """A connection of an alias with other settings."""
    with registered("other", postgres.settings(**settings)), connected("other", patience) as made:
        yield made


def ask(connection: DatabaseConnection, sql: str, *values: Any) -> Any:
    """The one value that a statement gives."""
    with connection.transaction() as cursor:
        ((value,),) = cursor.rows(sql, *values)
    return value


def say(connection: DatabaseConnection, *statements: str) -> None:
    for sql in statements:
        with connection.transaction() as cursor:
            cursor.run(sql)


# -- whose it is -----------------------------------------------------------------------------


def test_it_is_none_of_djangos(connection, database, settings):
    assert ask(connection, "SELECT 1") == 1
    assert not [made for made in connections.all(initialized_only=True) if made.alias == database]
    assert connections.settings[database]["OPTIONS"] == {}


def test_it_is_opened_at_its_first_use_and_again_after_it_was_closed(connection):
    first = ask(connection, "SELECT pg_backend_pid()")
    assert ask(connection, "SELECT pg_backend_pid()") == first
    connection.close()
    connection.close()
    assert ask(connection, "SELECT pg_backend_pid()") != first


def test_one_that_was_ended_while_it_was_idle_is_replaced_and_nobody_notices(database, connection):
    with connected(database) as idle:
        pid = ask(idle, "SELECT pg_backend_pid()")
        ask(connection, "SELECT pg_terminate_backend(%s)", pid)
        until(lambda: not ask(connection, ALIVE, pid))
        assert ask(idle, "SELECT pg_backend_pid()") != pid


def test_it_says_who_it_is_and_what_the_project_says_comes_first(connection, postgres):
    name = "SELECT current_setting('application_name')"
    assert ask(connection, name) == "circuitbreaker_django"
    with another(postgres, OPTIONS={"application_name": "shop"}) as other:
        assert ask(other, name) == "shop"


def test_what_is_for_djangos_connections_only_is_passed_over(postgres):
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    options = {
        "pool": {"min_size": 1},
        "prepare_threshold": 0,
        "server_side_binding": True,
        "isolation_level": IsolationLevel.SERIALIZABLE,
        "connect_timeout": "0",
    }
    with another(postgres, OPTIONS=options, CONN_MAX_AGE=None) as other:
        assert ask(other, "SELECT current_setting('transaction_isolation')") == "read committed"
        for _ in range(10):
            assert ask(other, "SELECT count(*) FROM pg_prepared_statements") == 0


def test_it_leaves_no_state_in_the_servers_session(connection):
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    within = [ask(connection, f"SELECT current_setting('{name}')") for name in names]
    assert within == ["2500ms", "5s", "2s"]
    with connection._raw.cursor() as cursor:
        for name in names:
            cursor.execute(f"SELECT current_setting('{name}')")
            assert cursor.fetchone() == ("0",)


def test_a_role_is_assumed_as_django_does(postgres):
    with another(postgres) as owner:
        say(owner, "CREATE ROLE somebody")
    try:
        with another(postgres, OPTIONS={"assume_role": "somebody"}) as other:
            assert ask(other, "SELECT current_user") == "somebody"
    finally:
        with another(postgres) as owner:
            say(owner, "DROP ROLE somebody")


def test_a_role_that_may_not_be_assumed_is_a_database_that_cannot_be_used(postgres):
    with (
        another(postgres, OPTIONS={"assume_role": "nobody"}) as other,
        pytest.raises(StoreLost, match="nobody"),
    ):
        ask(other, "SELECT 1")


def test_the_projects_transactions_do_not_meet_it(database, connection, django_db_blocker):
    store = DatabaseStore(connection, "projects transactions")
    with django_db_blocker.unblock(), transaction.atomic(using=database):
        with connections[database].cursor() as cursor, pytest.raises(DatabaseError):
            cursor.execute("SELECT nonsense")
        assert store.command(TRIP, 2**62).circuits  # that transaction is aborted, ours is not
        transaction.set_rollback(True, using=database)
    assert list(store.look(0).circuits) == ["a"]  # that one is undone, ours is not


# -- transactions ----------------------------------------------------------------------------


def test_an_exception_undoes_a_transaction(connection):
    say(connection, "CREATE TABLE IF NOT EXISTS scratch (one int)", "DELETE FROM scratch")
    first = ask(connection, "SELECT pg_backend_pid()")

    def insert(error: Callable[[DatabaseCursor], object]) -> None:
        with connection.transaction() as cursor:
            cursor.run("INSERT INTO scratch VALUES (1)")
            error(cursor)

    with pytest.raises(ZeroDivisionError):
        insert(lambda cursor: 1 / 0)
    with pytest.raises(StoreLost):
        insert(lambda cursor: cursor.run("SELECT nonsense"))
    assert ask(connection, "SELECT count(*) FROM scratch") == 0
    assert ask(connection, "SELECT pg_backend_pid()") == first


def test_an_interrupt_in_the_middle_closes_it(connection):
    first = ask(connection, "SELECT pg_backend_pid()")

    def interrupted() -> None:
        with connection.transaction():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ask(connection, "SELECT pg_backend_pid()") != first


def test_a_slow_statement_is_given_up_by_the_server(database):
    with connected(database, 0.2) as quick:
        with pytest.raises(StoreBusy, match="too long"):
            ask(quick, "SELECT pg_sleep(10)")
        assert ask(quick, "SELECT 1") == 1


def test_the_locks_of_a_process_that_has_stopped_are_let_go(database, connection, monkeypatch):
    monkeypatch.setattr(module, "IDLE_PATIENCE", 0.1)
    store = DatabaseStore(connection, "stopped")
    store.command(TRIP, 2**62)

    def stop(stopped: DatabaseConnection) -> None:
        with stopped.transaction() as cursor:
            cursor.rows("SELECT 1 FROM circuitbreaker_circuit FOR UPDATE")
            assert store.command(TRIP, 2**62).circuits
            cursor.run("SELECT 1")

    with connected(database) as stopped:
        with pytest.raises(StoreLost):
            stop(stopped)
        assert ask(stopped, "SELECT 1") == 1


def test_a_commit_that_nobody_answers_leaves_it_open_whether_it_was_done(database, connection):
    def change(other: DatabaseConnection) -> None:
        with other.transaction() as cursor:
            ((pid,),) = cursor.rows("SELECT pg_backend_pid()")
            ask(connection, "SELECT pg_terminate_backend(%s)", pid)
            until(lambda: not ask(connection, ALIVE, pid))

    with connected(database) as other, pytest.raises(StoreUnsure):
        change(other)


def test_where_threads_cannot_run_it_works_without_a_bound(connection, monkeypatch):
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert ask(connection, "SELECT 1") == 1


def watches() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "circuitbreaker-watch"]


def test_the_line_of_a_server_that_is_silent_is_cut():
    ours, other = socket.socketpair()
    with ours, other, module._bounded(ours, 0.01):
        assert ours.recv(1) == b""


def test_the_line_of_a_server_that_has_answered_is_not_cut():
    ours, other = socket.socketpair()
    with ours, other:
        with module._bounded(ours, 0.01):
            other.send(b"!")
            time.sleep(0.1)  # for this process is busy
            assert other.send(b"!") == 1
        until(lambda: not watches())


def test_nobodys_line_is_cut_when_it_is_over(monkeypatch):
    class Late(threading.Event):
        """Becomes true between two looks of the watch."""

        def wait(self, timeout: float | None = None) -> bool:
            super().wait(20)
            return False

    ours, other = socket.socketpair()
    with ours, other:
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Event", Late)
            bounded = module._bounded(ours, 1)
            with bounded:
                pass
        until(lambda: not watches())
        assert other.send(b"!") == 1


def test_who_uwsgi_forks_from_has_nobody_on_watch_when_it_is_over(monkeypatch):
    class Slow(threading.Event):
        """Is heard of late."""

        def wait(self, timeout: float | None = None) -> bool:
            heard = super().wait(timeout)
            time.sleep(0.1)
            return heard

    monkeypatch.setattr(host, "may_run_threads", lambda: False)
    ours, other = socket.socketpair()
    with ours, other:
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Event", Slow)
            bounded = module._bounded(ours, 20)
            with bounded:
                assert watches()
        assert not watches()


def test_a_line_that_is_closed_already_is_let_be():
    ours, other = socket.socketpair()
    other.close()
    ours.close()
    with module._bounded(ours, 0.01):
        until(lambda: not watches())


def test_it_can_be_closed_whatever_its_driver_says(connection):
    class Broken:
        def close(self) -> None:
            raise connection._errors

    ask(connection, "SELECT 1")
    connection._raw.close()
    connection._raw = Broken()
    connection.close()
    assert ask(connection, "SELECT 1") == 1


# -- faults ----------------------------------------------------------------------------------


def test_an_alias_that_is_not_there_is_told():
    with connected("nowhere") as other, pytest.raises(StoreLost, match="nowhere"):
        ask(other, "SELECT 1")


def test_no_server_is_told(tmp_path):
    settings = {"ENGINE": "django.db.backends.postgresql", "NAME": "x", "HOST": str(tmp_path)}
    with (
        registered("down", settings),
        connected("down") as other,
        pytest.raises(StoreLost, match="No such file"),
    ):
        ask(other, "SELECT 1")


def test_another_engine_is_told(tmp_path):
    settings = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "x")}
    with registered("lite", settings), connected("lite") as other, pytest.raises(StoreLost):
        ask(other, "SELECT 1")


def test_a_password_is_in_no_message(postgres):
    with (
        another(postgres, USER="nobody", PASSWORD="swordfish") as other,
        pytest.raises(StoreLost) as caught,
    ):
        ask(other, "SELECT 1")
    assert "swordfish" not in str(caught.value)


def test_a_role_without_rights_is_told_with_the_remedy(postgres, connection):
    say(connection, "CREATE ROLE guest LOGIN")
    try:
        with (
            another(postgres, USER="guest") as other,
            pytest.raises(StoreLost, match="grant the role SELECT, INSERT"),
        ):
            DatabaseStore(other, "x").look(0)
    finally:
        say(connection, "DROP ROLE guest")


def test_a_role_with_the_rights_that_are_told_can_use_it(postgres, connection):
    tables = ", ".join(
        f"circuitbreaker_{name}"
        for name in ("store", "circuit", "event", "process", "declaration", "traffic")
    )
    say(
        connection,
        "CREATE ROLE worker LOGIN",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO worker",
    )
    try:
        with another(postgres, USER="worker") as other:
            store = DatabaseStore(other, "worker")
            store.publish("process", None, ())
            assert store.command(TRIP, 2**62).circuits
    finally:
        say(connection, "DROP OWNED BY worker", "DROP ROLE worker")


def test_a_database_that_may_not_be_written_to_is_told(postgres, connection):
    say(
        connection,
        "CREATE ROLE reader LOGIN SUPERUSER",
        "ALTER ROLE reader SET default_transaction_read_only = on",
    )
    try:
        with another(postgres, USER="reader") as other:
            store = DatabaseStore(other, "reader")
            store.look(0)
            for use in (lambda: store.publish("p", None, ()), lambda: store.command(TRIP, 2**62)):
                with pytest.raises(StoreLost, match="read-only transaction"):
                    use()
    finally:
        say(connection, "DROP ROLE reader")


def test_a_limit_of_connections_that_is_reached_is_told_and_passes(postgres, connection):
    say(connection, "CREATE ROLE limited LOGIN CONNECTION LIMIT 1")
    try:
        with another(postgres, USER="limited") as first:
            assert ask(first, "SELECT 1") == 1
            second = DatabaseConnection("other", PATIENCE)
            with pytest.raises(StoreLost, match="too many connections"):
                ask(second, "SELECT 1")
            first.close()
            until(
                lambda: (
                    not ask(
                        connection,
                        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'limited'",
                    )
                )
            )
            assert ask(second, "SELECT 1") == 1
            second.close()
    finally:
        say(connection, "DROP ROLE limited")


def test_a_default_of_the_database_for_transactions_does_not_change_steps(postgres, connection):
    say(
        connection,
        "CREATE ROLE strict LOGIN SUPERUSER",
        "ALTER ROLE strict SET default_transaction_isolation = 'serializable'",
    )
    try:
        with another(postgres, USER="strict") as other:
            level = ask(other, "SELECT current_setting('transaction_isolation')")
            assert level == "read committed"
    finally:
        say(connection, "DROP ROLE strict")


def test_a_server_that_stands_still_is_given_up_and_taken_up_again(mortal_postgres):
    with another(mortal_postgres, 0.3) as other:
        first = ask(other, "SELECT pg_backend_pid()")
        os.kill(first, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(StoreLost):
                ask(other, "SELECT 1")
            assert time.monotonic() - started < 5
        finally:
            os.kill(first, signal.SIGCONT)
        assert ask(other, "SELECT pg_backend_pid()") != first


def test_a_server_that_was_killed_is_used_again_when_it_is_back(mortal_postgres):
    with another(mortal_postgres) as other:
        store = DatabaseStore(other, "x")
        before = store.command(TRIP, 2**62)
        mortal_postgres.stop(signal.SIGQUIT)
        for _ in range(2):
            with pytest.raises(StoreLost):
                store.look(0)
        mortal_postgres.start()
        after = store.look(0)
        assert (after.incarnation, after.circuits) == (before.incarnation, before.circuits)


# -- drivers and poolers ---------------------------------------------------------------------


def test_psycopg2_does_as_well(postgres):
    """The tests of the store again, in a process that does not find psycopg 3."""
    tests = Path(__file__).with_name("test_database_store.py")
    code = (
        "import sys; sys.modules['psycopg'] = None; import psycopg2, pytest\n"
        f"sys.exit(pytest.main(['-qx', '-pno:cacheprovider', '-knot pgbouncer', {str(tests)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tests.parents[2],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_behind_a_pooler_it_leaves_nothing_to_the_next(postgres, pgbouncer):
    with registered("pooled", pgbouncer.settings()), connected("pooled") as first:
        with connected("pooled") as second:
            assert ask(first, "SELECT current_setting('lock_timeout')") == "2500ms"
            assert ask(second, "SELECT pg_backend_pid()") == ask(first, "SELECT pg_backend_pid()")
        raw = first._raw
        with raw.cursor() as cursor:
            cursor.execute("SELECT current_setting('lock_timeout')")
            assert cursor.fetchone() == ("0",)
