"""What one process holds of a SQLite store, and the thread that keeps it in order."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from circuitbreaker_django.backends.holds import LostHolds
from circuitbreaker_django.backends.process import Process, Turn
from circuitbreaker_django.backends.publishing import Publishing
from circuitbreaker_django.backends.sqlite_file import Inode, SQLiteFile

logger = logging.getLogger("circuitbreaker_django")

#: Seconds between two rounds of housekeeping, before a store that was lost is tried again, and
#: before a caller tries one that was busy again.
TICK: Final = 1.0
#: Seconds to wait for this process's other threads when all of them have to let go.
_STILL_PATIENCE: Final = 1.0


class SQLiteProcess(Process):
    """What one process holds of a store."""

    def __init__(self) -> None:
        super().__init__()
        #: Held by the one thread of this process that reads news. Taken after ``writing``.
        self.reading = Turn()
        self.file: SQLiteFile | None = None
        #: Lost, but perhaps still in use by another thread.
        self.retired: list[SQLiteFile] = []
        #: The inode of a file that was found corrupt.
        self.bad: Inode | None = None
        #: Why the store cannot be used; told once.
        self.problem: str | None = None
        self.thread: threading.Thread | None = None
        self.wake = threading.Event()
        self.stopped = False
        #: Whether the first use is over.
        self.tried = False
        #: Whether all rows are to be read again.
        self.resync = False
        self.publishing = Publishing(self.lock)
        # When things were done last, or may be done again, by the process's own clock.
        self.write_at = 0.0
        self.busy_since: float | None = None
        self.ticked_at = 0.0
        self.clean_at = 0.0
        #: Holds to put back into a store that has lost them.
        self.holds = LostHolds()

    def has_a_lock(self) -> bool:
        """Whether this thread holds any of them."""
        return super().has_a_lock() or self.reading.is_mine()

    @property
    def stalled(self) -> bool:
        """Whether the store has been busy for so long that its writer must have stopped."""
        return self.busy_since is not None and time.monotonic() - self.busy_since >= TICK

    def call_keeper(self) -> None:
        """Let the thread come at once. It does not call itself: what it cannot mend waits."""
        if threading.current_thread() is not self.thread:
            self.wake.set()

    def was_busy(self) -> None:
        """Spare callers the wait for a while; the thread tries at once (rule 27)."""
        now = time.monotonic()
        self.write_at = now + TICK
        if self.busy_since is None:
            self.busy_since = now
        self.call_keeper()

    def has_written(self) -> None:
        """The store takes what it is given."""
        if self.stalled:  # what went on alone meanwhile believes the store again (rule 18)
            self.resync = True
            self.call_keeper()
        self.busy_since = None
        self.write_at = 0.0

    @contextmanager
    def still(self, patience: float = _STILL_PATIENCE) -> Iterator[bool]:
        """Keep all threads of this process from the store; whether they are."""
        got = self.hold_still(patience)
        try:
            yield got
        finally:
            if got:
                self.go_on()

    def hold_still(self, patience: float = _STILL_PATIENCE) -> bool:
        """Keep all threads of this process from the store, until :meth:`go_on`."""
        if not self.writing.take(patience):
            return False
        if self.reading.take(patience):
            return True
        self.writing.give_back()
        return False

    def go_on(self) -> None:
        """Let the threads go on after :meth:`hold_still`."""
        self.reading.give_back()
        self.writing.give_back()

    def close_retired(self) -> None:
        """Close lost files, now that nobody uses them; between the calls of the others."""
        while self.retired:
            self.retired.pop().close()


class Keeper(Protocol):
    """Whose house is to be kept."""

    def keep_house(self, process: SQLiteProcess) -> None:
        """One round."""


def start_thread(owner: Keeper, process: SQLiteProcess) -> None:
    """Keep house for as long as the owner lives; without a thread where none can be had."""
    with process.lock:
        if process.thread is not None:
            return
        process.ticked_at = time.monotonic()
        process.thread = threading.Thread(
            target=run_thread,
            args=(weakref.ref(owner), process),
            name="circuitbreaker-housekeeping",
            daemon=True,
        )
    try:
        process.thread.start()
    except RuntimeError:
        process.ticked_at = 0.0  # `touch` does the work


def run_thread(reference: weakref.ref[Keeper], process: SQLiteProcess) -> None:
    """A round every second, and at once when something could not be written."""
    while True:
        process.wake.wait(TICK)
        process.wake.clear()
        owner = reference()
        if process.stopped:
            return
        if owner is None:  # nobody closed it
            with process.still() as got:
                if got and process.file is not None:
                    process.retired.append(process.file)
                    process.file = None
                if got:
                    process.close_retired()
            return
        try:
            owner.keep_house(process)
        except Exception:
            logger.exception("the housekeeping of a circuit store failed")
        del owner
        time.sleep(TICK / 200)  # whatever callers meet, it makes no more than 200 rounds a second
