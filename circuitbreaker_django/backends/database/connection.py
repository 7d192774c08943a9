"""The backend's own connection to the database of an alias.

It is made from the alias' settings and by its engine, and is none of ``django.db.connections``:
no thread, transaction or test of the project ever meets it. It keeps no state on the server
beyond a transaction, so that a pooler may hand the server's session to others in between.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.db import connections
from django.db.utils import load_backend

from circuitbreaker_django.backends import host
from circuitbreaker_django.backends.store import StoreBusy, StoreLost, StoreUnsure

#: Seconds to connect; drivers round less up to this.
CONNECT_PATIENCE: Final = 2
#: Seconds after which the server ends a transaction whose process has stopped in it, so that
#: nobody waits for its locks any longer.
IDLE_PATIENCE: Final = 2.0

#: What the driver is told unless the alias' ``OPTIONS`` say otherwise.
_OPTIONS: Final = {
    "application_name": "circuitbreaker_django",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
#: What of the alias' ``OPTIONS`` is for Django's connections and not for this one.
_NOT_OURS: Final = ("pool", "prepare_threshold", "server_side_binding", "isolation_level")

# Errors of the server by their code.
_BUSY: Final = {
    "55P03": "somebody else keeps a row or a table locked",
    "57014": "the server took too long",
    "40001": "somebody else has written at the same time",
    "40P01": "somebody else has written at the same time",
}
_REMEDIES: Final = {
    "42P01": "run `manage.py migrate` for this database, with the app in INSTALLED_APPS; if it has "
    "nothing to do the tables were dropped by hand, so first "
    "`manage.py migrate circuitbreaker_database zero --fake`",
    "42703": "run `manage.py migrate` for this database",
    "42501": "grant the role SELECT, INSERT, UPDATE and DELETE on the tables",
}


class DatabaseConnection:
    """A connection that is opened at its first use, and again after it was lost.

    It is not safe for threads, and belongs to the process that uses it first.

    Args:
        alias: of ``DATABASES``.
        patience: seconds after which a transaction is given up with the connection. The server
            gives up a statement after a half of them, and waiting for a lock after a quarter.
    """

    def __init__(self, alias: str, patience: float) -> None:
        self.alias = alias
        self.patience = patience
        self._raw: Any = None
        self._errors: type[Exception] = Exception

    @contextmanager
    def transaction(self, isolation: str = "READ COMMITTED") -> Iterator[DatabaseCursor]:
        """A transaction; committed at the end of the block, undone by an exception.

        Raises:
            StoreBusy: somebody else kept something locked; nothing was applied.
            StoreUnsure: the database did not say whether it has committed.
            StoreLost: the database cannot be used; nothing was applied.
        """
        raw = self._open()
        milliseconds = round(self.patience * 1000)
        committing = False
        try:
            with _bounded(raw, self.patience), raw.cursor() as cursor:
                # For this transaction only: what is said for a session, a pooler gives to others.
                cursor.execute(
                    f"BEGIN ISOLATION LEVEL {isolation};"
                    f" SET LOCAL lock_timeout = {milliseconds // 4};"
                    f" SET LOCAL statement_timeout = {milliseconds // 2};"
                    " SET LOCAL idle_in_transaction_session_timeout ="
                    f" {round(IDLE_PATIENCE * 1000)}"
                )
                yield DatabaseCursor(cursor)
                committing = True
                cursor.execute("COMMIT")
        except self._errors as error:
            self._undo()
            ours = _as_ours(error)
            if committing and not isinstance(ours, StoreBusy):
                ours = StoreUnsure(str(ours))
            raise ours from error
        except Exception:
            self._undo()
            raise
        except BaseException:  # an interrupted exchange cannot be gone on with
            self.close()
            raise

    def close(self) -> None:
        """Close it; the next use opens another."""
        raw, self._raw = self._raw, None
        if raw is not None:
            try:
                raw.close()
            except self._errors:
                pass

    def _undo(self) -> None:
        try:
            with _bounded(self._raw, self.patience), self._raw.cursor() as cursor:
                cursor.execute("ROLLBACK")
        except self._errors:
            self.close()

    def _open(self) -> Any:
        if self._raw is not None and _has_to_say(self._raw):
            self.close()  # nothing but its end comes unasked: it was idle for too long, perhaps
        if self._raw is None:
            try:
                self._errors, self._raw = _connect(self.alias)
            except Exception as error:  # wrong settings, no driver, no server
                raise _as_ours(error) from error
        return self._raw


class DatabaseCursor:
    """Asks the database."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a statement gives."""
        self._cursor.execute(sql, values)
        found: list[tuple[Any, ...]] = self._cursor.fetchall()
        return found

    def run(self, sql: str, *values: Any) -> None:
        """A statement that gives nothing."""
        self._cursor.execute(sql, values)


def _connect(alias: str) -> tuple[type[Exception], Any]:
    """A new connection in autocommit mode, and what its driver raises."""
    settings = dict(connections.settings[alias])
    ours = {key: value for key, value in settings["OPTIONS"].items() if key not in _NOT_OURS}
    settings["OPTIONS"] = {**_OPTIONS, **ours, "connect_timeout": CONNECT_PATIENCE}
    wrapper = load_backend(settings["ENGINE"]).DatabaseWrapper(settings, f"{alias} of circuits")
    # Not by Django's method, which refuses any thread that has an event loop.
    raw = wrapper.Database.connect(**wrapper.get_connection_params())
    errors: type[Exception] = wrapper.Database.Error
    try:
        raw.autocommit = True
        if role := ours.get("assume_role"):  # as Django does, on the same condition: no pooler
            with raw.cursor() as cursor:
                cursor.execute("SELECT set_config('role', %s, false)", [role])
    except BaseException:
        raw.close()
        raise
    return errors, raw


@contextmanager
def _bounded(raw: Any, seconds: float) -> Iterator[None]:
    """Cut the connection if the server is silent for so long: neither driver has such a bound.

    One that was stopped, or has vanished behind a pooler, would be waited for for ever.
    """
    over = threading.Event()
    turn = threading.Lock()

    def watch() -> None:
        while not over.wait(seconds):
            with turn:
                # An answer that is there waits for this process, which is busy.
                if over.is_set() or _cut_if_silent(raw):
                    return

    watcher = threading.Thread(target=watch, name="circuitbreaker-watch", daemon=True)
    try:
        watcher.start()
    except RuntimeError:  # where threads cannot run
        pass
    try:
        yield
    finally:
        with turn:
            over.set()
        if watcher.is_alive() and not host.may_run_threads():
            watcher.join()  # or a fork would meet it


def _cut_if_silent(raw: Any) -> bool:
    """Cut a connection that has nothing to read; whether nobody needs to look again."""
    if _has_to_say(raw):
        return False
    try:
        with socket.socket(fileno=os.dup(raw.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
    except Exception:  # it is closed already
        pass
    return True


def _has_to_say(raw: Any) -> bool:
    """Whether there is something to read from the server, be it the end."""
    try:
        line = select.poll()
        line.register(raw.fileno(), select.POLLIN)
        return bool(line.poll(0))
    except Exception:  # it is closed already
        return False


def _as_ours(error: Exception) -> StoreBusy | StoreLost:
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
    if code in _BUSY:
        return StoreBusy(_BUSY[code])
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    remedy = _REMEDIES.get(code)
    return StoreLost(f"{text} ({remedy})" if remedy else text)
