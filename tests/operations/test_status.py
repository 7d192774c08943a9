"""One breaker as operators see it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from circuitbreaker_django import (
    CircuitBackendError,
    CircuitBreaker,
    CircuitState,
    Mode,
)
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.store import Declaration
from circuitbreaker_django.core.circuit import CommandKind
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.operations.looks import Look
from tests.core.calls import fail
from tests.operations.conftest import trip


def test_a_hold_for_a_while_says_until_when(enter, worker):
    [row] = trip(enter(), "payments", kind=CommandKind.HOLD, duration=3600 * 10**6)
    assert (row.mode, row.state) == (Mode.FORCED_OPEN, CircuitState.OPEN)
    assert row.mode_until is not None
    assert row.mode_until - datetime.now(UTC) == pytest.approx(
        timedelta(hours=1), abs=timedelta(seconds=5)
    )
    assert row.retry_after == pytest.approx(3600, abs=5)


def test_a_hold_without_end_says_none(enter, worker):
    [row] = trip(enter(), "payments", kind=CommandKind.HOLD)
    assert (row.mode, row.mode_until, row.retry_after) == (Mode.FORCED_OPEN, None, None)
    assert (row.updated_by, row.reason) == ("anna", "a test")


def test_what_opened_it_is_seen(enter, worker):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            worker.call(lambda: 1 / 0)
    [row] = enter().status(["payments"])
    assert row.failures == 2
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 / 0)
    [row] = enter().status(["payments"])
    assert row.state is CircuitState.OPEN
    assert row.reason == "3 failures within 60 s, last ZeroDivisionError"
    assert row.since is not None
    assert row.since.tzinfo is UTC
    assert datetime.now(UTC) - row.since < timedelta(seconds=10)


def test_half_open_may_be_tried_now(enter, worker, config):
    config["BREAKERS"] = {"payments": {"recovery_timeout": 0.001}}
    trip(enter(), "payments")
    [row] = enter().status(["payments"])
    assert (row.state, row.retry_after) == (CircuitState.HALF_OPEN, 0)


def test_calls_over_time_are_those_of_all_workers(enter, worker):
    worker.backend.publish()
    room = enter()
    [row, other] = room.status(["payments", "search"])
    assert row.stats.last_hour.calls == 1
    assert (row.stats.quarters, other.stats.last_hour.calls) == ((), 0)
    [row] = room.status(["payments"], day=True)
    assert [bucket.counts.calls for bucket in row.stats.quarters] == [1]


def test_what_cannot_be_read_of_calls_hides_nothing_else(enter, worker, monkeypatch):
    room = enter()

    def unreadable(*args, **options):
        raise CircuitBackendError("gone")

    monkeypatch.setattr(SQLiteBackend, "stats", unreadable)
    [row] = room.status(["payments"])
    assert (row.state, row.stats) == (CircuitState.CLOSED, None)


def test_a_process_alone_is_no_matter_once_it_is_open_for_all(enter, config, worker):
    config["BREAKERS"] = {"payments": {"quorum": 2}}
    worker.policy = Policy(failure_threshold=1, quorum=2)
    fail_once(worker)
    worker.backend.publish()
    [row] = enter().status(["payments"])
    assert [process.pid for process in row.alone_in] == [os.getpid()]
    [row] = trip(enter(), "payments")
    assert row.alone_in == ()


def fail_once(worker):
    with pytest.raises(OSError):
        worker.call(fail, OSError("refused"))


@pytest.mark.parametrize("mode", ["disabled", "metrics_only", "forced_open"])
def test_a_mode_of_the_settings_is_nobodys(enter, location, mode):
    """Whoever has acted under it has not brought it about."""
    backend = SQLiteBackend(location)
    backend.threads = False
    breaker = CircuitBreaker("payments", initial_mode=mode, backend=backend)
    backend.declare(Declaration("payments", {"initial_mode": mode}, "here"))
    backend.publish()
    for act, look in (
        (breaker.reset, Look.CLOSED),
        (breaker.trip, Look.OPEN),
        (partial(breaker.trip, hold=True), Look.HELD),
        (breaker.disable, Look.DISABLED),
    ):
        act(actor="anna")
        [status] = enter().status(["payments"])
        assert (status.updated_by, status.updated_to) == ("anna", look)
    backend.close()


def test_after_an_enable_why_since_and_who_are_the_circuits_own(enter, location):
    backend = SQLiteBackend(location)
    backend.threads = False
    breaker = CircuitBreaker(
        "payments", failure_threshold=1, initial_mode="disabled", backend=backend
    )
    breaker.call(lambda: None)
    breaker.enable(reason="it is ready", actor="anna")
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)
    backend.declare(Declaration("payments", {"initial_mode": "disabled"}, "here"))
    backend.publish()
    [status] = enter().status(["payments"])
    backend.close()
    assert (status.state, status.mode) == (CircuitState.OPEN, Mode.AUTO)
    assert status.updated_by == ""
    assert "ready" not in status.reason
    assert status.since is not None
