"""A control room, and a process that serves beside it on a real SQLite store."""

from __future__ import annotations

import pytest
from django.test import override_settings

from circuitbreaker_django import (
    CircuitBreaker,
    registries,
)
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.store import Declaration
from circuitbreaker_django.core.circuit import CommandKind
from circuitbreaker_django.core.policy import POLICY_FIELDS, Policy
from circuitbreaker_django.operations.room import ControlRoom


@pytest.fixture(autouse=True)
def outside(monkeypatch):
    """As a command sees it: not inside of Django's test environment."""
    monkeypatch.setattr("circuitbreaker_django.operations.room.in_test_environment", lambda: False)


@pytest.fixture
def location(tmp_path):
    return tmp_path / "circuits.sqlite3"


@pytest.fixture
def config(location):
    """The settings of the registry; a test may change them before it enters a room."""
    return {"LOCATION": str(location)}


@pytest.fixture
def enter(config):
    """Enters the control room as the settings are now."""
    rooms = []

    def enter_room():
        with override_settings(CIRCUIT_BREAKERS={"default": config}):
            room = ControlRoom(registries["default"])
        rooms.append(room)
        return room

    yield enter_room
    for room in rooms:
        room.close()


@pytest.fixture
def worker(location):
    """A process that serves: a backend of its own at the same place, and a breaker in use."""
    backend = SQLiteBackend(location)
    backend.threads = False
    breaker = CircuitBreaker("payments", failure_threshold=3, backend=backend)
    breaker.call(lambda: None)
    yield breaker
    backend.close()


def trip(room, *names, kind=CommandKind.TRIP, **options):
    return room.order(names, kind, actor="anna", reason="a test", **options)


def publish(worker, name, where="shop/pay.py:3", **policy):
    values = {key: getattr(Policy(**policy), key) for key in POLICY_FIELDS}
    worker.backend.declare(Declaration(name, {**values, "exceptions": ["Exception"]}, where))
    worker.backend.touch()
    worker.backend._publish(worker.backend._here(), 1)
