"""Taking up a SQLite store and losing it, as far as one process can see."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import threading

import pytest

from circuitbreaker_django import CircuitOpenError, CircuitState
from circuitbreaker_django.backends import (
    place,
    sqlite,
    sqlite_attached,
)
from circuitbreaker_django.backends.sqlite_file import SQLiteFile
from circuitbreaker_django.backends.store import Declaration, NoStore, StoreBusy, StoreLost
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.trial import Trial
from tests.backends import sqlite_store
from tests.backends.sqlite_store import (
    fill_with_garbage,
    garbage_rows,
    process_of,
    rejected,
    remove,
    remove_bell,
    remove_database,
    remove_folder,
    remove_index,
    remove_log,
    replace_bell,
    replace_database,
    replace_with_garbage,
    tick,
    truncate_database,
    warnings,
)
from tests.core.calls import failing, ok

backend = sqlite_store.backend
breaker = sqlite_store.breaker
other = sqlite_store.other
stranger = sqlite_store.stranger
later = sqlite_store.later


# -- first use -------------------------------------------------------------------------------


def test_nothing_is_touched_before_the_first_use(backend, breaker, location):
    backend.declare(Declaration("payments", {}, "here"))
    backend.touch()
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


# -- a store that is lost --------------------------------------------------------------------


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
