"""Members of a SQLite store, and what tests do to them."""

from __future__ import annotations

import os
import sqlite3
import time
from typing import Any

import pytest

from circuitbreaker_django import CircuitOpenError
from tests.core.calls import ok


@pytest.fixture
def backend(sqlite):
    return sqlite()


@pytest.fixture
def breaker(backend, make):
    return make(backend)


@pytest.fixture
def other(sqlite, make):
    """The same breaker in another member of the store."""
    return make(sqlite())


@pytest.fixture
def stranger(backend, breaker):
    """A connection to the file that is none of ours."""
    breaker.state  # noqa: B018 # opens the store
    connection = sqlite3.connect(backend.place.database, isolation_level=None, timeout=0)
    yield connection
    connection.close()


@pytest.fixture
def later(monkeypatch):
    """Moves the clock by which a process times its own work."""
    real, shift = time.monotonic, [0.0]

    def later(seconds):
        shift[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: real() + shift[0])
    return later


def process_of(breaker: Any) -> Any:
    return breaker.backend._here()


def tick(breaker: Any) -> None:
    breaker.backend._tick(process_of(breaker), 0)
    breaker.backend.announce()


def rejected(breaker: Any) -> bool:
    try:
        breaker.call(ok)
    except CircuitOpenError:
        return True
    return False


def warnings(caplog):
    return [record for record in caplog.records if "own until" in record.message]


# -- what may happen to its files ---------------------------------------------------------------


def remove(found):
    for path in found.files:
        path.unlink(missing_ok=True)


def remove_database(found):
    found.database.unlink()


def replace_database(found):
    found.database.rename(found.folder / "moved")
    found.database.write_bytes(b"")


def replace_with_garbage(found):
    found.database.rename(found.folder / "moved")
    found.database.write_bytes(b"garbage" * 1000)


def fill_with_garbage(found):
    with open(found.database, "r+b") as file:
        file.write(os.urandom(found.database.stat().st_size))
    with open(found.files[2], "r+b") as file:
        file.write(os.urandom(found.files[2].stat().st_size))


def truncate_database(found):
    os.truncate(found.database, 0)
    os.truncate(found.files[2], 0)


def remove_bell(found):
    found.bell.unlink()


def replace_bell(found):
    found.bell.rename(found.folder / "moved")
    found.bell.write_bytes(bytes(65536))


def remove_index(found):
    found.files[3].unlink()


def remove_log(found):
    found.files[2].unlink()


def garbage_rows(found):
    connection = sqlite3.connect(found.database, isolation_level=None)
    connection.execute("REPLACE INTO circuits VALUES ('other', 99, 'garbage', NULL)")
    connection.execute("UPDATE meta SET revision = 99")
    connection.close()


def remove_folder(found):
    for path in found.folder.iterdir():
        path.unlink()
    found.folder.rmdir()
