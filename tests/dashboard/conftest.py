"""A dashboard that looks at a real store, and a process that serves beside it."""

from __future__ import annotations

import types
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.dashboard import readings

POLICY: Any = {"failure_threshold": 3, "recovery_timeout": 300}


@pytest.fixture
def location(tmp_path):
    return tmp_path / "circuits.sqlite3"


@pytest.fixture
def breaker_settings(settings, location):
    """``CIRCUIT_BREAKERS["default"]``; to change it, assign the whole."""
    config = {"LOCATION": str(location), "BREAKERS": {"payments": POLICY, "search": {}}}
    settings.CIRCUIT_BREAKERS = {"default": config}
    return config


@pytest.fixture(autouse=True)
def outside(monkeypatch, breaker_settings):
    """The dashboard sees real stores, and remembers nothing of the test before."""
    monkeypatch.setattr("circuitbreaker_django.operations.room.in_test_environment", lambda: False)
    monkeypatch.setattr(readings, "_last", {})


@pytest.fixture
def worker(location):
    """A process that serves: a backend of its own at the same place, and breakers in use."""
    backend = SQLiteBackend(location)
    backend.threads = False
    worker = types.SimpleNamespace(
        backend=backend,
        payments=CircuitBreaker("payments", **POLICY, backend=backend),
        search=CircuitBreaker("search", backend=backend),
    )
    worker.payments.call(lambda: None)
    yield worker
    backend.close()
