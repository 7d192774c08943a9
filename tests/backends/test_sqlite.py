"""The SQLite backend in one process; what needs several is in test_sqlite_processes."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import os
import sqlite3
import stat
import sys
import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from circuitbreaker_django import CircuitOpenError, CircuitState
from circuitbreaker_django.backends import (
    host,
    place,
    published,
    sqlite,
    sqlite_attached,
    sqlite_process,
    sqlite_tables,
)
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.sqlite_file import SQLiteFile
from circuitbreaker_django.backends.sqlite_process import SQLiteProcess, start_thread
from circuitbreaker_django.backends.store import Declaration, NoStore, StoreBusy, StoreLost
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.states import Mode, Outcome
from circuitbreaker_django.core.trial import Trial
from tests.backends.users import ANN, BOB, TEAM, as_user, common, modes, needs_root
from tests.backends.waiting import until
from tests.core.calls import aok, failing, ok

__all__ = ["common"]


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


# -- first use -------------------------------------------------------------------------------


def test_nothing_is_touched_before_the_first_use(backend, breaker, location):
    backend.declare(Declaration("payments", {}, "here"))
    backend.close()
    assert not location.parent.exists()
    breaker.call(ok)
    assert location.parent.exists()


def test_the_first_use_sees_a_circuit_that_is_open(breaker, other):
    other.trip()
    assert rejected(breaker)


def test_the_first_use_waits_for_a_tenth_of_a_second_at_most(
    breaker, backend, location, monkeypatch
):
    location.parent.mkdir()
    patience = []
    wait = place.locked_folder

    def locked(found, seconds):
        patience.append(seconds)
        return wait(found, 0)

    monkeypatch.setattr("circuitbreaker_django.backends.sqlite_file.locked_folder", locked)
    with wait(backend.place, 0):
        assert breaker.call(ok) == "ok"
        assert breaker.call(ok) == "ok"
    assert len(patience) == 1
    assert 0 < patience[0] <= sqlite.ATTACH_PATIENCE


def test_threads_that_come_during_the_first_use_wait_for_it_and_do_not_repeat_it(
    breaker, backend, monkeypatch
):
    opened, inside, go = [], threading.Event(), threading.Event()

    def slow(*args, **kwargs):
        opened.append(1)
        inside.set()
        go.wait(10)
        raise StoreLost("away")

    monkeypatch.setattr(sqlite_attached, "open_store", slow)
    monkeypatch.setattr(sqlite, "ATTACH_PATIENCE", 10)
    threads = [threading.Thread(target=breaker.call, args=(ok,)) for _ in range(4)]
    threads[0].start()
    assert inside.wait(10)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert opened == [1]


def test_nobody_waits_twice_for_a_first_use_that_hangs(breaker, backend, monkeypatch):
    monkeypatch.setattr(sqlite, "ATTACH_PATIENCE", 0.01)
    process = process_of(breaker)
    with process.reading.taken(0):
        assert breaker.call(ok) == "ok"
        assert process.tried
    assert backend.problem is None


def test_a_closed_call_does_nothing_but_look_at_the_word(breaker, backend, monkeypatch):
    breaker.call(ok)
    monkeypatch.setattr(backend, "admit", lambda *args: pytest.fail("the long way"))
    for _ in range(3):
        breaker.call(ok)


def test_an_open_circuit_rejects_without_the_store(breaker, backend, monkeypatch):
    breaker.trip()
    assert rejected(breaker)
    monkeypatch.setattr(backend, "admit", lambda *args: pytest.fail("the long way"))
    assert rejected(breaker)


def test_a_process_that_ends_in_an_error_at_the_opening_leaves_nothing_open(
    breaker, backend, monkeypatch
):
    def fails(self):
        raise StoreLost("no news")

    closed = []
    monkeypatch.setattr(SQLiteFile, "news", fails)
    monkeypatch.setattr(SQLiteFile, "close", lambda self: closed.append(self))
    monkeypatch.setattr("circuitbreaker_django.backends.sqlite_file._settle_in", lambda *a: None)
    breaker.call(ok)
    assert len(closed) == 1
    assert backend.problem == "no news"


# -- the word (rule 24) ----------------------------------------------------------------------


def test_a_clean_word_is_remembered_and_a_dirty_one_is_not(breaker, backend):
    breaker.call(ok)
    file = process_of(breaker).file
    for word in (-5.0, 0.0, math.nan):
        file._ring(word)
        breaker.call(ok)
        assert breaker.view.gate.admit != word
        assert breaker.view.gate.admit is not None
        assert file.bell.word[()] != breaker.view.gate.admit
    file._ring(5.0)
    breaker.call(ok)
    assert breaker.view.gate.admit == 5.0


def test_while_the_word_is_dirty_every_call_reads(breaker, other):
    breaker.call(ok)
    process_of(breaker).file._ring(-5.0)
    breaker.call(ok)
    other.call(ok)
    process_of(other).file._ring = lambda word: None  # killed before it could make it clean
    other.trip()
    assert rejected(breaker)


def test_a_change_between_the_word_and_the_rows_is_not_missed(breaker, other, monkeypatch):
    breaker.call(ok)
    file = process_of(breaker).file
    news = file.news

    def late():
        found = news()
        other.trip()  # after the rows were read
        return found

    other.call(ok)
    other.reset()
    file.news = late
    assert not rejected(breaker)
    file.news = news
    assert rejected(breaker)


def test_a_reader_that_is_busy_keeps_nobody_waiting(breaker, other, monkeypatch):
    monkeypatch.setattr(sqlite_attached, "PERMIT_PATIENCE", 0.001)
    breaker.call(ok)
    other.trip()
    with process_of(breaker).reading.taken(0):
        assert breaker.call(ok) == "ok"
    assert rejected(breaker)


def test_a_busy_read_is_repeated_at_the_next_call(breaker, other):
    breaker.call(ok)
    other.trip()
    file = process_of(breaker).file
    news = file.news

    def busy():
        raise StoreBusy("recovery")

    file.news = busy
    assert not rejected(breaker)
    file.news = news
    assert rejected(breaker)


def test_a_file_that_was_lost_while_it_was_read_is_not_believed(breaker, backend, other):
    breaker.call(ok)
    process = process_of(breaker)
    file, news = process.file, process.file.news

    def lost():
        found = news()
        backend._lost(process, file, StoreLost("meanwhile"))
        return found

    other.trip()
    file.news = lost
    assert not rejected(breaker)
    backend._refresh(process, file, force=True)
    assert process.file is None


def test_housekeeping_cleans_a_word_that_was_left_dirty(breaker, other, caplog):
    breaker.call(ok)
    file = process_of(breaker).file
    for word in (-5.0, math.nan):
        file._ring(word)
        tick(breaker)
        assert file.bell.word[()] > 0
    file._ring(-5.0)
    other.call(ok)
    with process_of(other).file.writing(0):
        tick(breaker)
    assert file.bell.word[()] == -5.0
    with process_of(breaker).writing.taken(0):
        tick(breaker)
    assert file.bell.word[()] == -5.0


def test_a_store_that_is_lost_at_the_cleaning_is_lost(breaker, backend, monkeypatch):
    breaker.call(ok)
    file = process_of(breaker).file

    def lost():
        raise StoreLost("away")

    file._ring(-5.0)
    file.clean_word = lost
    backend._clean_word(process_of(breaker), file)
    assert process_of(breaker).file is None


# -- fences (rules 1 and 2) ------------------------------------------------------------------


def test_a_raised_floor_takes_dropped_rows_along(breaker, other, stranger):
    other.trip()
    assert rejected(breaker)
    floor = breaker.view.shared_epoch + 10
    stranger.execute("BEGIN IMMEDIATE")
    stranger.execute("UPDATE meta SET floor = ?, revision = revision + 1", (floor,))
    stranger.execute("DELETE FROM circuits")
    stranger.execute("COMMIT")
    process_of(breaker).file._ring(7.0)
    assert not rejected(breaker)
    assert breaker.view.epoch == floor
    failing(breaker)
    assert breaker.backend.overview().circuits["payments"].epoch == floor


def test_a_store_that_has_gone_back_in_time_is_replaced(breaker, stranger):
    breaker.trip()
    breaker.reset()
    incarnation = breaker.view.incarnation
    stranger.execute("UPDATE meta SET revision = 0")
    tick(breaker)
    tick(breaker)
    assert breaker.view.incarnation != incarnation


def test_another_incarnation_in_the_same_file_is_believed_whole(breaker, other, stranger):
    other.trip()
    assert rejected(breaker)
    stranger.execute("DELETE FROM circuits")
    stranger.execute("UPDATE meta SET incarnation = incarnation / 2 + 1, revision = 0")
    process_of(breaker).file._ring(7.0)
    assert not rejected(breaker)


def test_rows_that_were_read_late_do_not_undo_newer_ones(breaker, other, backend):
    breaker.call(ok)
    other.trip()
    process = process_of(breaker)
    file = process.file
    meta, rows = file.news()
    breaker.reset()
    backend._take(process, file, meta, rows)
    assert backend._rows["payments"].state is CircuitState.CLOSED
    assert breaker.call(ok) == "ok"


# -- a store that is busy (rule 27) ----------------------------------------------------------


@pytest.fixture
def writer(stranger):
    """Somebody who has begun to write and does not come to an end."""
    stranger.execute("BEGIN IMMEDIATE")
    return stranger


def test_after_busy_nobody_tries_inline_for_a_second(breaker, backend, writer, later, monkeypatch):
    breaker.backend.declare(Declaration("payments", {}, "here"))
    failing(breaker)
    deliver = []
    monkeypatch.setattr(backend, "_deliver", lambda *args: deliver.append(args))
    failing(breaker)
    assert breaker.state is CircuitState.OPEN  # on own evidence
    assert deliver == []


def test_what_was_kept_back_is_written_by_the_housekeeping_at_once(breaker, other, writer, later):
    later(1)
    process_of(breaker).ticked_at = time.monotonic() + 100
    failing(breaker)
    assert process_of(breaker).wake.is_set()
    writer.execute("ROLLBACK")
    tick(breaker)
    failing(other)
    assert rejected(breaker)


def test_a_caller_waits_two_milliseconds_and_nothing_on_a_loop(backend):
    assert backend._patience() == sqlite_attached.FLUSH_PATIENCE

    async def patience():
        return backend._patience()

    assert asyncio.run(patience()) == 0


def test_an_async_call_passes_by_the_bell_until_another_process_rings(breaker, other):
    protected = breaker(aok)
    assert [asyncio.run(protected()) for _ in range(2)] == ["ok", "ok"]
    assert breaker.view.all_calls == 2
    other.trip()
    with pytest.raises(CircuitOpenError):
        asyncio.run(protected())


def test_a_read_on_a_loop_waits_no_longer_than_a_failure(breaker, other):
    async def call():
        return breaker.call(ok)

    breaker.call(ok)
    other.trip()
    with process_of(breaker).reading.taken(0):
        assert asyncio.run(call()) == "ok"


def test_trials_are_rejected_at_first_and_local_when_the_writer_has_stopped(
    breaker, writer, clock, later, monkeypatch
):
    monkeypatch.setattr("circuitbreaker_django.backends.base.PERMIT_PATIENCE", 0.002)
    writer.execute("ROLLBACK")
    breaker.trip()
    clock.advance(30)
    writer.execute("BEGIN IMMEDIATE")
    assert isinstance(breaker.enter(), CircuitOpenError)
    assert not breaker.view.local
    acquire = breaker.backend._acquire
    breaker.backend._acquire = lambda *args: pytest.fail("an inline attempt")
    assert isinstance(breaker.enter(), CircuitOpenError)
    later(1)
    breaker.enter()
    clock.advance(3)
    trial = breaker.enter()
    assert isinstance(trial, Trial)
    assert trial.local
    breaker.backend._acquire = acquire


def test_a_stopped_writer_that_goes_on_gives_the_store_back_whole(
    breaker, other, writer, clock, later, monkeypatch
):
    monkeypatch.setattr("circuitbreaker_django.backends.base.PERMIT_PATIENCE", 0.002)
    writer.execute("ROLLBACK")
    breaker.trip()
    clock.advance(30)
    writer.execute("BEGIN IMMEDIATE")
    breaker.enter()
    later(1)
    breaker.enter()
    clock.advance(3)
    breaker.leave(breaker.enter(), Outcome.SUCCESS)
    assert breaker.view.epoch  # closed, here
    writer.execute("ROLLBACK")
    tick(breaker)
    tick(breaker)
    assert breaker.backend.available
    assert breaker.state is other.state is CircuitState.HALF_OPEN
    assert not breaker.view.local


def test_a_busy_trial_is_followed_by_a_probe_that_clears_it(breaker, clock, writer, later):
    writer.execute("ROLLBACK")
    breaker.trip()
    clock.advance(30)
    process_of(breaker).was_busy()
    later(1.5)
    assert not breaker.backend.available
    tick(breaker)
    assert breaker.backend.available


def test_a_command_says_that_the_store_is_busy(breaker, writer, monkeypatch):
    monkeypatch.setattr("circuitbreaker_django.backends.base.COMMAND_PATIENCE", 0.01)
    with pytest.raises(CircuitBackendError, match="another process is writing"):
        breaker.trip()
    assert breaker.state is CircuitState.CLOSED


def test_closing_does_not_wait_for_a_stopped_writer_or_thread(breaker, writer, monkeypatch):
    breaker.backend.close()
    breaker.call(ok)
    process = process_of(breaker)
    monkeypatch.setattr(process, "hold_still", lambda patience=0: False)
    file = process.file
    breaker.backend.close()
    assert process.file is file
    monkeypatch.undo()
    process.stopped = False
    breaker.backend._process = process
    breaker.backend.close()


# -- a store that is lost --------------------------------------------------------------------


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


FAULTS = [
    remove,
    remove_database,
    replace_database,
    replace_with_garbage,
    fill_with_garbage,
    truncate_database,
    remove_bell,
    replace_bell,
    remove_index,
    remove_log,
    garbage_rows,
    remove_folder,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_calls_go_on_and_two_rounds_of_housekeeping_heal_it(breaker, other, fault, caplog):
    failing(breaker)
    other.call(ok)
    fault(breaker.backend.place)
    assert breaker.call(ok) == "ok"
    failing(breaker, ValueError)
    for _ in range(2):
        for member in (breaker, other):
            tick(member)
            member.backend.sync()
    assert len(warnings(caplog)) <= 2  # one a member
    breaker.reset()
    failing(breaker)
    failing(other)
    assert rejected(breaker)
    assert rejected(other)
    assert breaker.backend.problem is other.backend.problem is None


def test_a_command_after_the_loss_of_the_file_takes_the_new_one_at_once(breaker, other):
    breaker.call(ok)
    other.call(ok)
    remove(breaker.backend.place)
    breaker.trip(hold=True)
    tick(other)
    assert rejected(other)


def test_nothing_is_written_to_a_file_that_was_removed(breaker, monkeypatch):
    breaker.call(ok)
    file = process_of(breaker).file
    remove(breaker.backend.place)
    monkeypatch.setattr(breaker.backend, "_verify", lambda process, file: None)  # a moment ago
    with pytest.raises(CircuitBackendError, match="removed or replaced"):
        breaker.trip()
    assert file.news()[1] == {}
    assert breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize("fault", FAULTS)
def test_a_command_after_a_fault_reaches_the_others_or_is_an_error(breaker, other, fault):
    breaker.call(ok)
    other.call(ok)
    fault(breaker.backend.place)
    try:
        breaker.trip(hold=True)
    except CircuitBackendError:
        breaker.trip(hold=True)
    for _ in range(2):
        tick(other)
        tick(breaker)
    assert rejected(other)
    assert rejected(breaker)


def test_a_store_that_stays_away_is_one_warning(make, backend, location, caplog, later):
    breaker = make(backend, failure_threshold=100)
    location.parent.mkdir()
    breaker.backend.place.database.mkdir()
    for _ in range(5):
        failing(breaker, ValueError)
        later(3)
        tick(breaker)
    assert len(warnings(caplog)) == 1
    assert "no plain file" in breaker.backend.problem
    breaker.backend.place.database.rmdir()
    with caplog.at_level(logging.INFO):
        tick(breaker)
    assert "shared again" in caplog.text
    assert breaker.backend.problem is None


def test_a_store_that_opens_but_takes_nothing_is_one_warning(
    make, backend, caplog, monkeypatch, later
):
    def error(*args):
        found = sqlite3.OperationalError("database or disk is full")
        found.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise found

    breaker = make(backend, failure_threshold=100)
    monkeypatch.setattr("circuitbreaker_django.backends.sqlite.publish", error)
    breaker.call(ok)
    for _ in range(5):
        failing(breaker, ValueError)
        later(2)
        tick(breaker)
    assert len(warnings(caplog)) == 1
    monkeypatch.undo()
    tick(breaker)
    assert breaker.backend.problem is None


def test_a_store_that_is_away_costs_closed_calls_nothing(breaker, location, monkeypatch):
    location.parent.touch()
    breaker.call(ok)
    breaker.call(ok)
    monkeypatch.setattr(breaker.backend, "admit", lambda *args: pytest.fail("the long way"))
    assert breaker.call(ok) == "ok"


def test_a_lost_store_leaves_the_known_state(breaker, other, caplog):
    breaker.trip()
    remove(breaker.backend.place)
    breaker.backend._lost(process_of(breaker), process_of(breaker).file, StoreLost("gone"))
    assert rejected(breaker)


def test_a_file_is_lost_once(breaker, caplog):
    breaker.call(ok)
    process = process_of(breaker)
    file = process.file
    for _ in range(2):
        breaker.backend._lost(process, file, StoreLost("gone"))
        breaker.backend.announce()
    assert process.retired == [file]
    assert len(warnings(caplog)) == 1


def test_lost_files_are_closed_when_nobody_uses_them(breaker):
    breaker.call(ok)
    process = process_of(breaker)
    file = process.file
    breaker.backend._lost(process, file, StoreLost("gone"))
    with process.writing.taken(0):
        tick(breaker)
    assert file.pid == os.getpid()
    tick(breaker)
    assert file.pid == 0
    assert process.file is not file


@pytest.mark.parametrize("question", ["overview", "events"])
def test_a_question_to_a_lost_store_is_an_error_of_ours(backend, breaker, question, location):
    location.parent.touch()
    with pytest.raises(CircuitBackendError, match="store"):
        getattr(backend, question)()


def test_a_question_to_a_corrupt_store_is_an_error_and_loses_it(backend, breaker, stranger):
    breaker.trip()
    backend.sync()
    stranger.execute("UPDATE circuits SET record = 'garbage'")
    with pytest.raises(CircuitBackendError, match="corrupt"):
        backend.overview()
    tick(breaker)
    assert backend.overview().circuits == {}


def test_a_question_to_a_busy_store_is_an_error(backend, breaker):
    breaker.call(ok)

    def busy(ask):
        raise StoreBusy("recovery")

    process_of(breaker).file.read = busy
    with pytest.raises(CircuitBackendError, match="recovery"):
        backend.overview()


def test_a_command_to_a_store_that_is_not_open_says_why(breaker, location):
    location.parent.touch()
    with pytest.raises(CircuitBackendError, match="no folder"):
        breaker.trip()


def test_a_trial_in_a_store_that_has_become_another_is_rejected_once(breaker, clock, stranger):
    breaker.trip()
    clock.advance(30)
    breaker.backend.sync()
    stranger.execute("UPDATE meta SET incarnation = incarnation / 2 + 1")
    assert isinstance(breaker.enter(), CircuitOpenError)
    process_of(breaker).file._ring(7.0)
    assert isinstance(breaker.enter(), Trial)


# -- holds after the loss of everything (rule 21) ----------------------------------------------


@pytest.fixture
def held(breaker, other):
    breaker.trip(hold=True, actor="ann", reason="maintenance")
    assert rejected(other)
    return breaker


def test_a_hold_is_put_back_by_those_who_know_of_it(held, other):
    remove(held.backend.place)
    tick(other)
    tick(held)
    assert held.mode is other.mode is Mode.FORCED_OPEN
    hold = other.backend.overview().circuits["payments"].override
    assert (hold.actor, hold.reason, hold.until) == ("ann", "maintenance", None)


def test_a_hold_with_an_end_keeps_it(breaker, clock):
    breaker.trip(duration=100)
    until_then = breaker.view.circuit.override.until
    clock.advance(40)
    remove(breaker.backend.place)
    tick(breaker)
    assert breaker.backend.overview().circuits["payments"].override.until == until_then


def test_a_hold_that_is_over_is_not_put_back(breaker, clock):
    breaker.trip(duration=100)
    clock.advance(100)
    remove(breaker.backend.place)
    tick(breaker)
    assert breaker.backend.overview().circuits == {}


def test_a_reset_in_the_new_store_is_not_undone(held, other):
    remove(held.backend.place)
    other.backend._remember_holds = lambda process, rows: None
    tick(other)
    other.reset()
    tick(held)
    assert held.state is other.state is CircuitState.CLOSED
    assert [event.cause for _, event in held.backend.events()] == ["reset"]


def test_a_reset_in_the_meantime_is_not_undone(held, other):
    remove(held.backend.place)
    put_back = held.backend._put_holds_back
    held.backend._put_holds_back = other.backend._put_holds_back = lambda process, patience: None
    tick(held)
    tick(other)
    other.reset()
    put_back(process_of(held), 0)
    assert held.state is other.state is CircuitState.CLOSED


def test_a_reset_in_the_old_store_that_was_not_seen_yet_is_not_undone(held, other):
    other.reset()
    remove(held.backend.place)
    tick(held)
    assert held.state is CircuitState.CLOSED
    assert held.backend.overview().circuits == {}


def test_a_hold_is_put_back_within_ten_seconds_or_not_at_all(held, later, monkeypatch):
    remove(held.backend.place)
    put_back = held.backend._put_holds_back
    held.backend._put_holds_back = lambda process, patience: None
    tick(held)
    held.backend._put_holds_back = put_back
    later(11)
    tick(held)
    assert not process_of(held).holds
    assert held.backend.overview().circuits == {}


def test_a_hold_that_could_not_be_put_back_is_tried_again(held, monkeypatch):
    remove(held.backend.place)
    transaction = held.backend._transaction

    def busy(patience):
        raise StoreBusy("busy")

    held.backend._transaction = busy
    tick(held)
    with process_of(held).writing.taken(0):
        held.backend._put_holds_back(process_of(held), 0)
    held.backend._transaction = transaction
    tick(held)
    assert held.mode is Mode.FORCED_OPEN


def test_a_hold_survives_a_second_loss_before_it_was_put_back(held):
    put_back = held.backend._put_holds_back
    held.backend._put_holds_back = lambda process, patience: None
    for _ in range(2):
        remove(held.backend.place)
        tick(held)
    held.backend._put_holds_back = put_back
    tick(held)
    assert held.mode is Mode.FORCED_OPEN


def test_what_was_known_before_a_close_is_no_reason_for_a_hold(held, other):
    held.backend.close()
    other.reset()
    other.backend.close()
    remove(held.backend.place)
    assert held.call(ok) == "ok"
    assert held.backend.overview().circuits == {}


def test_another_boot_keeps_holds_and_makes_what_is_open_triable(
    held, other, make, sqlite, clock, monkeypatch
):
    make(sqlite(), "search").trip()
    for member in (held, other):
        member.backend.close()
    monkeypatch.setattr(host, "boot_identity", lambda: "another boot")
    clock.now = 5000
    backend = sqlite()
    assert make(backend).mode is Mode.FORCED_OPEN
    search = make(backend, "search")
    assert not rejected(search)
    assert search.state is CircuitState.CLOSED


@pytest.mark.parametrize("mode", ["disable", "metrics_only", "enable"])
def test_every_mode_is_put_back(sqlite, make, location, mode):
    begins = {"initial_mode": "metrics_only"} if mode == "enable" else {}
    breaker = make(sqlite(), **begins)
    getattr(breaker, mode)(actor="ann", reason="rollout")
    before = breaker.mode
    remove(breaker.backend.place)
    tick(breaker)
    assert breaker.mode is before
    override = breaker.backend.overview().circuits["payments"].override
    assert (override.mode, override.actor, override.reason) == (before, "ann", "rollout")


def test_another_boot_keeps_what_was_set_aside_too(sqlite, make, clock, monkeypatch):
    breaker = make(sqlite())
    breaker.trip()
    breaker.metrics_only()
    breaker.backend.close()
    monkeypatch.setattr(host, "boot_identity", lambda: "another boot")
    clock.now = 5000
    breaker = make(sqlite())
    assert breaker.mode is Mode.METRICS_ONLY
    breaker.enable()
    assert breaker.state is CircuitState.HALF_OPEN


# -- housekeeping (rule 25) --------------------------------------------------------------------


def test_who_uwsgi_forks_from_has_no_thread(sqlite, make, monkeypatch):
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(worker_id=lambda: 0))
    backend = sqlite(threads=True)
    make(backend).call(ok)
    assert backend.available
    assert backend._here().thread is None


def test_where_no_thread_can_start_calls_do_the_work(sqlite, make, monkeypatch, later):
    def cannot(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", cannot)
    breaker = make(sqlite(threads=True))
    breaker.call(ok)
    remove(breaker.backend.place)
    failing(breaker, ValueError)
    assert breaker.backend.place.database.exists()
    remove(breaker.backend.place)
    later(2)
    breaker.backend.touch()
    assert breaker.backend.place.database.exists()


def test_a_thread_that_works_spares_the_callers(sqlite, make):
    breaker = make(sqlite(threads=True))
    breaker.call(ok)
    breaker.backend._tick = lambda *args: pytest.fail("a caller did it")
    breaker.backend.touch()


def test_the_thread_is_called_by_others_and_not_by_itself():
    process = SQLiteProcess()
    process.was_busy()
    assert process.wake.is_set()
    process.wake.clear()
    process.thread = threading.current_thread()
    process.was_busy()
    assert not process.wake.is_set()


def test_one_thread_keeps_house(sqlite, make):
    breaker = make(sqlite(threads=True))
    breaker.call(ok)
    process = process_of(breaker)
    first = process.thread
    start_thread(breaker.backend, process)
    assert process.thread is first
    assert first.daemon
    breaker.backend.close()
    until(lambda: not first.is_alive())


def test_the_thread_heals_a_lost_store_by_itself(sqlite, make, caplog):
    breaker = make(sqlite(threads=True))
    breaker.call(ok)
    first = breaker.backend.place.database.stat().st_ino
    os.link(breaker.backend.place.database, breaker.backend.place.folder / "keeps the inode")
    remove(breaker.backend.place)
    until(lambda: breaker.backend.place.database.exists())
    assert breaker.backend.place.database.stat().st_ino != first
    until(lambda: breaker.backend.available)


def test_the_thread_survives_what_it_does_not_expect(sqlite, make, caplog):
    breaker = make(sqlite(threads=True))
    breaker.call(ok)
    backend = breaker.backend
    calls = []

    def fails(process, patience):
        calls.append(1)
        process.wake.set()
        raise ZeroDivisionError

    backend._tick = fails
    process_of(breaker).wake.set()
    until(lambda: len(calls) > 2)
    assert "housekeeping of a circuit store failed" in caplog.text
    del backend._tick


def test_a_backend_that_nobody_closed_is_closed_by_its_thread(location, monkeypatch):
    monkeypatch.setattr(sqlite_process, "TICK", 0.01)
    backend = SQLiteBackend(location)
    backend.overview()
    process: Any = backend._here()
    file, reference = process.file, weakref.ref(backend)
    del backend
    gc.collect()
    until(lambda: reference() is None and not process.thread.is_alive())
    assert file.pid == 0


@pytest.mark.parametrize("free", [True, False])
def test_a_thread_without_a_backend_ends(free):
    class Owner:
        def keep_house(self, process):
            pytest.fail("it was kept")

    process = SQLiteProcess()
    if not free:
        process.hold_still()
    process.wake.set()
    sqlite_process.run_thread(weakref.ref(Owner()), process)


def test_a_store_is_not_taken_up_again_by_a_thread_after_its_close(breaker):
    breaker.call(ok)
    process = process_of(breaker)
    breaker.backend.close()
    breaker.backend._tick(process, 0)
    assert process.file is None
    assert process.thread is None


# -- who is there (rule 23) --------------------------------------------------------------------


def test_a_process_is_there_from_its_first_use_to_its_end(breaker, other):
    breaker.backend.digest = "abc"
    breaker.call(ok)
    found = breaker.backend.overview().processes
    assert [(process.pid, process.digest) for process in found] == [(os.getpid(), "abc")]
    assert found[0].host
    assert found[0].kind
    other.call(ok)
    assert len(breaker.backend.overview().processes) == 2
    other.backend.close()
    assert len(breaker.backend.overview().processes) == 1


@pytest.fixture
def count_rows(other):
    """How many processes have a row, once the other one has published."""

    def count():
        tick(other)
        connection = process_of(other).file
        [rows] = connection.read(
            lambda reader: reader.execute("SELECT count(*) FROM processes").fetchone()
        )
        return rows

    return count


def test_a_process_is_silent_after_two_publications_that_did_not_come(
    breaker, other, clock, later, count_rows
):
    breaker.call(ok)
    other.call(ok)
    clock.advance(8)
    assert len(other.backend.overview().processes) == 2
    assert other.backend.overview().silent == {}
    later(6)
    tick(other)
    clock.advance(1)
    overview = other.backend.overview()
    assert (len(overview.processes), list(overview.silent.values())) == (1, [9])


def test_a_silent_process_whose_pid_runs_is_forgotten_after_an_hour(
    breaker, other, clock, later, count_rows
):
    breaker.call(ok)
    other.call(ok)
    clock.advance(3599)
    later(6)
    assert count_rows() == 2
    assert list(other.backend.overview().silent.values()) == [3599]
    clock.advance(1)
    later(6)
    assert count_rows() == 1
    assert other.backend.overview().silent == {}


def test_a_silent_process_of_another_container_is_gone_after_fifteen_seconds(
    breaker, other, clock, later, count_rows, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(host, "pid_space", lambda: "another container")
        breaker.call(ok)
    other.call(ok)
    clock.advance(14)
    assert len(other.backend.overview().silent) == 2
    later(6)
    assert count_rows() == 2
    clock.advance(1)
    assert other.backend.overview().silent == {}
    later(6)
    assert count_rows() == 1


def test_declarations_are_told_at_the_first_use_of_any_breaker(breaker, other):
    breaker.backend.declare(Declaration("search", {"recovery_timeout": 300}, "shop.search"))
    assert breaker.backend.overview().declarations == {
        "search": Declaration("search", {"recovery_timeout": 300}, "shop.search")
    }
    breaker.backend.declare(Declaration("late", {"odd": {1}}, "shop.late"))
    tick(breaker)
    assert set(other.backend.overview().declarations) == {"search", "late"}


def test_declarations_are_kept_for_seven_days(breaker, other, clock, later):
    breaker.backend.declare(Declaration("search", {}, "here"))
    breaker.call(ok)
    breaker.backend.close()
    clock.advance(7 * 86400 - 1)
    other.call(ok)
    assert "search" in other.backend.overview().declarations
    clock.advance(2)
    later(6)
    tick(other)
    assert other.backend.overview().declarations == {}


def test_declarations_are_not_written_again_with_every_publication(breaker, clock, later):
    breaker.backend.declare(Declaration("search", {}, "here"))
    breaker.call(ok)
    file = process_of(breaker).file

    def seen():
        return file.read(
            lambda reader: (
                reader.execute("SELECT seen_at FROM processes").fetchone(),
                reader.execute("SELECT seen_at FROM declarations").fetchone(),
            )
        )

    before = seen()
    clock.advance(6)
    later(6)
    tick(breaker)
    assert seen()[0] > before[0]
    assert seen()[1] == before[1]
    later(3600)
    tick(breaker)
    assert seen()[1] > before[1]


def test_a_new_declaration_is_told_without_the_others(breaker, clock):
    for name in ("search", "stock"):
        breaker.backend.declare(Declaration(name, {}, "here"))
    breaker.call(ok)

    def seen():
        return process_of(breaker).file.read(
            lambda reader: dict(reader.execute("SELECT name, seen_at FROM declarations").fetchall())
        )

    before = seen()
    clock.advance(1)
    breaker.backend.declare(Declaration("late", {}, "here"))
    tick(breaker)
    assert seen() == {**before, "late": clock()}


def test_a_new_store_is_told_all_again(breaker, other):
    breaker.backend.declare(Declaration("search", {}, "here"))
    breaker.call(ok)
    remove(breaker.backend.place)
    tick(breaker)
    overview = other.backend.overview()
    assert set(overview.declarations) == {"search"}
    assert len(overview.processes) == 2


def test_publishing_gives_way_to_who_writes(breaker, later):
    breaker.call(ok)
    later(6)
    due = process_of(breaker).publishing.publish_at
    with process_of(breaker).writing.taken(0):
        tick(breaker)
    assert process_of(breaker).publishing.publish_at == due


def test_a_withdrawal_from_a_busy_store_is_left_to_time(breaker, stranger):
    stranger.execute("BEGIN IMMEDIATE")
    breaker.backend.close()
    stranger.execute("ROLLBACK")
    assert stranger.execute("SELECT count(*) FROM processes").fetchone() == (1,)


def test_a_second_store_of_the_same_path_in_one_process_takes_no_locks_away(
    breaker, other, stranger
):
    breaker.call(ok)
    other.call(ok)
    other.backend.close()
    other.backend.open(create=True)
    breaker.backend.close()
    stranger.execute("BEGIN IMMEDIATE")
    stranger.execute("ROLLBACK")
    process_of(other).file.verify()
    other.trip()
    assert rejected(breaker)


# -- observers -------------------------------------------------------------------------------


def test_an_observer_makes_no_store_and_says_so(sqlite, location):
    observer = sqlite(observer=True)
    with pytest.raises(NoStore, match="there is no"):
        observer.open(create=False)
    with pytest.raises(CircuitBackendError, match="there is no"):
        observer.overview()
    assert not location.parent.exists()


def test_an_observer_makes_a_store_when_it_must(sqlite, make, breaker):
    observer = sqlite(observer=True)
    observer.open(create=True)
    make(observer).trip(hold=True)
    assert rejected(breaker)


def test_an_observer_is_no_process_and_has_no_thread(sqlite, breaker):
    breaker.call(ok)
    observer = sqlite(observer=True)
    observer.threads = False
    observer.open(create=False)
    assert len(observer.overview().processes) == 1
    assert observer._here().thread is None
    observer.close()
    assert len(breaker.backend.overview().processes) == 1


def test_an_observer_says_why_it_cannot(sqlite, location):
    location.parent.touch()
    with pytest.raises(CircuitBackendError, match="no folder"):
        sqlite(observer=True).open(create=True)


def test_the_place_is_told(backend, location):
    assert backend.describe() == str(location.with_name("circuits.v1.sqlite3"))


# -- forks, as far as one process can see --------------------------------------------------------


def test_connections_are_closed_for_the_moment_of_a_fork(breaker):
    failing(breaker)
    backend, file = breaker.backend, process_of(breaker).file
    backend.before_fork()
    assert file.pid == 0
    backend.after_fork_in_parent()
    assert file.pid == os.getpid()
    assert process_of(breaker).file is file
    failing(breaker)
    assert breaker.state is CircuitState.OPEN


def test_a_fork_does_not_wait_for_ever_for_other_threads(breaker, monkeypatch):
    breaker.call(ok)
    process = process_of(breaker)
    hold = process.hold_still
    monkeypatch.setattr(process, "hold_still", lambda patience=0: hold(0))
    for turn in (process.writing, process.reading):
        with turn.taken(0):
            breaker.backend.before_fork()
            breaker.backend.after_fork_in_parent()
    assert process.file.pid == os.getpid()
    assert process.writing.take(0)
    process.writing.give_back()


def test_a_store_that_was_replaced_during_a_fork_is_lost(breaker):
    breaker.call(ok)
    breaker.backend.before_fork()
    remove(breaker.backend.place)
    breaker.backend.after_fork_in_parent()
    assert process_of(breaker).file is None
    tick(breaker)
    assert breaker.backend.available


def test_a_fork_that_nobody_told_of_counts_its_first_failure(breaker, other, monkeypatch):
    breaker.call(ok)
    parent = process_of(breaker)
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    failing(breaker)
    assert process_of(breaker) is not parent
    assert parent.file.pid == pid  # inherited, and left alone
    assert len(other.backend.overview().circuits["payments"].failures) == 1
    for member in (breaker, other):
        member.backend.close()
    monkeypatch.undo()
    parent.file.close()


def test_a_fork_before_the_first_use_is_nothing(backend):
    backend.before_fork()
    backend.after_fork_in_parent()
    assert backend._here().file is None


# -- whose files they are ------------------------------------------------------------------------


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


# -- what operators are told -----------------------------------------------------------------------


def told(breaker):
    return breaker.backend.stats()["payments"].last_hour


def test_calls_are_told_at_most_every_interval(breaker, other, later):
    breaker.backend.stats_interval = 20
    breaker.call(ok)
    tick(breaker)
    later(19)
    tick(breaker)
    assert other.backend.stats() == {}
    later(2)
    tick(breaker)
    assert told(other).calls == 1


def test_calls_are_told_more_often_than_a_process_tells_that_it_lives_if_asked(
    breaker, other, later
):
    breaker.backend.stats_interval = 1
    breaker.call(ok)
    later(1.5)
    tick(breaker)
    assert told(other).calls == 1


def test_a_call_tells_nothing_itself(breaker, other):
    breaker.call(ok)
    failing(breaker)
    assert other.backend.stats() == {}


def test_counts_that_the_store_does_not_take_are_told_later_and_once(breaker, other, monkeypatch):
    def busy(*args: Any) -> None:
        raise StoreBusy("busy")

    breaker.call(ok)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "publish", busy)
        breaker.backend.publish()
        breaker.call(ok)
        breaker.backend.publish()
    breaker.call(ok)
    for _ in range(2):
        breaker.backend.publish()
    assert told(other).calls == 3


def test_counts_that_come_late_are_of_all_that_time(breaker, other, clock, monkeypatch):
    def busy(*args: Any) -> None:
        raise StoreBusy("busy")

    breaker.backend.publish()
    breaker.call(ok)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "publish", busy)
        for _ in range(9):
            clock.advance(60)
            breaker.backend.publish()
    for _ in range(9):
        breaker.call(ok)
    breaker.backend.publish()
    minutes = other.backend.stats()["payments"].minutes
    assert [bucket.counts.calls for bucket in minutes] == [1] * 10


def test_counts_of_a_time_without_a_store_are_told_when_it_is_back(breaker, other, monkeypatch):
    breaker.backend.publish()
    breaker.call(ok)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_attached, "open_store", lost)
        remove(breaker.backend.place)
        tick(breaker)
        breaker.call(ok)
        breaker.backend.publish()
    tick(breaker)
    breaker.backend.publish()
    assert told(breaker).calls == 2


def lost(*args: Any, **options: Any) -> None:
    raise StoreLost("away")


def test_a_fork_tells_of_its_own_calls_only(breaker, other):
    breaker.backend.publish()
    for _ in range(3):
        breaker.call(ok)
    child = os.fork()
    if child == 0:
        try:
            breaker.call(ok)
            breaker.backend.close()
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert told(other).calls == 1
    breaker.backend.publish()
    assert told(other).calls == 4


def test_figures_that_make_no_sense_are_left_out(breaker, other, stranger):
    breaker.call(ok)
    breaker.backend.publish()
    width, now = 60_000_000, breaker.backend.clock()
    for start, calls in ((now, "many"), (now - width, -1), (now - 2 * width, 1.5)):
        row = ("evil", width, start, calls, 0, 0, 0, 0)
        stranger.execute("INSERT INTO traffic VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    assert set(other.backend.stats(day=True)) == {"payments"}


def test_figures_of_another_boot_are_void(breaker, sqlite, monkeypatch):
    breaker.call(ok)
    breaker.backend.publish()
    breaker.backend.close()
    monkeypatch.setattr(host, "boot_identity", lambda: "another")
    backend = sqlite()
    backend.sync()
    assert backend.stats(day=True) == {}


def test_the_table_does_not_grow(breaker, stranger, clock):
    for _ in range(200):
        breaker.call(ok)
        clock.advance(600)
        breaker.backend.publish()
    [rows] = stranger.execute("SELECT COUNT(*) FROM traffic").fetchone()
    assert rows <= 60 + 96


def test_what_opens_here_alone_is_told_at_once(sqlite, make, other):
    other.call(ok)
    breaker = make(sqlite(threads=True), quorum=2)
    breaker.call(ok)
    process = process_of(breaker)
    process.publishing.publish_at = process.publishing.stats_at = math.inf
    failing(breaker)
    failing(breaker)

    def seen() -> bool:
        return any(process.alone for process in other.backend.overview().processes)

    until(seen, seconds=10)
    breaker.backend.close()
    assert not seen()


def test_the_thread_is_called_for_what_opens_here_alone(sqlite, make):
    breaker = make(sqlite(), quorum=2)
    wake = process_of(breaker).wake
    failing(breaker)
    assert not wake.is_set()
    failing(breaker)
    assert wake.is_set()


@pytest.mark.parametrize("alone", ['"payments"', "5", "null", "{}"])
def test_what_a_process_says_to_have_open_alone_is_a_list_or_nothing(
    breaker, other, stranger, alone
):
    breaker.call(ok)
    stranger.execute(f"UPDATE processes SET info = json_set(info, '$.alone', json('{alone}'))")
    assert [process.alone for process in other.backend.overview().processes] == [(), ()]


# -- rows that nobody needs (rule 2) -----------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """Three rows and three declarations are too many."""
    monkeypatch.setattr(sqlite_tables, "MAX_ROWS", 2)
    monkeypatch.setattr(sqlite_tables, "MAX_DECLARED", 2)


@pytest.fixture
def clean(later):
    """Lets a member look for what may go."""

    def clean(breaker):
        later(published.CLEAN_EVERY)
        tick(breaker)

    return clean


def names(breaker):
    return set(breaker.backend.overview().circuits)


def test_rows_in_which_nothing_counts_go_when_there_are_too_many(
    few, clean, make, backend, other, clock
):
    a, b, c, d = (make(backend, name) for name in "abcd")
    a.trip()
    failing(b)
    failing(b)
    b.reset()
    c.disable()
    clock.advance(50)
    failing(d)
    clean(a)
    assert names(a) == {"a", "c", "d"}
    clock.advance(59)
    clean(a)
    assert names(a) == {"a", "c", "d"}
    clock.advance(1)
    clean(a)
    assert names(a) == {"a", "c"}
    assert a.state is CircuitState.HALF_OPEN
    assert c.mode is Mode.DISABLED


@pytest.mark.parametrize("moved", [True, False])
def test_every_process_forgets_the_rows_that_go(few, clean, make, backend, other, clock, moved):
    for name in "abc":
        theirs = make(other.backend, name)
        failing(theirs)
        if moved:
            theirs.reset()
    clock.advance(60)
    ours = make(backend, "a")
    clean(ours)
    assert ours.call(ok) == other.call(ok) == "ok"
    assert other.backend._rows == backend._rows == {}
    assert ours.view.epoch == make(other.backend, "a").view.epoch


def test_two_rows_are_not_too_many(few, clean, make, backend):
    for name in "ab":
        make(backend, name).reset()
    clean(make(backend, "a"))
    assert names(make(backend, "a")) == {"a", "b"}


def test_whoever_had_a_dropped_row_goes_on_sharing(few, clean, make, backend, sqlite):
    theirs = [make(sqlite(), name) for name in "abc"]
    ours = [make(backend, name) for name in "abc"]
    for one in ours:
        one.reset()
    epochs = [one.view.shared_epoch for one in theirs if one.state]
    clean(ours[0])
    assert names(ours[0]) == set()
    failing(ours[2])
    failing(theirs[2])
    assert ours[2].state is theirs[2].state is CircuitState.OPEN
    assert theirs[0].view.shared_epoch >= max(epochs)


def test_a_call_under_way_when_its_row_is_dropped_counts_only_in_the_same_epoch(
    few, clean, make, backend, clock
):
    breakers = [make(backend, name, failure_threshold=1) for name in "abc"]

    def work():
        clean(breakers[1])
        raise OSError

    for breaker in breakers:
        breaker.reset()
        clock.advance(1)
    with pytest.raises(OSError):
        breakers[0].call(work)
    assert not rejected(breakers[0])
    failing(breakers[0])
    assert rejected(breakers[0])


def test_a_row_that_was_written_to_meanwhile_stays(few, clean, make, backend, other, monkeypatch):
    breakers = [make(backend, name) for name in ("a", "b", "payments")]
    for breaker in breakers:
        breaker.reset()
    real = sqlite_tables.find_waste
    assert not rejected(other)
    process_of(other).clean_at = math.inf

    def find_waste(reader, now):
        waste = real(reader, now)
        failing(other)
        return waste

    monkeypatch.setattr(sqlite, "find_waste", find_waste)
    clean(breakers[0])
    assert names(breakers[0]) == {"payments"}
    failing(breakers[2])
    assert other.state is CircuitState.OPEN


@pytest.mark.parametrize(
    ("policy", "goes"),
    [
        ({"failure_window": 100}, False),
        ({"ramp_up": 100.5}, False),
        ({"failure_window": 99}, True),
        ({"failure_window": 10}, True),
        ({"failure_window": float("nan")}, True),
        ({"failure_window": float("inf")}, True),
        ({"failure_window": "1000", "ramp_up": None}, True),
        ({"ramp_up": True}, True),
    ],
    ids=str,
)
def test_what_counts_for_the_longest_window_of_anybody_counts(
    few, clean, make, backend, clock, policy, goes
):
    breakers = [make(backend, name) for name in "abc"]
    backend.declare(Declaration("x", policy, "here"))
    for breaker in breakers:
        failing(breaker)
    clock.advance(99.5)
    clean(breakers[0])
    assert names(breakers[0]) == (set() if goes else set("abc"))


def test_of_too_many_declarations_those_by_key_go_that_are_the_oldest(
    few, clean, breaker, backend, clock, monkeypatch
):
    keyed = {"keyed": True}
    for name in ("tenant:old", "tenant", "host:x", "tenant:new"):
        backend.declare(Declaration(name, {} if name.startswith("host") else keyed, "here"))
        breaker.call(ok)
        backend.close()
        backend._declared.clear()
        clock.advance(1)
    monkeypatch.setattr(sqlite_tables, "MAX_DECLARED", 3)
    breaker.call(ok)
    clean(breaker)
    assert set(backend.overview().declarations) == {"tenant", "host:x", "tenant:new"}
    monkeypatch.setattr(sqlite_tables, "MAX_DECLARED", 1)
    clean(breaker)
    assert set(backend.overview().declarations) == {"tenant", "host:x"}


def test_what_was_declared_unreadably_is_left(few, clean, breaker, backend, stranger):
    rows = [(b"tenant:a", 0, "{}", ""), ("tenant:b", 1, "[", ""), (3, 2, '{"keyed": true}', "")]
    stranger.executemany("INSERT INTO declarations VALUES (?, ?, ?, ?)", rows)
    stranger.execute("UPDATE declarations SET seen_at = ?", (backend.clock(),))
    clean(breaker)
    (left,) = stranger.execute("SELECT count(*) FROM declarations").fetchone()
    assert left == len(rows)


def test_of_too_many_counts_of_calls_the_oldest_go_of_breakers_by_key(
    few, clean, sqlite, make, backend, clock, monkeypatch
):
    monkeypatch.setattr(sqlite_tables, "MAX_TRAFFIC", 3)
    for name in ("payments", "tenant:a", "tenant:b", "tenant:c"):
        make(backend, name).call(ok)
        backend.publish()
        clock.advance(60)
    clean(make(backend))
    assert (
        set(backend.stats())
        == set(backend.stats(day=True))
        == {
            "payments",
            "tenant:b",
            "tenant:c",
        }
    )


def test_an_observer_drops_nothing(few, clean, make, sqlite, backend):
    for name in "abc":
        make(backend, name).reset()
    observer = make(sqlite(observer=True), "a")
    clean(observer)
    assert names(observer) == set("abc")


def test_it_is_looked_for_once_in_a_minute(few, clean, later, make, backend, monkeypatch):
    breaker = make(backend)
    breaker.call(ok)
    looks = []
    monkeypatch.setattr(sqlite, "find_waste", lambda reader, now: looks.append(now))
    clean(breaker)
    later(published.CLEAN_EVERY - 1)
    tick(breaker)
    assert len(looks) == 1
    later(2)
    tick(breaker)
    assert len(looks) == 2


@pytest.mark.parametrize("turn", ["reading", "writing"])
def test_who_does_not_get_a_turn_drops_nothing(few, clean, make, backend, turn):
    for name in "abc":
        make(backend, name).reset()
    breaker = make(backend, "a")
    process = process_of(breaker)
    file = process.file
    taken, go = threading.Event(), threading.Event()

    def take():
        with getattr(process, turn).taken(1):
            taken.set()
            go.wait(10)

    thread = threading.Thread(target=take)
    thread.start()
    taken.wait(10)
    process.clean_at = 0.0
    backend._clean_tables(process, file, 0)
    go.set()
    thread.join()
    assert names(breaker) == set("abc")


def test_a_busy_store_is_cleaned_later(few, clean, later, make, backend, stranger):
    for name in "abc":
        make(backend, name).reset()
    breaker = make(backend, "a")
    process = process_of(breaker)
    process.clean_at = 0.0
    stranger.execute("BEGIN IMMEDIATE")
    backend._clean_tables(process, process.file, 0)
    stranger.execute("ROLLBACK")
    assert names(breaker) == set("abc")
    clean(breaker)
    assert names(breaker) == set()


def test_a_store_that_is_lost_at_the_cleaning_is_left(few, make, backend, monkeypatch):
    breaker = make(backend)
    breaker.call(ok)

    def lose(reader, now):
        raise StoreLost("a fault")

    monkeypatch.setattr(sqlite, "find_waste", lose)
    process = process_of(breaker)
    process.clean_at = 0.0
    backend._clean_tables(process, process.file, 0)
    assert process.file is None
    assert backend.problem == "a fault"
