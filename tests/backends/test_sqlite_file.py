from __future__ import annotations

import ctypes
import json
import math
import os
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

import pytest

from circuitbreaker_django.backends import doorbell, host, sqlite_file
from circuitbreaker_django.backends.place import PlaceError, locked_folder, place_for
from circuitbreaker_django.backends.sqlite_file import open_store, translated
from circuitbreaker_django.backends.sqlite_tables import (
    Corrupt,
    publish,
    read_events,
    read_overview,
)
from circuitbreaker_django.backends.store import NoStore, ProcessInfo, StoreBusy, StoreLost
from circuitbreaker_django.core.circuit import Circuit, Override
from circuitbreaker_django.core.record import dump_circuit
from circuitbreaker_django.core.states import CircuitState, Mode

NEW: dict[str, Any] = {"create": True, "patience": 1, "now": 1000}


@pytest.fixture
def place(location):
    return place_for(str(location), "shop", "default")


@pytest.fixture
def open_file(place):
    opened = []

    def open_file(**options):
        file = open_store(place, **{**NEW, **options})
        opened.append(file)
        return file

    yield open_file
    for file in opened:
        file.close()


@pytest.fixture
def file(open_file):
    return open_file()


def put(file, name, circuit, *, wall_until=None, revision=1):
    record = circuit if isinstance(circuit, (str, bytes, int)) else dump_circuit(circuit)
    with file.writing(0) as writer:
        writer.execute(
            "REPLACE INTO circuits VALUES (?, ?, ?, ?)", (name, revision, record, wall_until)
        )
        writer.execute("UPDATE meta SET revision = ?", (revision,))
        file.commit(ring=True)


# -- opening ---------------------------------------------------------------------------------


def test_a_new_store_has_an_incarnation_of_its_own_and_its_floor_is_now(open_file, place):
    meta, rows = open_file().news()
    assert (meta.floor, meta.revision, rows) == (1000, 0, {})
    os.unlink(place.database)
    assert open_file().news()[0].incarnation != meta.incarnation


def test_a_second_opening_is_the_same_store(open_file):
    first, second = open_file(), open_file(now=5000)
    assert first.news() == second.news()
    assert first.bell.word[()] == second.bell.word[()]


