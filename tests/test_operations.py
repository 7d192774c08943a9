"""What operators see and do from outside, on real SQLite stores."""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import override_settings

from circuitbreaker_django import (
    CircuitBackendError,
    CircuitBreaker,
    CircuitState,
    Mode,
    UnknownBreakerError,
    registries,
)
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.store import Declaration
from circuitbreaker_django.core import options
from circuitbreaker_django.core.circuit import CommandKind
from circuitbreaker_django.core.policy import POLICY_FIELDS, Policy
from circuitbreaker_django.operations.catalogue import choose
from circuitbreaker_django.operations.room import CannotSteer, ControlRoom
from tests.core.calls import fail


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


# -- the store is there or not ----------------------------------------------------------------


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


# -- who can be steered -----------------------------------------------------------------------


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
    with pytest.raises(CannotSteer, match="in each process alone"):
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


# -- orders -----------------------------------------------------------------------------------


def test_trip_and_reset_reach_a_worker_at_its_next_call(enter, worker):
    room = enter()
    [row] = trip(room, "payments")
    assert [row.state, worker.state] == [CircuitState.OPEN] * 2
    assert row.retry_after == pytest.approx(30, abs=1)
    [row] = trip(room, "payments", kind=CommandKind.RESET)
    assert [row.state, worker.state] == [CircuitState.CLOSED] * 2
    assert row.retry_after is None


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


# -- names and policies -----------------------------------------------------------------------


def test_known_are_names_of_settings_of_code_here_of_code_there_and_of_the_store(
    enter, config, worker
):
    config["BREAKERS"] = {"of settings": {}}
    registries["default"].declare("of code here")
    publish(worker, "of code there")
    worker.trip()
    room = enter()
    assert room.known.names() == ["of code here", "of code there", "of settings", "payments"]
    assert [row.where for row in room.status(room.known.names())] == [
        registries["default"].declaration("of code here").where,
        "shop/pay.py:3",
        "settings.CIRCUIT_BREAKERS",
        "",
    ]


def test_chosen_are_all_or_those_named_each_once(enter, config):
    config["BREAKERS"] = {"one": {}, "two": {}}
    assert enter().known.choose([]) == ["one", "two"]
    assert enter().known.choose(["two", "one", "two"]) == ["two", "one"]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (["tenant:*"], ["tenant:*"]),
        (["tenant:?"], ["tenant:*", "tenant:a", "tenant:b"]),
        (["tenant:[ab]", "tenant:a"], ["tenant:a", "tenant:b"]),
        (["tenant:b", "*:b", "host:*"], ["tenant:b", "host:b"]),
        (["TENANT:b*", "*"], None),
    ],
)
def test_a_pattern_stands_for_the_names_it_fits_unless_it_is_a_name(wanted, chosen):
    known = ["host:b", "tenant", "tenant:*", "tenant:a", "tenant:b"]
    if chosen is None:
        with pytest.raises(UnknownBreakerError, match=r"no breaker fits 'TENANT:b\*' in a place"):
            choose(wanted, known, "a place")
    else:
        assert choose(wanted, known, "a place") == chosen


def test_chosen_by_a_pattern_are_names_of_settings_code_and_the_store(enter, config, worker):
    config["BREAKERS"] = {"tenant:a": {}, "tenant:*": {"failure_threshold": 9}}
    publish(worker, "tenant:b")
    assert enter().known.choose(["tenant:*"]) == ["tenant:a", "tenant:b"]
    [a, b] = trip(enter(), *enter().known.choose(["tenant:*"]))
    assert [a.state, b.state] == [CircuitState.OPEN] * 2
    assert [a.policy.failure_threshold, b.policy.failure_threshold] == [9, 9]


def test_the_command_takes_patterns(enter, config, worker, capsys):
    config["BREAKERS"] = {"tenant:a": {}, "tenant:b": {}, "host:a": {}}
    other = {"LOCATION": str(config["LOCATION"]) + "x", "BREAKERS": {"tenant:c": {}, "stock": {}}}

    def command(*words):
        with override_settings(CIRCUIT_BREAKERS={"default": config, "other": other}):
            call_command("breaker", *words)
        return capsys.readouterr().out

    command("trip", "tenant:*", "--hold", "--no-input")
    rows = json.loads(command("status", "--format=json", "tenant:*"))
    assert [(row["name"], row["state"]) for row in rows] == [
        ("tenant:a", "open"),
        ("tenant:b", "open"),
        ("tenant:c", "closed"),
    ]
    assert command("history", "tenant:*").count("tenant:") == 2
    assert command("history", "host:*") == "Nothing has happened yet.\n"
    command("reset", "*:a", "--no-input")
    rows = json.loads(command("status", "--format=json", "--registry=default"))
    assert [row["name"] for row in rows if row["state"] == "open"] == ["tenant:b"]
    with pytest.raises(CommandError, match="no breaker fits 'xyz:\\*' in registry 'default' or"):
        command("status", "xyz:*")


