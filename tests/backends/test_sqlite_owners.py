"""Whose the files of a SQLite store are."""

from __future__ import annotations

import json
import math
import os
import stat

import pytest

from circuitbreaker_django.backends import (
    place,
    sqlite,
    sqlite_tables,
)
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.sqlite_file import SQLiteFile
from circuitbreaker_django.backends.store import Declaration, StoreBusy, StoreLost
from circuitbreaker_django.core.errors import CircuitBackendError
from tests.backends import sqlite_store
from tests.backends.sqlite_store import (
    process_of,
    tick,
    warnings,
)
from tests.backends.users import ANN, BOB, TEAM, as_user, common, modes, needs_root
from tests.core.calls import ok

__all__ = ["common"]

backend, breaker, later = sqlite_store.backend, sqlite_store.breaker, sqlite_store.later


def trip_at(location):
    """Opens the store and a circuit in it, and tells what is in it then."""

    def trip():
        backend = SQLiteBackend(location, namespace="shop")
        backend.threads = False
        from circuitbreaker_django import CircuitBreaker

        breaker = CircuitBreaker(f"of {os.geteuid()}", backend=backend)
        breaker.trip()
        found = backend.overview()
        files = modes(backend.place.folder)
        backend.close()
        return json.dumps([sorted(found.circuits), files])

    return trip


@needs_root
@pytest.mark.parametrize("mode", [0o770, 0o2770])
def test_two_users_of_a_group_share_a_folder_that_both_may_write_to(common, mode):
    folder = common / "shared"
    folder.mkdir()
    os.chown(folder, 0, TEAM)
    folder.chmod(mode)
    location = folder / "x.sqlite3"
    names, files = json.loads(as_user(ANN, trip_at(location), groups=(TEAM,)))
    assert names == [f"of {ANN}"]
    assert files == {end: ["0o660", ANN, TEAM] for end in ("", "-bell", "-shm", "-wal")}
    names, files = json.loads(as_user(BOB, trip_at(location), groups=(TEAM,)))
    assert names == [f"of {ANN}", f"of {BOB}"]
    assert {(found[0], found[2]) for found in files.values()} == {("0o660", TEAM)}
    names, files = json.loads(trip_at(location)())
    assert names == ["of 0", f"of {ANN}", f"of {BOB}"]
    names, _ = json.loads(as_user(ANN, trip_at(location), groups=(TEAM,)))
    assert len(names) == 3


@needs_root
def test_both_are_in_at_once_and_so_is_root(common):
    folder = common / "shared"
    folder.mkdir()
    os.chown(folder, 0, TEAM)
    folder.chmod(0o770)
    backend = SQLiteBackend(folder / "x.sqlite3")
    backend.threads = False
    backend.overview()
    for user in (ANN, BOB):
        answer = as_user(user, trip_at(folder / "x.sqlite3"), groups=(TEAM,))
        assert f"of {user}" in answer
    assert len(backend.overview().circuits) == 2
    backend.close()


@needs_root
@pytest.mark.parametrize("first", ["root", "service"])
def test_root_and_the_service_meet_in_the_services_folder(common, first):
    folder = common / "service"
    folder.mkdir(0o700)
    os.chown(folder, ANN, ANN)
    location = folder / "x.sqlite3"

    def service():
        return as_user(ANN, trip_at(location))

    one, two = (trip_at(location), service) if first == "root" else (service, trip_at(location))
    one()
    names, files = json.loads(two())
    assert names == ["of 0", f"of {ANN}"]
    assert files == {end: ["0o600", ANN, ANN] for end in ("", "-bell", "-shm", "-wal")}
    assert "of 0" in service()


