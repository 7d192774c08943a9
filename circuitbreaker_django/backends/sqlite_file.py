"""One opened store of the SQLite backend: its two connections and its word."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from circuitbreaker_django.backends import doorbell, host
from circuitbreaker_django.backends.place import (
    Place,
    check_files,
    create_file,
    locked_folder,
    prepare_folder,
    remove_files,
    share_side_files,
)
from circuitbreaker_django.backends.sqlite_tables import (
    Corrupt,
    Meta,
    carry_over,
    find_circuit,
    make_tables,
    read_circuits,
    read_meta,
)
from circuitbreaker_django.backends.store import NoStore, StoreBusy, StoreLost
from circuitbreaker_django.core.circuit import Circuit
from circuitbreaker_django.core.gate import Bell

#: Seconds between two looks at a lock that another process holds, at first and at most.
_POLL: Final = 0.0002
_LONGEST_POLL: Final = 0.003

_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_CORRUPT: Final = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,  # tables of another shape
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_FORMAT,
)

Inode = tuple[int, int]

#: Every file that this process has open, or has lost and not closed yet.
_connected: weakref.WeakSet[SQLiteFile] = weakref.WeakSet()

T = TypeVar("T")


class SQLiteFile:
    """An opened store. Reading and writing have a connection each, so that neither waits.

    Every method raises :class:`StoreBusy` when another process keeps the write lock, and
    :class:`StoreLost` when the file cannot be used. It is not safe for threads: the backend
    lets one thread read and one write at a time.
    """

    def __init__(
        self, place: Place, word: doorbell.Word, bell_inode: Inode, deadline: float
    ) -> None:
        self.place = place
        self.bell = Bell(word, None)
        self.revision = -1
        self._bell_inode = bell_inode
        self.connect(deadline)

    def connect(self, deadline: float) -> None:
        """Open the connections, and try to until a moment of ``time.monotonic()``."""
        self._reader = _connect(self.place)
        try:
            self._writer = _connect(self.place)
        except BaseException:
            _disconnect(self._reader)
            raise
        self.pid = os.getpid()
        try:
            # Whoever closes his connection, or finds a log that a killed process has left, keeps
            # everybody else out of the file for a moment.
            _insist(self._begin_log, deadline)
            self.inodes = self._look()
        except BaseException:
            self.close()
            raise
        _connected.add(self)

    def _begin_log(self) -> None:
        mode = self._writer.execute("PRAGMA journal_mode = WAL").fetchone()
        self._writer.execute("PRAGMA synchronous = OFF")
        # The log and its index are made by the first look into the file.
        self._reader.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        if mode != ("wal",):
            raise StoreLost(f"{self.place.database} cannot have a write-ahead log")

    def close(self) -> None:
        """Close both connections; never but in the process that opened them (rule 28)."""
        if self.pid == os.getpid():
            self.pid = 0
            _connected.discard(self)
            _disconnect(self._reader)
            _disconnect(self._writer)

    def connect_again(self, patience: float) -> None:
        """Open the connections again after :meth:`close`, if it is still the same file."""
        deadline = time.monotonic() + patience
        before = self.inodes[0]
        if inode_of(self.place.database) != before:
            raise StoreLost(_lost(self.place.database))
        # Under the lock, like every opening: SQLite makes its files first, and gives them the
        # group that lets others in only then.
        with locked_folder(self.place, patience):
            self.connect(deadline)
            share_side_files(self.place, os.stat(self.place.folder))

    def verify(self) -> None:
        """See whether what lies at the place is still what is open here.

        Raises:
            StoreLost: it was removed or replaced.
            Corrupt: SQLite's own files were. Whoever comes new would not meet our locks.
        """
        found = self._look()
        if (found[0], inode_of(self.place.bell)) != (self.inodes[0], self._bell_inode):
            raise StoreLost(_lost(self.place.database))
        if found != self.inodes:
            raise Corrupt(f"files beside {self.place.database} were removed or replaced")

    def take_away_its_own(self) -> None:
        """Remove SQLite's files of this one from the place, if its database is not there.

        They would be taken for the other database's: its rows would come back with the log, and
        the index would be opened twice by one process, which then sees none of its own locks
        on it and truncates what it has mapped. That is fatal (SIGBUS).
        """
        database, _, *beside = self.place.files
        if inode_of(database) != self.inodes[0]:
            for path, inode in zip(beside, self.inodes[1:], strict=True):
                if inode_of(path) == inode:
                    path.unlink(missing_ok=True)

    def _look(self) -> tuple[Inode | None, ...]:
        database, _, *beside = self.place.files
        return tuple(inode_of(path) for path in (database, *beside))

    # -- reading ----------------------------------------------------------------------------

    def read(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        """What ``ask`` reads, all as of one moment."""
        with translated():
            self._reader.execute("BEGIN")
            try:
                return ask(self._reader)
            finally:
                if self._reader.in_transaction:
                    self._reader.execute("COMMIT")

    def news(self) -> tuple[Meta, dict[str, Circuit]]:
        """What the store says of itself, and the circuits that changed since ``revision``."""
        return self.read(lambda reader: (read_meta(reader), read_circuits(reader, self.revision)))

    # -- writing ----------------------------------------------------------------------------

    @contextmanager
    def writing(self, patience: float) -> Iterator[sqlite3.Connection]:
        """The write lock; undone by an exception, and unless :meth:`commit` was called."""
        try:
            _insist(lambda: self._writer.execute("BEGIN IMMEDIATE"), time.monotonic() + patience)
            with translated():
                yield self._writer
        finally:
            with suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    def meta(self) -> Meta:
        """What the store says of itself, inside of :meth:`writing`."""
        return read_meta(self._writer)

    def find(self, name: str) -> Circuit | None:
        """A circuit's row, inside of :meth:`writing`."""
        return find_circuit(self._writer, name)

    def commit(self, *, ring: bool) -> None:
        """Make the transaction true, and let the others know when ``ring`` (rule 24)."""
        if not ring:
            self._writer.execute("COMMIT")
            return
        fresh = doorbell.fresh_word()
        self._ring(-fresh)
        try:
            self._writer.execute("COMMIT")
        finally:
            # Dirty and not ours: another writer has begun already, who will make it clean. But
            # clean and not ours tells nobody of this commit: a late hand has wiped our dirt.
            word = self.bell.word[()]
            if word == -fresh or doorbell.is_clean(word):
                self._ring(fresh)

    def prove(self, patience: float) -> None:
        """Write something, to see whether the store takes it."""
        with self.writing(patience) as writer:
            writer.execute("UPDATE meta SET revision = revision")
            self.commit(ring=False)

    def clean_word(self) -> None:
        """Make the word clean that a killed writer has left dirty."""
        with self.writing(0):
            if not doorbell.is_clean(self.bell.word[()]):  # nobody writes now, so it is nobody's
                self._ring(doorbell.fresh_word())

    def _ring(self, word: float) -> None:
        self.bell.word[()] = word


