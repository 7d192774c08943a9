"""One registry seen and steered from outside, on real SQLite stores."""

from __future__ import annotations

import cProfile
import json
import sqlite3

import pytest
from django.core.exceptions import ImproperlyConfigured

from circuitbreaker_django import (
    CircuitBackendError,
    CircuitState,
    Mode,
)
from circuitbreaker_django.backends.store import Declaration
from circuitbreaker_django.core.circuit import CommandKind
from circuitbreaker_django.operations.room import CannotSteer
from tests.operations.conftest import publish, trip


def test_a_glance_sees_what_the_status_says_whoever_said_the_mode(enter, config, worker):
    config["DEFAULTS"] = {"failure_threshold": 1}
    config["BREAKERS"] = {"here": {"initial_mode": "disabled"}, "plain": {}}
    publish(worker, "there", initial_mode="metrics_only")
    publish(worker, "held", initial_mode="forced_open")
    worker.backend.declare(Declaration("odd", {"initial_mode": ["x"]}, "another release"))
    worker.trip()
    room = enter()
    glance = room.glance()
    assert glance == {row.name: (row.state, row.mode) for row in room.status(room.known.names())}
    assert {mode for _, mode in glance.values()} == set(Mode)
    config["DEFAULTS"] = {"initial_mode": "disabled"}
    assert enter().glance()["plain"] == (CircuitState.CLOSED, Mode.DISABLED)


def test_what_a_row_costs_does_not_grow_with_breakers(enter, config, worker):
    def calls(number):
        config["BREAKERS"] = {f"b{each:03}": {} for each in range(number)}
        room = enter()
        with cProfile.Profile() as profile:
            room.status(["payments", "b000", "b001"])
        return sum(one.callcount for one in profile.getstats())

    calls(10)
    assert calls(1000) <= calls(10) + 10


# -- the store is there or not -----------------------------------------------------------------


def test_looking_makes_no_store(enter, config, tmp_path):
    config["BREAKERS"] = {"stock": {}}
    room = enter()
    assert room.missing == f"there is no {room.place}"
    [row] = room.status(room.known.names())
    assert (row.name, row.state, row.since, row.failures) == ("stock", "closed", None, 0)
    assert room.history([], 5) == []
    assert list(tmp_path.iterdir()) == []


def test_looking_is_no_use_of_a_breaker(enter, worker):
    enter()
    assert len(enter().processes) == 1


def test_an_order_makes_a_store_only_by_force(enter, config, tmp_path):
    config["BREAKERS"] = {"stock": {}}
    room = enter()
    with pytest.raises(CannotSteer, match=r"no live process uses .*circuits\.v1\.sqlite3"):
        trip(room, "stock")
    assert list(tmp_path.iterdir()) == []
    [row] = trip(room, "stock", force=True)
    assert (row.state, row.updated_by, row.reason) == ("open", "anna", "a test")
    assert room.missing is None
    assert enter().status(["stock"])[0].state is CircuitState.OPEN


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE circuits SET record = 'garbage'",
        "UPDATE circuits SET record = '{}'",
        "DROP TABLE circuits",
    ],
)
def test_a_store_that_cannot_be_understood_is_told(enter, worker, statement):
    worker.trip()
    with sqlite3.connect(worker.backend.place.database) as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(CircuitBackendError, match=r"circuits\.v1\.sqlite3 cannot be used: "):
        enter()


def test_a_file_of_something_else_is_told(enter, location):
    location.with_name("circuits.v1.sqlite3").write_text("something else" * 100)
    with pytest.raises(CircuitBackendError):
        enter()


def test_an_order_that_the_store_cannot_confirm_is_not_applied(enter, worker, monkeypatch):
    room = enter()
    with sqlite3.connect(worker.backend.place.database, isolation_level=None) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(CircuitBackendError, match="nothing was applied"):
            trip(room, "payments")
        connection.execute("ROLLBACK")
    connection.close()
    assert worker.state is CircuitState.CLOSED
    assert enter().status(["payments"])[0].state is CircuitState.CLOSED


def test_an_order_that_was_applied_is_never_called_anything_else(enter, worker, monkeypatch):
    room = enter()

    def lost():
        raise CircuitBackendError("the disk is gone")

    monkeypatch.setattr(room._backend, "overview", lost)
    with pytest.raises(CircuitBackendError, match="it was applied, but then: the disk is gone"):
        trip(room, "payments")
    assert worker.state is CircuitState.OPEN


def test_backend_that_cannot_be_made_is_a_matter_of_settings(enter, config):
    config["OPTIONS"] = {"nonsense": 1}
    with pytest.raises(ImproperlyConfigured, match="nonsense"):
        enter()


# -- who can be steered ------------------------------------------------------------------------


def test_a_switched_off_registry_is_not_steered(enter, config, worker):
    config["ENABLED"] = False
    room = enter()
    assert room.status(["payments"])[0].state is CircuitState.CLOSED
    with pytest.raises(CannotSteer, match="switched off"):
        trip(room, "payments", force=True)


def test_a_process_local_registry_is_not_steered(enter, config):
    config["BACKEND"] = "circuitbreaker_django.backends.memory.MemoryBackend"
    config["BREAKERS"] = {"stock": {}}
    room = enter()
    assert (room.shared, room.place) == (False, "the memory of this process")
    assert room.known.names() == ["stock"]
    with pytest.raises(CannotSteer, match="separate circuits in each process"):
        trip(room, "stock", force=True)


def test_inside_of_tests_nothing_real_is_looked_at(enter, worker, monkeypatch):
    monkeypatch.undo()
    assert enter().shared is False


def test_without_a_live_process_nothing_is_applied(enter, worker):
    worker.backend.close()
    room = enter()
    assert room.processes == ()
    with pytest.raises(CannotSteer) as caught:
        trip(room, "payments")
    for word in ("stopped", "container", "another host", "NAMESPACE", "LOCATION", "--force"):
        assert word in str(caught.value)


# -- orders ------------------------------------------------------------------------------------


def test_trip_and_reset_reach_a_worker_at_its_next_call(enter, worker):
    room = enter()
    [row] = trip(room, "payments")
    assert [row.state, worker.state] == [CircuitState.OPEN] * 2
    assert row.retry_after == pytest.approx(30, abs=1)
    [row] = trip(room, "payments", kind=CommandKind.RESET)
    assert [row.state, worker.state] == [CircuitState.CLOSED] * 2
    assert row.retry_after is None


# -- what is seen ------------------------------------------------------------------------------


def test_differing_settings_are_seen(enter, config, worker):
    room = enter()
    worker.backend.digest = room.registry.config.digest()
    publish(worker, "payments")
    assert not enter().differing
    config["DEFAULTS"] = {"failure_threshold": 2}
    assert enter().differing


def test_the_default_place_is_in_memory(enter, config):
    assert enter().in_memory is False
    config["LOCATION"] = "/dev/shm/somewhere/circuits.sqlite3"
    assert enter().in_memory is True


def test_process_is_known_by_kind(enter, worker):
    [process] = enter().processes
    assert json.dumps(process.kind)
    assert process.pid > 0
