"""``manage.py breaker``, run as from a command line beside a process that serves."""

from __future__ import annotations

import io
import json
import socket
import sqlite3
import types
from contextlib import closing

import pytest
from django.test import override_settings

from circuitbreaker_django import (
    CircuitBreaker,
)
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.store import Declaration
from circuitbreaker_django.core.traffic import Counts
from circuitbreaker_django.management.commands import breaker as module
from tests.core.calls import fail

HOST = socket.gethostname()
NOTHING = Counts()._asdict()
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@pytest.fixture
def settings_of_breakers(tmp_path):
    """``CIRCUIT_BREAKERS`` of the command; a test may change it."""
    return {
        "default": {
            "LOCATION": str(tmp_path / "circuits.sqlite3"),
            "BREAKERS": {"payments": {"recovery_timeout": 300}, "search": {}},
        }
    }


@pytest.fixture(autouse=True)
def outside(monkeypatch, settings_of_breakers):
    """Not inside of Django's test environment, for the command: it looks at real stores."""
    monkeypatch.setattr("circuitbreaker_django.operations.room.in_test_environment", lambda: False)
    monkeypatch.delenv("SUDO_USER", raising=False)


@pytest.fixture
def worker(tmp_path):
    """A process that serves: a backend of its own at the same place, and breakers in use."""
    backend = SQLiteBackend(tmp_path / "circuits.sqlite3")
    backend.threads = False
    worker = types.SimpleNamespace(
        backend=backend,
        payments=CircuitBreaker("payments", recovery_timeout=300, backend=backend),
        search=CircuitBreaker("search", backend=backend),
    )
    worker.payments.call(lambda: None)
    yield worker
    backend.close()


def states(worker):
    return [worker.payments.state, worker.search.state]


@pytest.fixture
def run(settings_of_breakers, capsys):
    """Runs the command as from a command line."""

    def run_command(*words):
        out, err = io.StringIO(), io.StringIO()
        command = module.Command(stdout=out, stderr=err)
        code: object = 0
        with override_settings(CIRCUIT_BREAKERS=settings_of_breakers):
            try:
                command.run_from_argv(["manage.py", "breaker", *words])
            except SystemExit as end:
                code = end.code
        usage = capsys.readouterr()
        return types.SimpleNamespace(
            code=code, out=out.getvalue() + usage.out, err=err.getvalue() + usage.err
        )

    return run_command


@pytest.fixture
def rows(run):
    """What ``status --format json`` says, by name."""

    def read(*words):
        return {row["name"]: row for row in json.loads(run("status", "--format=json", *words).out)}

    return read


@pytest.fixture
def silence(tmp_path):
    """Makes all processes ones that were not heard of for so many seconds."""

    def age(seconds):
        with closing(sqlite3.connect(tmp_path / "circuits.v1.sqlite3")) as connection, connection:
            connection.execute("UPDATE processes SET seen_at = seen_at - ?", (seconds * 1_000_000,))

    return age


def worker_kind(worker):
    [process] = worker.backend.overview().processes
    return f"1 {process.kind}"


@pytest.fixture
def process_local(settings_of_breakers):
    settings_of_breakers["default"]["BACKEND"] = (
        "circuitbreaker_django.backends.memory.MemoryBackend"
    )


@pytest.fixture
def two_registries(settings_of_breakers, tmp_path):
    settings_of_breakers["other"] = {
        "LOCATION": str(tmp_path / "other.sqlite3"),
        "BREAKERS": {"search": {}, "stock": {}},
    }


def calls(breaker, number, error=None, times=1):
    """Calls that succeed, and then some that fail."""
    for _ in range(number):
        breaker.call(lambda: None)
    for _ in range(times if error else 0):
        with pytest.raises(type(error)):
            breaker.call(fail, error)


@pytest.fixture
def family(worker):
    """A thousand breakers by key that another process has told of; four of them are of interest."""
    keyed = {"keyed": True}
    worker.backend.declare(Declaration("tenant", keyed, "shop.py:1"))
    for number in range(1000):
        worker.backend.declare(Declaration(f"tenant:{number}", keyed, "shop.py:1"))
    worker.backend._publish(worker.backend._here(), 1)
    by_key = {
        number: CircuitBreaker(f"tenant:{number}", backend=worker.backend) for number in range(4)
    }
    by_key[0].trip()
    by_key[1].disable()
    by_key[2].record_failure()
    by_key[3].trip()
    by_key[3].reset()
    return by_key


def first_words(text):
    return [line.split()[0] for line in text.splitlines() if line]