def test_it_is_disposable_and_has_a_log(file):
    assert file.read(lambda reader: reader.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
    assert file._writer.execute("PRAGMA synchronous").fetchone() == (0,)


def test_without_a_log_it_cannot_be_used(place, monkeypatch):
    class Plain:
        def execute(self, sql):
            return self

        def fetchone(self):
            return ("delete",)

        def close(self):
            pass

    monkeypatch.setattr(sqlite_file, "_connect", lambda place: Plain())
    monkeypatch.setattr(sqlite_file, "_disconnect", lambda connection: connection.close())
    with pytest.raises(StoreLost, match="write-ahead log"):
        open_store(place, create=True, patience=1, now=1)


def test_a_second_connection_that_fails_leaves_none_open(place, monkeypatch):
    connect = sqlite_file._connect
    made: list[sqlite3.Connection] = []
    gone: list[sqlite3.Connection] = []

    def once(place):
        if made:
            raise StoreLost("no more")
        made.append(connect(place))
        return made[0]

    disconnect = sqlite_file._disconnect

    def gone_too(connection):
        gone.append(connection)
        disconnect(connection)

    monkeypatch.setattr(sqlite_file, "_connect", once)
    monkeypatch.setattr(sqlite_file, "_disconnect", gone_too)
    with pytest.raises(StoreLost, match="no more"):
        open_store(place, create=True, patience=1, now=1)
    assert gone == made


#: Keeps newcomers out of a file, as SQLite does in a process that closes it, until it may go on.
CLOSING = """
import fcntl, os, sys
fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX, 1, 0x40000000)
print("kept out", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("again", [False, True])
def test_who_comes_while_another_process_closes_the_file_waits_for_it(place, open_file, again):
    file = open_file()
    file.close()

    def connect(patience):
        if again:
            file.connect_again(patience)
        else:
            open_file(patience=patience)

    with subprocess.Popen(
        [sys.executable, "-c", CLOSING, place.database],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as closing:
        assert closing.stdin
        assert closing.stdout
        assert closing.stdout.readline() == b"kept out\n"
        with pytest.raises(StoreBusy):
            connect(0.01)
        release = threading.Timer(0.2, closing.stdin.close)
        release.start()
        connect(60)
        release.join()


def test_an_observer_makes_nothing(place, open_file):
    with pytest.raises(NoStore):
        open_file(create=False)
    place.folder.mkdir()
    with pytest.raises(NoStore):
        open_file(create=False)
    place.database.touch()
    with pytest.raises(NoStore, match="nothing in"):
        open_file(create=False)


def test_an_observer_leaves_what_is_corrupt(place, open_file):
    place.folder.mkdir()
    place.database.write_bytes(b"garbage" * 1000)
    with pytest.raises(Corrupt):
        open_file(create=False)
    assert place.database.read_bytes().startswith(b"garbage")


def test_what_is_corrupt_is_replaced_at_the_opening(place, open_file):
    place.folder.mkdir()
    place.database.write_bytes(b"garbage" * 1000)
    assert open_file().news()[1] == {}


def test_tables_of_another_shape_are_replaced(place, open_file):
    place.folder.mkdir()
    other = sqlite3.connect(place.database)
    other.execute("CREATE TABLE meta (a)")
    other.close()
    assert open_file().news()[1] == {}


def test_what_was_found_bad_is_replaced_and_another_file_is_not(place, open_file):
    first = open_file()
    put(first, "a", Circuit(5))
    assert open_file(bad=(0, 0)).news()[1] != {}
    second = open_file(bad=first.inodes[0])
    assert second.inodes[0] != first.inodes[0]
    assert second.news()[1] == {}


def test_old_side_files_do_not_mix_with_a_new_database(place, open_file):
    put(open_file(), "a", Circuit(5))
    place.database.unlink()
    assert open_file().news()[1] == {}


@pytest.mark.parametrize("number", range(4))
def test_a_link_among_the_files_is_refused(place, open_file, number, tmp_path):
    place.folder.mkdir()
    open_file().close()
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    place.files[number].unlink(missing_ok=True)
    place.files[number].symlink_to(target)
    with pytest.raises(PlaceError, match="is a link"):
        open_file()
    assert target.read_bytes() == b"precious"


def test_a_dangling_link_to_the_database_is_refused(place, open_file, tmp_path):
    place.folder.mkdir()
    place.database.symlink_to(tmp_path / "missing")
    with pytest.raises(PlaceError, match="is a link"):
        open_file()


def test_opening_has_one_bound_for_all_that_it_waits_for(place, open_file):
    open_file()
    with locked_folder(place, 0), pytest.raises(PlaceError, match="locked"):
        open_file(patience=0.01)


def test_a_new_store_that_another_writes_to_is_busy(place, open_file, monkeypatch):
    first = open_file()
    monkeypatch.setattr(host, "boot_identity", lambda: "another")
    with first.writing(0), pytest.raises(StoreBusy):
        open_file(patience=0)


# -- another boot (rule 4) -------------------------------------------------------------------


@pytest.fixture
def reboot(monkeypatch):
    def reboot():
        monkeypatch.setattr(host, "boot_identity", lambda: "another boot")

    return reboot


def held(until):
    hold = Override(Mode.FORCED_OPEN, 7, 900, until, "ann", "why")
    return Circuit(7, CircuitState.OPEN, since=900, retry_at=99_000_000, openings=3, override=hold)


def test_what_was_open_may_be_tried_after_a_boot(open_file, reboot):
    first = open_file()
    put(first, "open", Circuit(7, CircuitState.OPEN, since=900, retry_at=99_000_000, openings=3))
    incarnation = first.news()[0].incarnation
    first.close()
    reboot()
    meta, rows = open_file(now=50).news()
    assert meta.incarnation != incarnation
    assert rows["open"] == Circuit(7, CircuitState.OPEN, since=50, retry_at=50, openings=3)


def test_a_hold_without_end_stays_after_a_boot(open_file, reboot):
    put(open_file(), "held", held(None))
    reboot()
    assert open_file(now=50).news()[1]["held"].override.until is None


@pytest.mark.parametrize(
    ("wall_until", "left"), [(100.0, 100.0), (-100.0, 0.0), (None, 0.0), ("garbage", 0.0)]
)
def test_the_end_of_a_hold_is_kept_as_wall_time(open_file, reboot, wall_until, left):
    wall = wall_until + time.time() if isinstance(wall_until, float) else wall_until
    put(open_file(), "held", held(99_000_000), wall_until=wall)
    reboot()
    until = open_file(now=50).news()[1]["held"].override.until
    assert until == pytest.approx(50 + left * 1e6, abs=30e6 if left else 0)


def test_history_and_processes_of_another_boot_are_gone_and_declarations_are_not(open_file, reboot):
    first = open_file()
    with first.writing(0) as writer:
        writer.execute("INSERT INTO events VALUES (1, 'a', 'garbage')")
        writer.execute("INSERT INTO processes VALUES ('id', 9999999, '{}')")
        writer.execute("INSERT INTO declarations VALUES ('a', 9999999, '{}', 'here')")
        first.commit(ring=False)
    reboot()
    second = open_file(now=50)
    overview = second.read(lambda reader: read_overview(reader, 50))
    assert second.read(lambda reader: read_events(reader, 10)) == []
    assert overview.processes == ()
    assert set(overview.declarations) == {"a"}


def test_garbage_of_another_boot_is_replaced(open_file, reboot):
    put(open_file(), "a", "garbage")
    reboot()
    assert open_file().news()[1] == {}


# -- garbage ---------------------------------------------------------------------------------

GOOD = json.loads(dump_circuit(Circuit(7)))


@pytest.mark.parametrize(
    "record",
    [
        "garbage",
        "",
        "[]",
        "null",
        "[" * 100_000,
        7,
        b"\xff\xfe",
        json.dumps({**GOOD, "epoch": None}),
        json.dumps({**GOOD, "state": "ajar"}),
        json.dumps({**GOOD, "failures": [None]}),
        json.dumps({**GOOD, "permits": [{"token": 1}]}),
    ],
)
def test_a_garbage_row_is_corrupt(file, record):
    put(file, "a", record)
    with pytest.raises(Corrupt):
        file.news()
    with file.writing(0), pytest.raises(Corrupt):
        file.find("a")


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE circuits SET record = CAST(x'ff' AS TEXT)",
        "REPLACE INTO circuits VALUES (x'00ff', 1, '{}', NULL)",
        f"UPDATE circuits SET name = x'00ff', record = '{json.dumps(GOOD)}'",
        "DELETE FROM meta",
        "UPDATE meta SET incarnation = 'garbage'",
        "UPDATE meta SET floor = 1.5",
        "UPDATE meta SET revision = 9223372036854775807",
        "UPDATE meta SET revision = -1",
        "UPDATE meta SET boot = x'00'",
        "DROP TABLE circuits",
    ],
)
def test_garbage_in_any_table_is_corrupt(file, sql):
    put(file, "a", Circuit(7))
    with file.writing(0) as writer:
        writer.execute(sql)
        file.commit(ring=False)
    with pytest.raises(Corrupt):
        file.news()


def test_what_cannot_be_read_of_processes_and_declarations_is_left_out(file):
    info = ProcessInfo("host", 1, "job", 1.5, "", "elsewhere")
    with file.writing(0) as writer:
        publish(writer, "good", info, [], 1000)
        for number, garbage in enumerate(["", "[]", "{}", '{"pid": 1}', 5]):
            writer.execute("INSERT INTO processes VALUES (?, 1000, ?)", (f"{number}", garbage))
            writer.execute(
                "INSERT INTO declarations VALUES (?, 1000, ?, 'here')", (f"{number}", garbage)
            )
        newer = {**asdict(info), "pid": 2, "more": 1}
        writer.execute("INSERT INTO processes VALUES ('newer', 1000, ?)", (json.dumps(newer),))
        file.commit(ring=False)
    overview = file.read(lambda reader: read_overview(reader, 1000))
    assert [process.pid for process in overview.processes] == [1, 2]
    assert {"2", "3"} == set(overview.declarations)


def test_a_process_that_was_killed_is_left_out_where_pids_tell(file):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with file.writing(0) as writer:
        for pid, space in [(os.getpid(), host.pid_space()), (child.pid, host.pid_space())]:
            info = ProcessInfo(host.host_name(), pid, "job", 1.5, "", space)
            publish(writer, f"{pid}", info, [], 1000)
        info = ProcessInfo(host.host_name(), child.pid, "job", 1.5, "", "another container")
        publish(writer, "elsewhere", info, [], 1000)
        file.commit(ring=False)
    overview = file.read(lambda reader: read_overview(reader, 1000))
    assert {(process.pid, process.pid_space) for process in overview.processes} == {
        (os.getpid(), host.pid_space()),
        (child.pid, "another container"),
    }


def test_stores_at_two_places_leave_each_other_alone(open_file, place, tmp_path):
    files = [open_file(), open_store(place_for(str(tmp_path / "b" / "c"), "s", "d"), **NEW)]
    third = open_store(place_for(str(tmp_path / "d" / "e"), "s", "d"), **NEW)
    for file in (*files, third):
        file.verify()
        put(file, "a", Circuit(7))
    files[1].close()
    third.close()


def test_garbage_events_are_corrupt(file):
    with file.writing(0) as writer:
        writer.execute("INSERT INTO events VALUES (1, 'a', 'garbage')")
        file.commit(ring=False)
    with pytest.raises(Corrupt):
        file.read(lambda reader: read_events(reader, 10))


def test_errors_of_sqlite_are_told_apart():
    def raised(code):
        error: Any = sqlite3.OperationalError("x")
        if code is not None:
            error.sqlite_errorcode = code
        with translated():
            raise error

    for code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_PROTOCOL):
        with pytest.raises(StoreBusy):
            raised(code)
    for code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ):
        with pytest.raises(Corrupt):
            raised(code)
    with pytest.raises(Corrupt):
        raised(None)
    for code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_READONLY):
        with pytest.raises(StoreLost) as found:
            raised(code)
        assert not isinstance(found.value, Corrupt)


def test_a_closed_file_is_lost_and_not_corrupt(file):
    file.close()
    file.close()
    for use in (file.news, lambda: file.writing(0).__enter__()):
        with pytest.raises(StoreLost) as found:
            use()
        assert not isinstance(found.value, Corrupt)


# -- what lies at the place ------------------------------------------------------------------


def test_what_is_open_and_at_the_place_is_verified(file):
    file.verify()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_removed_or_replaced_database_or_bell_is_lost(file, place, number, replaced):
    path = place.files[number]
    path.rename(path.with_name("moved"))
    if replaced:
        path.touch()
    with pytest.raises(StoreLost) as found:
        file.verify()
    assert not isinstance(found.value, Corrupt)


@pytest.mark.parametrize("number", [2, 3])
def test_removed_files_of_sqlite_make_the_store_corrupt(file, place, number):
    place.files[number].unlink()
    with pytest.raises(Corrupt):
        file.verify()


def test_closing_and_connecting_again_is_for_forks(file, place):
    put(file, "a", Circuit(7))
    file.close()
    file.connect_again(1)
    assert file.news()[1] == {"a": Circuit(7)}
    file.verify()
    file.close()
    place.database.rename(place.database.with_name("moved"))
    with pytest.raises(StoreLost):
        file.connect_again(1)


def test_connecting_again_is_an_opening_like_every_other(file, place):
    file.close()
    with locked_folder(place, 0), pytest.raises(PlaceError, match="locked"):
        file.connect_again(0)


def test_a_connection_outlives_what_refers_to_it_until_it_is_closed(place, open_file):
    file = open_file()
    connection = file._reader
    held = ctypes.c_ssize_t.from_address(id(connection)).value
    del file._reader
    del connection
    assert held >= 3  # the attribute, this test, and the one that nobody drops
    file._reader = sqlite3.connect(":memory:")
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(file._reader))


@pytest.mark.parametrize("number", [2, 3])
def test_side_files_of_a_lost_database_are_not_taken_for_the_next_ones(
    file, place, open_file, number
):
    put(file, "a", Circuit(7))
    index = os.open(place.files[3], os.O_RDONLY)
    before = os.fstat(index)
    place.database.rename(place.database.with_name("moved"))
    place.database.write_bytes(b"garbage" * 1000)
    new = open_file()
    assert new.news()[1] == {}
    assert new.inodes[number - 1] != file.inodes[number - 1]
    after = os.fstat(index)
    os.close(index)
    assert after.st_nlink == 0
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert file.news()[1] == {"a": Circuit(7)}


def test_side_files_of_others_and_of_the_same_database_stay(file, place, open_file):
    put(file, "a", Circuit(7))
    file.take_away_its_own()
    assert open_file().inodes == file.inodes
    place.database.rename(place.database.with_name("moved"))
    for path in place.files[2:]:
        path.rename(path.with_name(f"moved{path.suffix}"))
        path.write_bytes(b"")
    file.take_away_its_own()
    assert all(path.exists() for path in place.files[2:])


# -- writing, and the word (rule 24) ---------------------------------------------------------


def test_an_exception_undoes_a_transaction(file):
    def write():
        with file.writing(0) as writer:
            writer.execute("UPDATE meta SET revision = 99")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert file.news()[0].revision == 0


def test_a_writer_waits_as_long_as_it_is_told(open_file):
    first, second = open_file(), open_file()
    with first.writing(0):
        for patience in (0, 0.002):
            with pytest.raises(StoreBusy), second.writing(patience):
                pytest.fail("both write")
    with second.writing(0):
        pass


def test_the_word_is_dirty_before_the_commit_and_clean_and_new_after_it(file, monkeypatch):
    words = [file.bell.word[()]]
    with file.writing(0) as writer:
        writer.execute("UPDATE meta SET revision = 1")
        words.append(file.bell.word[()])
        ring = file._ring

        def ringing(word):
            ring(word)
            words.append(committed(file))

        monkeypatch.setattr(file, "_ring", ringing)
        file.commit(ring=True)
    assert words[0] == words[1]
    assert words[2:] == [(0, False), (1, True)]
    assert file.bell.word[()] != words[0]


def committed(file):
    """The revision that others see, and whether the word is clean."""
    return file.news()[0].revision, doorbell.is_clean(file.bell.word[()])


def test_a_silent_commit_leaves_the_word(file):
    before = file.bell.word[()]
    with file.writing(0) as writer:
        writer.execute("UPDATE meta SET revision = 1")
        file.commit(ring=False)
    assert file.bell.word[()] == before


class Commit:
    """A writer's connection in whose COMMIT something happens."""

    def __init__(self, connection, then):
        self.connection = connection
        self.then = then

    def execute(self, sql, *values):
        result = self.connection.execute(sql, *values)
        if sql == "COMMIT":
            self.then()
        return result

    def __getattr__(self, name):
        return getattr(self.connection, name)


def commit_while(file, then):
    file._writer = Commit(file._writer, then)
    with file.writing(0) as writer:
        writer.execute("UPDATE meta SET revision = 1")
        file.commit(ring=True)
    file._writer = file._writer.connection


def test_a_writer_that_has_begun_meanwhile_keeps_its_dirty_word(file):
    commit_while(file, lambda: file._ring(-7.0))
    assert file.bell.word[()] == -7.0


def test_a_late_clean_word_of_an_earlier_writer_hides_no_commit(file):
    # The earlier one took its own dirty word for the last one, just before ours was written.
    commit_while(file, lambda: file._ring(7.0))
    assert file.bell.word[()] not in (7.0, -7.0)
    assert doorbell.is_clean(file.bell.word[()])


@pytest.mark.parametrize("word", [-5.0, 0.0, math.nan])
def test_a_word_that_was_left_dirty_is_cleaned(file, word):
    file._ring(word)
    file.clean_word()
    assert doorbell.is_clean(file.bell.word[()])


def test_a_word_is_not_cleaned_under_a_writers_hand(open_file):
    first, second = open_file(), open_file()
    with first.writing(0):
        first._ring(-5.0)
        with pytest.raises(StoreBusy):
            second.clean_word()
    first._ring(7.0)
    second.clean_word()
    assert first.bell.word[()] == 7.0
