"""The backend of one host: every process shares circuits through a SQLite file, with no server.

A change is a transaction; a doorbell word beside the file, mapped by every process, tells the
others at their next call that there was one (rules 24 to 28). The state is disposable: what
is corrupt is replaced, and a process that cannot use the file goes on with circuits of its own.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

from circuitbreaker_django.backends import lifetime
from circuitbreaker_django.backends.base import COMMAND_PATIENCE, Clock, monotonic, operation
from circuitbreaker_django.backends.doorbell import is_clean
from circuitbreaker_django.backends.place import place_for
from circuitbreaker_django.backends.published import CLEAN_EVERY
from circuitbreaker_django.backends.sqlite_attached import AttachedBackend
from circuitbreaker_django.backends.sqlite_file import SQLiteFile
from circuitbreaker_django.backends.sqlite_process import TICK, SQLiteProcess
from circuitbreaker_django.backends.sqlite_tables import (
    drop,
    find_waste,
    publish,
    read_events,
    read_overview,
    withdraw,
)
from circuitbreaker_django.backends.sqlite_traffic import keep_traffic, read_traffic
from circuitbreaker_django.backends.store import (
    HISTORY,
    Changes,
    Declaration,
    NoStore,
    Order,
    Overview,
    Stats,
    StoreBusy,
    StoreLost,
)
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import Circuit, Event
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.gate import Bell
from circuitbreaker_django.core.policy import Policy, micros
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.core.traffic import KEPT, MINUTE
from circuitbreaker_django.core.trial import Trial
from circuitbreaker_django.core.view import View

T = TypeVar("T")

#: Seconds that the first use in a process may take.
ATTACH_PATIENCE: Final = 0.1
#: Seconds that the end of a process waits for another process's transaction, twice at most.
CLOSE_PATIENCE: Final = 0.1
#: Seconds that housekeeping waits for another process's transaction.
HOUSEKEEPING_PATIENCE: Final = 0.25


class SQLiteBackend(AttachedBackend):
    """Circuits that all processes of a host share.

    Args:
        location: the path of the file; by default a folder in memory that every user and
            session of the host finds. The file's name gets the schema's version.
        namespace: keeps projects apart at the default place.
        alias: keeps a project's registries apart at the default place.
        observer: look and steer only: make no store, and do not count as a process.
        clock: microseconds of the host's monotonic clock; tests inject one.
    """

    shared = True
    queues = False
    #: A round of housekeeping, and the wait for its turn to write.
    gathering = micros(1.5 * TICK)

    def __init__(
        self,
        location: str | os.PathLike[str] | None = None,
        *,
        namespace: str = "default",
        alias: str = "default",
        observer: bool = False,
        clock: Clock = monotonic,
    ) -> None:
        path = None if location is None else os.fspath(location)
        super().__init__(place_for(path, namespace, alias), observer=observer, clock=clock)
        self._declared: dict[str, Declaration] = {}
        lifetime.watch(self)

    # -- what a breaker calls ---------------------------------------------------------------

    def sync(self) -> None:
        """Act on what has changed in the store, and open it at the first use. Never raises."""
        process = self._here()
        file = process.file
        if file is None:
            if not process.tried:
                self._take_up(process, ATTACH_PATIENCE, first=True)
                self.announce()
        elif file.bell.word[()] != file.bell.seen:
            self._refresh(process, file)
            self.announce()

    def count(self, view: View, epoch: int, policy: Policy, **call: Any) -> None:
        """A call that was admitted under ``epoch`` has ended, and is to be counted."""
        super().count(view, epoch, policy, **call)
        if view.is_open_alone and view.name not in self._here().publishing.alone:
            self._here().call_keeper()  # operators are to know at once
        self.touch()

    def finish(self, trial: Trial, policy: Policy, outcome: Outcome, *answer: Any) -> None:
        """A trial has ended."""
        super().finish(trial, policy, outcome, *answer)
        self.touch()

    @operation
    def touch(self) -> None:
        """Do the housekeeping here if its thread has not: where threads cannot run (rule 25)."""
        process = self._here()
        if not process.tried:
            return
        self._begin_thread(process)
        if time.monotonic() >= process.ticked_at + 2 * TICK:
            self._tick(process, self._patience())

    def declare(self, declaration: Declaration) -> None:
        """Let operators know of a breaker; told to the store at the first use of any."""
        process = self._here()
        with process.lock:
            self._declared[declaration.name] = declaration
            process.publishing.declare(declaration)

    @operation
    def publish(self) -> None:
        """Tell operators of this process and of what it has counted, now. Never raises."""
        self.sync()
        process = self._here()
        process.publishing.publish_at = process.publishing.stats_at = 0.0
        self._publish(process, HOUSEKEEPING_PATIENCE)

    @operation
    def close(self) -> None:
        """Let go of the store; the next use takes it up again."""
        process = self._here()
        process.stopped = True
        process.wake.set()
        self._flush(process, CLOSE_PATIENCE, insist=True)
        with process.still() as got:
            self._process = self._new_process()
            self._incarnation = 0  # holds that are known of now may be over when it comes back
            self._change_bell(Bell(seen=None))
            if not got:
                return  # another thread is stuck in there
            if process.file is not None:
                self._withdraw(process, process.file)
                process.retired.append(process.file)
                process.file = None
            process.close_retired()

    # -- what operators ask ------------------------------------------------------------------

    def describe(self) -> str:
        """The path of the file."""
        return str(self.place.database)

    @property
    def problem(self) -> str | None:
        """Why the store cannot be used, if it cannot."""
        return self._here().problem

    @operation
    def open(self, *, create: bool) -> Overview:
        """Open the store for an operator and see everything, or say why that cannot be.

        Raises:
            NoStore: there is none, and ``create`` is false.
            CircuitBackendError: it cannot be used.
        """
        error = self._attach(self._here(), COMMAND_PATIENCE, create=create)
        if isinstance(error, NoStore):
            raise error
        if error is not None:
            raise CircuitBackendError(str(error)) from error
        return self.overview()

    def order(self, orders: Mapping[str, Order]) -> Mapping[str, Circuit]:
        """Apply an operator's commands, by name of circuit: all of them or none.

        Raises:
            CircuitConflictError: a circuit is not at the epoch that its command expects.
            CircuitBackendError: the store could not confirm them.
        """
        process = self._here()
        file = process.file
        if file is not None:
            self._verify(process, file)
        if process.file is None:  # also soon after a failure, since somebody waits for it
            self._take_up(process, COMMAND_PATIENCE / 2)
        return super().order(orders)

    def overview(self) -> Overview:
        """Everything, for operators; raises ``CircuitBackendError`` without a store."""
        return self._ask(lambda reader: read_overview(reader, self.clock()))

    def events(
        self, limit: int = 100, names: Collection[str] | None = None
    ) -> list[tuple[str, Event]]:
        """The newest events, newest first; raises ``CircuitBackendError`` without a store."""
        return self._ask(lambda reader: read_events(reader, max(0, min(limit, HISTORY)), names))

    def stats(
        self,
        names: Collection[str] | None = None,
        *,
        minutes: int = KEPT[MINUTE],
        day: bool = False,
    ) -> Mapping[str, Stats]:
        """The calls of breakers over time; raises ``CircuitBackendError`` without a store."""
        return self._ask(
            lambda reader: read_traffic(reader, names, self.clock(), minutes=minutes, day=day)
        )

    @operation
    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        self.sync()
        process = self._here()
        file = process.file
        if file is None:
            raise CircuitBackendError(process.problem or f"there is no {self.place.database}")
        try:
            with process.reading.taken(COMMAND_PATIENCE) as mine:
                if not mine:
                    raise StoreBusy("another thread of this process is reading")
                return file.read(question)
        except StoreBusy as error:
            raise CircuitBackendError(str(error)) from error
        except StoreLost as error:
            self._lost(process, file, error)
            raise CircuitBackendError(str(error)) from error

    # -- housekeeping -----------------------------------------------------------------------

    def _attached(self, process: SQLiteProcess, deadline: float) -> None:
        if self.observer:
            self._recovered(process)
        self._publish(process, max(0.0, deadline - time.monotonic()))
        self._put_holds_back(process, max(0.0, deadline - time.monotonic()))

    @operation
    def keep_house(self, process: SQLiteProcess) -> None:
        """One round of the thread."""
        self._tick(process, HOUSEKEEPING_PATIENCE)

    def _tick(self, process: SQLiteProcess, patience: float) -> None:
        process.ticked_at = time.monotonic()
        if process.file is not None:
            self._verify(process, process.file)
        if process.file is None:
            self._take_up(process, patience)
        if process.retired:
            with process.still(patience) as got:
                if got:
                    process.close_retired()
        file = process.file
        if file is None:
            return
        self._refresh(process, file, force=True)
        self._keep_contributions()
        self._flush(process, patience, insist=True)
        self._clean_word(process, file)
        self._publish(process, patience)
        self._put_holds_back(process, patience)
        self._clean_tables(process, file, patience)

    def _clean_tables(self, process: SQLiteProcess, file: SQLiteFile, patience: float) -> None:
        """Drop what there is too much of; looked for before the write lock is taken."""
        if self.observer or time.monotonic() < process.clean_at:
            return
        process.clean_at = time.monotonic() + CLEAN_EVERY
        try:
            with process.reading.taken(patience) as mine:
                waste = file.read(lambda reader: find_waste(reader, self.clock())) if mine else None
            if waste is None:
                return
            with process.writing.taken(patience) as mine:
                if mine:
                    with self._writing(process, file, patience) as writer:
                        drop(writer, waste)
                        file.commit(ring=True)
        except StoreBusy:
            return
        except StoreLost as error:
            self._lost(process, file, error)

    def _clean_word(self, process: SQLiteProcess, file: SQLiteFile) -> None:
        if is_clean(file.bell.word[()]):
            return
        try:
            with process.writing.taken(0) as mine:
                if mine:
                    file.clean_word()
        except StoreBusy:
            return  # somebody is writing, and cleans it himself
        except StoreLost as error:
            self._lost(process, file, error)

    def _publish(self, process: SQLiteProcess, patience: float) -> None:
        """Tell operators that this process is there, and what its code declares (rule 23)."""
        file, publishing = process.file, process.publishing
        if self.observer or file is None:
            return
        alone = self._open_alone()
        # A store that was busy is written to even so, to find out whether it still is.
        busy = process.busy_since is not None
        if not (busy or publishing.is_due(alone, self.stats_interval)):
            return
        info = publishing.info(process.pid, self.digest, alone)
        try:
            with process.writing.taken(patience) as mine:
                if not mine:
                    return
                with (
                    publishing.telling(info, self._declared, self.stats_interval) as (news, stats),
                    self._telling(stats) as told,
                    self._writing(process, file, patience) as writer,
                ):
                    publish(writer, process.id, info, news, self.clock())
                    keep_traffic(writer, *told, self.clock())
                    file.commit(ring=False)
        except (StoreBusy, StoreLost):
            return
        self._flush(process, self._patience())

    def _withdraw(self, process: SQLiteProcess, file: SQLiteFile) -> None:
        """Tell operators that this process is gone."""
        try:
            if not self.observer:
                due = self.stats_interval > 0
                with self._telling(due) as told, file.writing(CLOSE_PATIENCE) as writer:
                    withdraw(writer, process.id)
                    keep_traffic(writer, *told, self.clock())
                    file.commit(ring=False)
        except (StoreBusy, StoreLost):
            return  # it will be forgotten

    def _remember_holds(self, process: SQLiteProcess, rows: Mapping[str, Circuit]) -> None:
        process.holds.remember(self._rows, rows, self.clock())

    def _put_holds_back(self, process: SQLiteProcess, patience: float) -> None:
        """Tell a store that has lost everything of the holds that were in force (rule 21)."""
        if not process.holds:
            return
        changes = Changes(0)
        try:
            with process.writing.taken(patience) as mine:
                if not mine:
                    return
                if orders := process.holds.orders(self.clock()):
                    with self._transaction(process, patience) as step:
                        for name, (order, policy) in orders.items():
                            if step.find(name) is None:
                                result = core.command(step.read(name), order, policy, step.now)
                                assert result is not None
                                step.write(name, *result)
                        changes = step.changes
                process.holds.forget()
                self._adopt(process, changes)
        except (StoreBusy, StoreLost):
            return
        self._flush(process, self._patience())