def open_store(
    place: Place, *, create: bool, patience: float, now: int, bad: Inode | None = None
) -> SQLiteFile:
    """Open the store, making it first if there is none, or nothing that could be understood.

    Args:
        place: where it is.
        create: whether to make what is not there, and to replace what is corrupt.
        patience: seconds that it may wait for other processes.
        now: microseconds of the store's clock.
        bad: the inode of a file that was found corrupt, and is to be replaced.

    Raises:
        PlaceError: the place cannot be used.
        NoStore: there is nothing, and ``create`` is false.
        StoreBusy, StoreLost: the file cannot be used now.
    """
    deadline = time.monotonic() + patience
    folder = prepare_folder(place, create=create)
    with locked_folder(place, patience):
        if create and bad is not None and inode_of(place.database) == bad:
            remove_files(place)
        try:
            return _open(place, folder, create, deadline, now)
        except Corrupt:
            if not create:
                raise
            remove_files(place)
            return _open(place, folder, create, deadline, now)


def _lost(path: Path) -> str:
    return f"{path} was removed or replaced, or its folder may not be entered"


def inode_of(path: Path) -> Inode | None:
    """The device and inode of what lies at the path."""
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino


@contextmanager
def translated() -> Iterator[None]:
    """SQLite's errors as the store's."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # Python's own: text that is no UTF-8, or a connection that was closed
            undecodable = isinstance(error, sqlite3.OperationalError)
            raise (Corrupt(error) if undecodable else StoreLost(str(error))) from error
        if code & 0xFF in _BUSY:
            raise StoreBusy("another process is writing to the store") from error
        if code & 0xFF in _CORRUPT or code == sqlite3.SQLITE_IOERR_SHORT_READ:
            raise Corrupt(error) from error
        raise StoreLost(f"the store cannot be used: {error}") from error


def _insist(step: Callable[[], object], deadline: float) -> None:
    """Take a step as soon as no other process is in its way; it is tried until the deadline."""
    pause = _POLL
    while True:
        try:
            with translated():
                step()
            return
        except StoreBusy:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_POLL)


def _open(
    place: Place, folder: os.stat_result, create: bool, deadline: float, now: int
) -> SQLiteFile:
    if not os.path.lexists(place.database):
        if not create:
            raise NoStore(f"there is no {place.database}")
        remove_files(place)  # what an older one has left behind
        os.close(create_file(place.database, folder))
    check_files(place, folder)
    for other in list(_connected):
        if other.place == place:
            other.take_away_its_own()
    file = SQLiteFile(place, *doorbell.open_bell(place.bell, folder), deadline)
    try:
        _settle_in(file, create, deadline, now)
        share_side_files(place, folder)
    except BaseException:
        file.close()
        raise
    return file


def _settle_in(file: SQLiteFile, create: bool, deadline: float, now: int) -> None:
    """Make the tables in a new file, or carry an old one over to this boot; nobody else does so."""
    boot = host.boot_identity()
    made = file.read(
        lambda reader: reader.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    )
    if not made and not create:
        raise NoStore(f"there is nothing in {file.place.database}")
    if made and file.news()[0].boot == boot:
        return
    with file.writing(max(0.0, deadline - time.monotonic())) as writer:
        if made:
            carry_over(writer, boot, now)
        else:
            make_tables(writer, boot, now)
        file.commit(ring=True)


def _connect(place: Place) -> sqlite3.Connection:
    with translated():
        uri = f"{place.database.absolute().as_uri()}?mode=rw"
        # Autocommit, waiting is ours, and the backend keeps threads apart.
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, timeout=0, check_same_thread=False
        )
    # A reference that nobody drops but _disconnect: the interpreter of a forked process must
    # never close what it has inherited, not even when it ends.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    return connection


def _disconnect(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        connection.close()
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(connection))
