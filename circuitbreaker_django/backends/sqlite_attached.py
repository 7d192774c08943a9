"""A backend that has a SQLite file open, loses it, and goes on without until it is back."""

from __future__ import annotations

import abc
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from circuitbreaker_django.backends import host
from circuitbreaker_django.backends.base import PERMIT_PATIENCE, Clock, operation
from circuitbreaker_django.backends.doorbell import is_clean
from circuitbreaker_django.backends.place import Place, PlaceError
from circuitbreaker_django.backends.process import Process, on_event_loop
from circuitbreaker_django.backends.sqlite_file import SQLiteFile, open_store
from circuitbreaker_django.backends.sqlite_process import SQLiteProcess, start_thread
from circuitbreaker_django.backends.sqlite_tables import Corrupt, Meta, save
from circuitbreaker_django.backends.store import StoreBusy, StoreLost
from circuitbreaker_django.backends.transactional import Transaction, TransactionalBackend
from circuitbreaker_django.core.circuit import Circuit
from circuitbreaker_django.core.gate import Bell
from circuitbreaker_django.core.news import BackendDegraded, BackendRecovered
from circuitbreaker_django.core.telling import keep

#: Seconds that a failing caller waits for another process's transaction.
FLUSH_PATIENCE: Final = 0.002
#: Seconds that a fork may wait for other processes to open or close the store.
FORK_PATIENCE: Final = 0.1