@pytest.mark.parametrize(
    ("known", "wanted", "message"),
    [
        (["payments", "search"], ["payment"], "registry 'default'; did you mean payments?"),
        (["stock-a", "stock-b"], ["stock"], "did you mean stock-b or stock-a?"),
        (["payments", "search"], ["zzz"], "; known are: payments, search"),
        ([f"b{n:02}" for n in range(12)], ["zzz"], "b09 and 2 more"),
        ([], ["zzz"], "; none is known yet"),
        (["search"], ["zzz", "search", "yyy"], "no breaker 'yyy'"),
        (["search"], ["zzz*"], "no breaker fits 'zzz*' in registry 'default'; known are: search"),
        ([], ["*"], "no breaker fits '*' in registry 'default'; none is known yet"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(enter, config, known, wanted, message):
    config["BREAKERS"] = {name: {} for name in known}
    with pytest.raises(UnknownBreakerError) as caught:
        enter().known.choose(wanted)
    assert message in str(caught.value)


def test_policy_is_of_the_settings_then_of_the_code_then_as_published(enter, config, worker):
    publish(worker, "hidden", recovery_timeout=300, failure_threshold=7)
    publish(worker, "stock", recovery_timeout=300, failure_threshold=7)
    config["DEFAULTS"] = {"recovery_timeout": 5, "success_threshold": 4}
    config["BREAKERS"] = {"stock": {"recovery_timeout": 12}}
    hidden, stock, other = enter().status(["hidden", "stock", "other"])
    assert (hidden.policy.recovery_timeout, hidden.policy.failure_threshold) == (300, 7)
    assert (stock.policy.recovery_timeout, stock.policy.failure_threshold) == (12, 7)
    assert (other.policy.recovery_timeout, other.policy.success_threshold) == (5, 4)


def test_policy_of_a_breaker_by_key(enter, config, worker):
    config["DEFAULTS"] = {"failure_threshold": 2, "ramp_up": 2.0}
    config["BREAKERS"] = {
        "tenant": {"success_threshold": 4, "half_open_max_calls": 4},
        "tenant:*": {"half_open_max_calls": 5, "trial_timeout": 5.0},
        "tenant:b": {"trial_timeout": 6.0},
    }
    family = {"failure_threshold": 7, "recovery_timeout": 7.0, "keyed": True}
    worker.backend.declare(Declaration("tenant", family, "shop.py:1"))
    worker.backend.declare(Declaration("tenant:b", {"recovery_timeout": 8.0}, "shop.py:2"))
    worker.backend.declare(Declaration("host", {"failure_threshold": 9}, "shop.py:3"))
    worker.backend._publish(worker.backend._here(), 1)
    a, b, host = enter().status(["tenant:a", "tenant:b", "host:a"])

    assert [row.where for row in (a, b, host)] == ["shop.py:1", "shop.py:2", ""]
    assert host.policy.failure_threshold == 2
    assert (a.policy.failure_threshold, b.policy.failure_threshold) == (7, 2)
    assert (a.policy.recovery_timeout, b.policy.recovery_timeout) == (7, 8)
    assert (a.policy.success_threshold, b.policy.success_threshold) == (4, 4)
    assert (a.policy.half_open_max_calls, b.policy.half_open_max_calls) == (5, 5)
    assert (a.policy.trial_timeout, b.policy.trial_timeout) == (5, 6)
    assert a.policy.ramp_up == 2


def test_code_here_says_what_a_family_is_like(enter, config, worker):
    registries.declare("default", "tenant", {"failure_threshold": 7}, keyed=True)
    config["DEFAULTS"] = {"failure_threshold": 2}
    [row] = enter().status(["tenant:a"])

    assert row.policy.failure_threshold == 7
    assert row.where == registries["default"].declaration("tenant").where


def test_where_each_option_is_set(enter, config, worker):
    publish(worker, "stock", "shop/stock.py:3", recovery_timeout=300, failure_threshold=7)
    config["DEFAULTS"] = {"recovery_timeout": 300, "quorum": 2}
    config["BREAKERS"] = {"stock": {"success_threshold": 4}}
    registries.declare("default", "stock", {"ramp_up": 9.0})
    origins = enter().known.origins("stock")
    assert origins.pop("ramp_up").startswith(__file__)
    assert origins == {
        "failure_threshold": "shop/stock.py:3",
        "quorum": "shop/stock.py:3",  # those who serve run with another
        "recovery_timeout": 'CIRCUIT_BREAKERS["default"]["DEFAULTS"]',
        "success_threshold": 'CIRCUIT_BREAKERS["default"]["BREAKERS"]["stock"]',
    }
    assert enter().known.origins("other") == {
        "quorum": 'CIRCUIT_BREAKERS["default"]["DEFAULTS"]',
        "recovery_timeout": 'CIRCUIT_BREAKERS["default"]["DEFAULTS"]',
    }


@pytest.mark.parametrize("published", [{"of_a_later_release": 1}, {"recovery_timeout": -1}, []])
def test_a_policy_that_is_not_understood_is_passed_over(enter, worker, published):
    worker.backend.declare(Declaration("hidden", published, "x.py:1"))
    worker.backend._publish(worker.backend._here(), 1)
    [row] = trip(enter(), "hidden")
    assert row.policy == Policy()


def test_a_policy_counts_even_where_what_judges_its_calls_has_no_path(enter, worker):
    breaker = CircuitBreaker(failure_threshold=7, failure_predicate=lambda error: True)
    published = options.as_data(breaker.policy, breaker.classifier)
    worker.backend.declare(Declaration("hidden", published, "x.py:1"))
    worker.backend._publish(worker.backend._here(), 1)
    [row] = enter().status(["hidden"])
    assert row.policy == breaker.policy


def test_differing_settings_are_seen(enter, config, worker):
    room = enter()
    worker.backend.digest = room.registry.config.digest()
    publish(worker, "payments")
    assert not enter().differing
    config["DEFAULTS"] = {"failure_threshold": 2}
    assert enter().differing


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


def test_the_default_place_is_in_memory(enter, config):
    assert enter().in_memory is False
    config["LOCATION"] = "/dev/shm/somewhere/circuits.sqlite3"
    assert enter().in_memory is True


def test_process_is_known_by_kind(enter, worker):
    [process] = enter().processes
    assert json.dumps(process.kind)
    assert process.pid > 0


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
