"""The SQLite backend in one process; what needs several is in test_sqlite_processes."""

from __future__ import annotations

import asyncio
import gc
import math
import os
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
    sqlite,
    sqlite_attached,
    sqlite_process,
)
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.sqlite_process import SQLiteProcess, start_thread
from circuitbreaker_django.backends.store import Declaration, StoreBusy, StoreLost
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.core.trial import Trial
from tests.backends import sqlite_store
from tests.backends.sqlite_store import (
    process_of,
    rejected,
    remove,
    tick,
)
from tests.backends.waiting import until
from tests.core.calls import aok, failing, ok

backend = sqlite_store.backend
breaker = sqlite_store.breaker
other = sqlite_store.other
stranger = sqlite_store.stranger
later = sqlite_store.later


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


# -- housekeeping (rule 25) --------------------------------------------------------------------


def test_who_uwsgi_forks_from_has_no_thread(sqlite, make, monkeypatch):
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(worker_id=lambda: 0))
    backend = sqlite(threads=True)
    make(backend).call(ok)
    assert backend.available
    assert backend._here().thread is None


def test_who_uwsgi_forked_from_has_a_thread_once_it_is_a_worker_itself(sqlite, make, monkeypatch):
    uwsgi = SimpleNamespace(worker_id=lambda: 0)
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    backend = sqlite(threads=True)
    make(backend).call(ok)
    backend.touch()
    process = backend._here()
    assert backend._here().thread is None
    monkeypatch.setattr(uwsgi, "worker_id", lambda: 1)
    backend.touch()
    assert process is backend._here()
    assert process.thread is not None
    assert process.thread.is_alive()


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


def test_a_declaration_may_be_in_a_file_whose_name_is_no_text(breaker):
    breaker.backend.declare(Declaration("stock", {}, "/srv/\udcff/stock.py:3"))
    breaker.call(ok)
    assert breaker.backend.available
    assert breaker.backend.overview().declarations["stock"].where == r"/srv/\udcff/stock.py:3"


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