class AttachedBackend(TransactionalBackend):
    """A backend whose store is a file that each process opens for itself.

    Args:
        place: where the file is.
        observer: whether to make no store.
        clock: microseconds of the host's monotonic clock; tests inject one.
    """

    def __init__(self, place: Place, *, observer: bool, clock: Clock) -> None:
        self.place = place
        self.observer = observer
        #: Whether this process may have a thread for housekeeping.
        self.threads = not observer
        #: The thread that forks, while it does.
        self._forking: int | None = None
        super().__init__(clock=clock)
        self.bell = Bell(seen=None)

    # -- this process's part ----------------------------------------------------------------

    @property
    def available(self) -> bool:
        """Whether the store could be used when it was last tried."""
        process = self._here()
        return process.file is not None and not process.stalled

    def _new_process(self) -> SQLiteProcess:
        return SQLiteProcess()

    def _here(self) -> SQLiteProcess:
        process = super()._here()
        assert isinstance(process, SQLiteProcess)
        return process

    def _may_write(self, process: Process) -> bool:
        assert isinstance(process, SQLiteProcess)
        return process.file is not None and time.monotonic() >= process.write_at

    def _patience(self) -> float:
        return 0.0 if on_event_loop() else FLUSH_PATIENCE

    def _change_bell(self, bell: Bell) -> None:
        """Whoever has passed by the old bell looks again at his next call."""
        with self._here().lock:
            self.bell = bell
            self._shut_gates()

    # -- having the store, and losing it -----------------------------------------------------

    def _take_up(self, process: SQLiteProcess, patience: float, *, first: bool = False) -> None:
        """Open the store, or go on alone until that can be done. Never raises."""
        error = self._attach(process, patience, create=not self.observer, first=first)
        if error is not None:
            self._go_alone(process, error)
        self._begin_thread(process)

    def _begin_thread(self, process: SQLiteProcess) -> None:
        """Have a thread, if it may run now and there was none."""
        if (
            self.threads
            and process.thread is None
            and host.may_run_threads()
            and not process.stopped
        ):
            start_thread(self, process)

    def _attach(
        self, process: SQLiteProcess, patience: float, *, create: bool, first: bool = False
    ) -> Exception | None:
        """Open the store for this process; what hinders it is returned.

        Args:
            process: this process.
            patience: seconds that it may take.
            create: whether to make a store where there is none.
            first: not if another thread has tried meanwhile.
        """
        deadline = time.monotonic() + patience
        try:
            with process.reading.taken(patience) as mine:
                # If it is another thread's, that one is at it, and nobody waits for it again.
                if not mine or process.file is not None or process.stopped:
                    return None
                if first and process.tried:
                    return None
                self._open(process, deadline, create)
        except Exception as error:  # whatever hinders it must not hinder calls
            return error
        finally:
            process.tried = True
        self._attached(process, deadline)
        return None

    def _open(self, process: SQLiteProcess, deadline: float, create: bool) -> None:
        file = open_store(
            self.place,
            create=create,
            patience=max(0.0, deadline - time.monotonic()),
            now=self.clock(),
            bad=process.bad,
        )
        try:
            if process.problem is not None and not self.observer:
                # What was lost is not back before it takes something: a full disk can be read.
                file.prove(max(0.0, deadline - time.monotonic()))
            word = file.bell.word[()]
            meta, rows = file.news()
        except BaseException:
            file.close()
            raise
        with process.lock:
            process.file, process.bad = file, None
            process.publishing.begin_anew()
            process.busy_since, process.write_at, process.resync = None, 0.0, False
            self._take(process, file, meta, rows)
            if not process.tried:
                self._believe_quietly()
            self._change_bell(file.bell)
            if is_clean(word):
                file.bell.seen = word

    def _refresh(self, process: SQLiteProcess, file: SQLiteFile, *, force: bool = False) -> None:
        """Read what has changed: the word before the rows, and kept after them (rule 24)."""
        patience = FLUSH_PATIENCE if on_event_loop() else PERMIT_PATIENCE
        try:
            with process.reading.taken(patience) as mine:
                word = file.bell.word[()]
                if not mine or process.file is not file:
                    return
                if word == file.bell.seen and not force:
                    return
                if process.resync:
                    file.revision, process.resync = -1, False
                meta, rows = file.news()
                if self._is_news(meta):
                    file.revision = -1
                    meta, rows = file.news()
                elif meta.revision < file.revision:
                    raise Corrupt("it has gone back in time")
                with process.lock:
                    if process.file is file:
                        self._take(process, file, meta, rows)
                        if is_clean(word):
                            file.bell.seen = word
        except StoreBusy:
            return
        except StoreLost as error:
            self._lost(process, file, error)

    def _is_news(self, meta: Meta) -> bool:
        """Whether what is known of the store is void, also of names that have no row now."""
        return (meta.incarnation, meta.floor) != (self._incarnation, self._floor)

    def _take(
        self, process: SQLiteProcess, file: SQLiteFile, meta: Meta, rows: Mapping[str, Circuit]
    ) -> None:
        """Believe what the store says; all of it, when it is another store than before (rule 1)."""
        file.revision = meta.revision
        if self._is_news(meta):
            if self._incarnation not in (0, meta.incarnation):
                self._remember_holds(process, rows)
            self._incarnation, self._floor, self._rows = meta.incarnation, meta.floor, dict(rows)
            changed = list(self._views)
        else:
            for name, circuit in rows.items():
                self._keep_row(name, circuit)
            changed = [name for name in rows if name in self._views]
        for name in changed:
            self._believe(name, self._row(name), meta.incarnation)

    def _verify(self, process: SQLiteProcess, file: SQLiteFile) -> None:
        """Lose the file if it is no longer what lies at the place."""
        try:
            file.verify()
        except StoreLost as error:
            # What the others have told it last is worth knowing: an acknowledged reset is not
            # to be undone (rule 21).
            self._refresh(process, file, force=True)
            self._lost(process, file, error)

    def _lost(self, process: SQLiteProcess, file: SQLiteFile, error: StoreLost) -> None:
        with process.lock:
            if process.file is not file:
                return
            process.file = None
            process.retired.append(file)
            if isinstance(error, Corrupt):
                process.bad = file.inodes[0]
            self._change_bell(Bell())
        self._go_alone(process, error)
        process.call_keeper()

    def _go_alone(self, process: SQLiteProcess, error: Exception) -> None:
        with process.lock:
            if process.file is None and self.bell.seen is None:
                self._change_bell(Bell())  # closed calls pay nothing for a store that is away
            told, process.problem = process.problem, str(error)
        if told is None:
            keep(BackendDegraded(self.registry, self.describe(), str(error)))

    def _recovered(self, process: SQLiteProcess) -> None:
        if process.problem is not None:
            process.problem = None
            keep(BackendRecovered(self.registry, self.describe()))

    # -- writing ----------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, process: Process, patience: float) -> Iterator[Transaction]:
        assert isinstance(process, SQLiteProcess)
        file = process.file
        if file is None:
            raise StoreLost(process.problem or f"{self.place.database} is not open")
        with self._writing(process, file, patience) as writer:
            meta = file.meta()
            step = Transaction(file.find, meta.incarnation, meta.floor, self.clock())
            yield step
            if step.written or not step.silent:
                save(writer, meta, step)
                file.commit(ring=not step.silent)

    @contextmanager
    def _writing(
        self, process: SQLiteProcess, file: SQLiteFile, patience: float
    ) -> Iterator[sqlite3.Connection]:
        try:
            with file.writing(patience) as writer:
                file.verify()
                yield writer
        except StoreBusy:
            process.was_busy()
            raise
        except StoreLost as error:
            self._lost(process, file, error)
            raise
        process.has_written()
        self._recovered(process)

    # -- forks ------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Close the connections, so that no child inherits them (rule 28)."""
        process = self._here()
        if process.hold_still():
            self._forking = threading.get_ident()
            process.close_retired()
            if process.file is not None:
                process.file.close()

    @operation
    def after_fork_in_parent(self) -> None:
        """Open them again."""
        if self._forking != threading.get_ident():
            return
        self._forking = None
        process = self._here()
        file = process.file
        if file is not None:
            try:
                file.connect_again(FORK_PATIENCE)
            except (PlaceError, StoreBusy, StoreLost, OSError) as error:
                self._lost(process, file, StoreLost(str(error)))
        process.go_on()

    def after_fork_in_child(self) -> None:
        """Begin anew: with locks and, at the next call, connections of its own."""
        self._forking = None
        self._change_bell(Bell(seen=None))

    # -- what comes with it -------------------------------------------------------------------

    @abc.abstractmethod
    def _attached(self, process: SQLiteProcess, deadline: float) -> None:
        """The store has been opened: what there is to tell it, until then."""

    @abc.abstractmethod
    def _remember_holds(self, process: SQLiteProcess, rows: Mapping[str, Circuit]) -> None:
        """The store has lost what was in it: what of that is to be put back."""

    @abc.abstractmethod
    def keep_house(self, process: SQLiteProcess) -> None:
        """What the thread does in each round."""
