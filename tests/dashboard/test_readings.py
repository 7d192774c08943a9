"""What the dashboard knows of registries, whose stores may be anywhere."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from circuitbreaker_django import CircuitBackendError, Mode, registries
from circuitbreaker_django.backends.host import host_name
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.store import ProcessInfo
from circuitbreaker_django.dashboard import readings
from circuitbreaker_django.dashboard.keys import Key
from circuitbreaker_django.dashboard.readings import banners, watching
from circuitbreaker_django.operations.room import ControlRoom

PAYMENTS = Key("default", "payments")


def levels_and_texts():
    with watching() as seen:
        return [(one["level"], one["text"]) for one in banners(seen.readings)]


def break_store(location):
    """What lies there is no store of ours."""
    for path in location.parent.glob("circuits.v1*"):
        path.unlink()
    location.with_name("circuits.v1.sqlite3").mkdir()


def test_every_registry_is_read(settings, worker, location):
    settings.CIRCUIT_BREAKERS = {
        **settings.CIRCUIT_BREAKERS,
        "other": {"LOCATION": f"{location}.other", "BREAKERS": {"stock": {}}},
    }
    with watching() as seen:
        assert [key.pk for key in seen.glance()] == [
            "default:payments",
            "default:search",
            "other:stock",
        ]
    with watching(["other", "other"]) as seen:
        assert [one.alias for one in seen.readings] == ["other"]


def test_with_a_store_and_workers_there_is_nothing_to_say(worker):
    worker.backend.digest = registries["default"].config.digest()
    worker.backend._here().publishing.publish_at = 0
    worker.backend._publish(worker.backend._here(), 1)
    assert levels_and_texts() == []


def test_no_store_yet_is_told(location):
    [(level, text)] = levels_and_texts()
    assert level == "info"
    assert text == "No process has used a breaker of registry “default” yet."
    assert not list(location.parent.iterdir())


def test_other_settings_are_told(worker):
    [(level, text)] = levels_and_texts()
    assert level == "warning"
    assert text.startswith("1 of 1 live processes of registry “default” runs with other settings")


def test_processes_that_are_not_heard_of_are_told(worker, monkeypatch):
    process = ProcessInfo("web1", 7, "gunicorn", 0.0, "", "")
    monkeypatch.setattr(ControlRoom, "silent", {process: 40.0})
    assert levels_and_texts()[-1] == (
        "warning",
        "1 process of registry “default” was not heard of lately: it may be cut off from the "
        "store, and then goes on alone and follows no order.",
    )


def test_a_switched_off_registry_is_told(settings, breaker_settings):
    settings.CIRCUIT_BREAKERS = {"default": {**breaker_settings, "ENABLED": False}}
    assert (
        "warning",
        "Registry “default” is switched off (ENABLED is False): all calls pass.",
    ) in (levels_and_texts())


def test_a_process_local_registry_is_told(settings):
    backend = "circuitbreaker_django.backends.memory.MemoryBackend"
    settings.CIRCUIT_BREAKERS = {"default": {"BACKEND": backend}}
    [(level, text)] = levels_and_texts()
    assert level == "warning"
    assert f"those of process {os.getpid()} on {host_name()}" in text


def test_a_lost_store_is_told_and_what_was_known_is_shown(worker, location):
    worker.payments.trip(hold=True)
    with watching() as seen:
        before, origins = seen.glance(), seen.origins(PAYMENTS)
    assert "failure_threshold" in origins
    worker.backend.close()
    break_store(location)
    with watching() as seen:
        [reading] = seen.readings
        assert seen.glance() == before
        [status] = seen.statuses([PAYMENTS]).values()
        assert (status.mode, status.stats) == (Mode.FORCED_OPEN, None)
        assert seen.history(PAYMENTS) is None
        assert seen.origins(PAYMENTS) == origins
    [(level, text)] = levels_and_texts()
    assert level == "error"
    assert "has not been reachable since" in text
    assert "You see what was known at" in text
    lost_at = reading.lost_at
    with watching() as seen:
        assert seen.readings[0].lost_at == lost_at
    readings._last["default"] = replace(reading, asked_at=reading.asked_at - readings.KNOWN_FOR)
    with watching() as seen:  # it may have been there meanwhile
        assert seen.readings[0].lost_at not in (None, lost_at)
    location.with_name("circuits.v1.sqlite3").rmdir()
    with watching() as seen:
        assert seen.readings[0].lost_at is None


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_who_looks_at_a_lost_store_tells_nobody_else(kind, settings, location, caplog):
    """That is for the processes that serve: each poll would send a mail."""
    if kind == "redis":
        backend = "circuitbreaker_django.backends.redis.RedisBackend"
        there = f"unix://{location}"
        settings.CIRCUIT_BREAKERS = {"default": {"BACKEND": backend, "LOCATION": there}}
    else:
        break_store(location)
    for _ in range(2):
        [(level, _)] = levels_and_texts()
        assert level == "error"
    assert not caplog.records


def test_what_was_known_keeps_its_times(worker, location, monkeypatch):
    worker.payments.trip()
    with watching() as seen:
        [before] = seen.statuses([PAYMENTS]).values()
    worker.backend.close()
    break_store(location)
    later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    with watching() as seen:
        [after] = seen.statuses([PAYMENTS]).values()
    assert (after.since, after.retry_after) == (before.since, before.retry_after)


def test_a_store_that_was_never_reached_leaves_names(location):
    break_store(location)
    with watching() as seen:
        assert seen.glance() == {PAYMENTS: None, Key("default", "search"): None}
        assert seen.statuses([PAYMENTS]) == {}
        assert seen.readings[0].processes == 0
    [(_, text)] = levels_and_texts()
    assert text.endswith("What its circuits are is not known here.")
    assert ".. " not in text


def test_settings_that_are_wrong_are_told(settings):
    settings.CIRCUIT_BREAKERS = {"default": {"LOCATON": "x"}}
    with watching() as seen:
        assert seen.glance() == {}
    [(level, text)] = levels_and_texts()
    assert level == "error"
    assert text.startswith("Registry “default” cannot be used with its settings: ")
    assert "LOCATON" in text


def test_errors_come_first(settings, breaker_settings, worker, tmp_path):
    (tmp_path / "other.v1.sqlite3").mkdir()
    settings.CIRCUIT_BREAKERS = {
        "default": breaker_settings,
        "other": {"LOCATION": str(tmp_path / "other.sqlite3")},
    }
    assert [level for level, _ in levels_and_texts()] == ["error", "warning"]


def test_history_that_is_lost_meanwhile_is_not_known(worker, monkeypatch):
    def events(self, limit, names):
        raise CircuitBackendError("gone")

    worker.payments.trip()
    with watching() as seen:
        assert len(seen.history(PAYMENTS) or ()) == 1
        monkeypatch.setattr(SQLiteBackend, "events", events)
        assert seen.history(PAYMENTS) is None


def test_stores_are_let_go_of(worker, monkeypatch):
    closed = []
    close = ControlRoom.close

    def count(self):
        closed.append(self)
        close(self)

    monkeypatch.setattr(ControlRoom, "close", count)
    with watching():
        pass
    assert len(closed) == 1


def test_what_is_no_matter_of_stores_is_not_hidden(monkeypatch, worker):
    def fail(self, *args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(ControlRoom, "__init__", fail)
    with pytest.raises(ZeroDivisionError), watching():
        pass