@needs_root
def test_at_the_default_place_only_the_owner_and_root_come_in(common, monkeypatch):
    common.chmod(0o1777)
    monkeypatch.setattr(place, "base_folder", lambda: common)
    assert f"of {ANN}" in as_user(ANN, trip_at(None))
    assert f"of {ANN}" in trip_at(None)()
    assert f"of {ANN}" in as_user(ANN, trip_at(None))
    answer = as_user(BOB, trip_at(None))
    assert answer.startswith("CircuitBackendError: nothing was applied")
    assert f"belongs to uid {ANN}" in answer
    assert stat.S_IMODE((common / "circuitbreaker_django" / "shop").stat().st_mode) == 0o700


@needs_root
def test_where_root_was_first_at_the_default_place_others_are_told(common, monkeypatch):
    common.chmod(0o1777)
    monkeypatch.setattr(place, "base_folder", lambda: common)
    trip_at(None)()
    assert "belongs to root" in as_user(ANN, trip_at(None))


def test_a_store_that_can_be_read_and_not_written_is_not_back(breaker, caplog, monkeypatch):
    """As on a full disk: believed anew each second, it would undo the local circuit each time."""
    breaker.call(ok)
    process = process_of(breaker)
    breaker.backend._lost(process, process.file, StoreLost("the disk is full"))

    def full(file, patience):
        raise StoreLost("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SQLiteFile, "prove", full)
        for _ in range(3):
            tick(breaker)
            assert process.file is None
    assert len(warnings(caplog)) == 1
    tick(breaker)
    assert process.file is not None


def test_what_is_declared_during_a_publication_is_told_by_the_next(breaker, monkeypatch):
    backend = breaker.backend
    breaker.call(ok)
    publish = sqlite_tables.publish

    def meanwhile(*args):
        publish(*args)
        backend.declare(Declaration("late", {}, "here"))

    with monkeypatch.context() as patch:
        patch.setattr("circuitbreaker_django.backends.sqlite.publish", meanwhile)
        process_of(breaker).publishing.publish_at = process_of(breaker).publishing.declare_at = 0.0
        tick(breaker)
    process_of(breaker).publishing.publish_at = 0.0
    tick(breaker)
    assert "late" in backend.overview().declarations


def test_a_publication_that_fails_is_made_up_for(breaker, monkeypatch):
    breaker.call(ok)
    process = process_of(breaker)
    breaker.backend.declare(Declaration("late", {}, "here"))
    process.publishing.declare_at = 0.0

    def busy(*args):
        raise StoreBusy("busy")

    with monkeypatch.context() as patch:
        patch.setattr("circuitbreaker_django.backends.sqlite.publish", busy)
        tick(breaker)
    assert (process.publishing.publish_at, process.publishing.declare_at) == (0.0, 0.0)
    breaker.backend.declare(Declaration("later", {}, "here"))
    process.publishing.declare_at = math.inf
    with monkeypatch.context() as patch:
        patch.setattr("circuitbreaker_django.backends.sqlite.publish", busy)
        tick(breaker)
    assert (process.publishing.publish_at, process.publishing.declare_at) == (0.0, math.inf)
    tick(breaker)
    assert set(breaker.backend.overview().declarations) == {"late", "later"}


def test_a_question_waits_for_its_turn_and_not_for_ever(breaker, monkeypatch):
    breaker.call(ok)
    monkeypatch.setattr(sqlite, "COMMAND_PATIENCE", 0.01)
    mine = process_of(breaker).reading.taken(0)
    with mine, pytest.raises(CircuitBackendError, match="another thread"):
        breaker.backend.overview()


def test_a_word_is_cleaned_by_whoever_has_the_turn(breaker):
    breaker.call(ok)
    process = process_of(breaker)
    word = process.file.bell.word
    word[()] = -5.0
    with process.writing.taken(0):
        breaker.backend._clean_word(process, process.file)
    assert word[()] == -5.0
    breaker.backend._clean_word(process, process.file)
    assert word[()] > 0


def test_who_has_waited_while_another_thread_read_does_not_read_again(breaker, monkeypatch):
    breaker.call(ok)
    file = process_of(breaker).file
    reads = []
    monkeypatch.setattr(file, "news", lambda: reads.append("again"))
    breaker.backend._refresh(process_of(breaker), file)
    assert reads == []
