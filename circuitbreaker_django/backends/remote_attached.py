"""Having a store over a network, losing it, and going on without it until it is back."""

from __future__ import annotations

import abc
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from math import inf
from typing import Final, TypeVar

from circuitbreaker_django.backends import host
from circuitbreaker_django.backends.base import (
    COMMAND_PATIENCE,
    PERMIT_PATIENCE,
    Backend,
    Clock,
    operation,
)
from circuitbreaker_django.backends.process import Process, on_event_loop
from circuitbreaker_django.backends.published import CLEAN_EVERY
from circuitbreaker_django.backends.remote_process import (
    FLUSH_EVERY,
    TICK,
    Question,
    RemoteProcess,
    start_threads,
)
from circuitbreaker_django.backends.remote_store import RemoteStore, Snapshot, moved
from circuitbreaker_django.backends.store import (
    Changes,
    Declaration,
    Fence,
    NoStore,
    ProcessInfo,
    StoreBusy,
    StoreLost,
)
from circuitbreaker_django.core.circuit import Circuit, Event
from circuitbreaker_django.core.gate import Bell
from circuitbreaker_django.core.news import BackendDegraded, BackendRecovered
from circuitbreaker_django.core.policy import micros
from circuitbreaker_django.core.telling import keep
from circuitbreaker_django.core.traffic import buckets_due

T = TypeVar("T")

#: Seconds that the first use in a process waits for the store, once.
FIRST_PATIENCE: Final = 0.1
#: Seconds that any answer of the store may take where no caller waits for it.
THREAD_PATIENCE: Final = 1.0
#: Seconds between two times that all rows are read again: clocks drift, and a store may have lost
#: changes without a sign.
RESYNC_EVERY: Final = 60.0
#: Seconds before a store that was lost is tried again, at least and at most: a fifth of the time
#: that it has been away.
RETRY_LEAST: Final = 0.1
RETRY_MOST: Final = 5.0
#: Seconds for which a store has to stay before it is called back; where it did not before,
#: ``RETRY_MOST``.
STAY: Final = 1.0
#: Figures that a store is told of at once, about: one for each name and bucket.
FIGURES: Final = 5_000
#: A time of the store that does not come.
_NEVER: Final = 2**62
#: The bell of a process without threads: nobody passes by it, for nobody would ring it.
ASK: Final = Bell(seen=None)


class ServedBackend(Backend):
    """A backend whose store is a server.

    Args:
        threads: whether this process may have threads.
        observer: whether to make no store, and not to count as a process.
        clock: microseconds of a monotonic clock; tests inject one.
    """

    #: Seconds between two times that a caller does the work of threads, and that any answer of the
    #: store may then take.
    turn_every = FLUSH_EVERY
    turn_patience = PERMIT_PATIENCE

    def __init__(self, *, threads: bool, observer: bool, clock: Clock) -> None:
        self.threads = threads and not observer
        self.observer = observer
        self._declared: dict[str, Declaration] = {}
        super().__init__(clock=clock)
        self.bell = ASK

    # -- this process's part ----------------------------------------------------------------

    @abc.abstractmethod
    def connect(self, patience: float) -> RemoteStore:
        """A connection whose every use takes so many seconds at most; it is not opened yet."""

    @property
    def available(self) -> bool:
        """Whether the store could be used when it was last tried."""
        return self._here().attached

    def _new_process(self) -> RemoteProcess:
        return RemoteProcess()

    def _here(self) -> RemoteProcess:
        before = self._process
        process = super()._here()
        assert isinstance(process, RemoteProcess)
        if process is not before:
            # A fork. Its parent's connections are not closed here, for that may say goodbye.
            process.left_behind = before
            # Where a thread of the parent was just about to believe something, half is believed.
            self._incarnation = 0
            self._change_bell(ASK)
        return process

    def _change_bell(self, bell: Bell) -> None:
        """Whoever has passed by the old bell looks again at his next call."""
        self.bell = bell
        self._shut_gates()

    def _may_write(self, process: Process) -> bool:
        assert isinstance(process, RemoteProcess)
        return process.attached

    def _patience(self) -> float:
        return PERMIT_PATIENCE

    def _use(self, process: RemoteProcess) -> None:
        """The first use in this process: start, and wait a moment for what the store says."""
        with process.lock:
            if process.first_until is None:
                process.first_until = time.monotonic() + FIRST_PATIENCE
            until = process.first_until
        threads = self.threads and host.may_run_threads()
        if threads and not start_threads(self, process, THREAD_PATIENCE):
            self.threads = threads = False
            self._process = process = self._new_process()
        if not threads:
            process.used = True
            self._take_turn(process)
            return
        if not on_event_loop():
            process.first.wait(max(0.0, until - time.monotonic()))
        process.used = True

    def _take_turn(self, process: RemoteProcess) -> None:
        """Do the work of both threads, if they cannot run and it is this caller's turn."""
        if self.threads and process.writer is None and host.may_run_threads():
            self._use(process)
            return
        if time.monotonic() < process.turn_at:
            return
        with process.writing.taken(0) as mine:
            if not mine:
                return
            process.turn_at = time.monotonic() + self.turn_every
            try:
                self._do(process, lambda store: self._keep_up(process, store), PERMIT_PATIENCE)
            except (StoreBusy, StoreLost):
                return
        if time.monotonic() >= process.contribute_at:
            process.contribute_at = time.monotonic() + TICK
            self._keep_contributions()
        self._flush(process, PERMIT_PATIENCE)

    def _do(self, process: RemoteProcess, ask: Callable[[RemoteStore], T], patience: float) -> T:
        """Have the store asked by the thread that does that, which may be this one."""
        if process.alive.is_set() and threading.current_thread() is not process.writer:
            return process.ask(ask, patience)
        if process.store is None:
            process.store = self.connect(COMMAND_PATIENCE if self.observer else self.turn_patience)
        if process.visiting.is_mine():
            return self._try_to(process, process.store, ask)
        with process.visiting.taken(patience) as mine:
            if not mine:
                raise StoreBusy("another thread of this process is at the store")
            return self._try_to(process, process.store, ask)

    def _try_to(
        self, process: RemoteProcess, store: RemoteStore, ask: Callable[[RemoteStore], T]
    ) -> T:
        try:
            return ask(store)
        except NoStore:
            raise
        except StoreLost as error:
            self._lost(process, error)
            raise

    # -- having the store, and losing it -----------------------------------------------------

    @operation
    def feed_round(
        self, process: RemoteProcess, store: RemoteStore, fault: StoreLost | None
    ) -> None:
        """Act on what has changed, and keep house; or on what the feed met while it waited."""
        with process.lock:
            if self.bell is ASK and not process.stopped.is_set():
                self._change_bell(Bell())
        if process.stopped.is_set():
            return
        self._give_back_permits(process)
        if fault is not None:
            self._lost(process, fault)
        if not process.attached and time.monotonic() < process.retry_at:
            return
        try:
            self._try_to(process, store, lambda store: self._keep_up(process, store))
        except (StoreBusy, StoreLost):
            return
        finally:
            process.first.set()
        self._keep_contributions()
        if self._pending.evidence:
            process.call_writer(urgent=False)

    @operation
    def write_round(
        self, process: RemoteProcess, store: RemoteStore, question: Question | None
    ) -> None:
        """Do what is asked, or deliver what is due."""
        with process.visiting.taken(inf):
            if process.store is not None and process.store is not store:
                process.store.close()  # of callers who did this before there was a thread
            process.store = store
            if question is not None and question.answer.set_running_or_notify_cancel():
                try:
                    question.answer.set_result(self._try_to(process, store, question.ask))
                except BaseException as error:
                    question.answer.set_exception(error)
            # Taken in any case: who is attached again delivers what is pending.
            if process.take_flush() and process.attached:
                self._flush_all(process)

    def _keep_up(self, process: RemoteProcess, store: RemoteStore) -> None:
        """Know what the store knows, and let it know of this process."""
        whole = process.resync or time.monotonic() >= process.resync_at
        if not process.attached or not self._look(process, store, whole=whole):
            self._open(process, store, create=not self.observer)  # it is new, or has lost all
        self._tell_of_return(process)
        if not self.observer and process.publishing.is_due(self._open_alone(), self.stats_interval):
            self._publish(process, store)
        if not self.observer and time.monotonic() >= process.clean_at:
            process.clean_at = time.monotonic() + CLEAN_EVERY * random.uniform(0.8, 1.2)
            store.clean()

    def _attach(self, process: RemoteProcess, store: RemoteStore) -> None:
        """Take up a store that is new, or was away; it is back when it does all that is asked."""
        # Of one that was away there may be many figures: they are told once it is back.
        self._publish(process, store, figures=not process.lost_at)
        self._look(process, store, whole=True)
        store.wait(process.revision, 0)
        with process.lock:
            process.attached, process.attached_at = True, time.monotonic()
            process.problem = None
        process.call_writer(urgent=True)

    def _tell_of_return(self, process: RemoteProcess) -> None:
        """Tell that the store is back, once it has stayed: longer where it did not before.

        Told later, and not before this thread does anything else, it might be heard after what
        the writer has to tell meanwhile: that the store is lost again.
        """
        with process.lock:
            stayed = time.monotonic() - process.attached_at
            is_back = process.attached and stayed > (STAY if process.stays else RETRY_MOST)
            is_news = process.told_lost and is_back
            if is_news:
                process.told_lost = False
        if is_news:
            keep(BackendRecovered(self.registry, self.describe()))
            self.announce()

    def _attach_if_lost(self, process: RemoteProcess, store: RemoteStore) -> None:
        if not process.attached:
            self._open(process, store, create=not self.observer)

    def _open(self, process: RemoteProcess, store: RemoteStore, create: bool) -> None:
        if not self.observer:
            self._attach(process, store)
            return
        if create:
            store.publish(process.id)
        process.attached = self._look(process, store, whole=True)
        if not process.attached:
            raise NoStore(f"there is nothing at {self.describe()}")

    def _look(self, process: RemoteProcess, store: RemoteStore, *, whole: bool) -> bool:
        """Learn what has changed, or everything; whether there was a store to learn it from."""
        with process.lock:
            before = {name: row.epoch for name, row in self._rows.items()}
            fence = (self._incarnation, self._floor)
        since = 0 if whole else process.revision
        rows: dict[str, Circuit] = {}
        while True:
            snapshot = store.look(since)
            self._hear(process, snapshot.now)
            if not snapshot.incarnation:
                return False
            if since and (
                (snapshot.incarnation, snapshot.floor) != fence or snapshot.revision < since
            ):
                since, rows = 0, {}
                continue
            if not since:
                whole, fence = True, (snapshot.incarnation, snapshot.floor)
            rows |= self._by_own_clock(snapshot)
            since = snapshot.revision
            if not snapshot.more:
                break
        known_here = fence[0] == self._incarnation
        # A circuit without a row is at the floor (rule 2).
        epochs = {name: rows[name].epoch if name in rows else fence[1] for name in before}
        if whole and known_here and any(epochs[name] < epoch for name, epoch in before.items()):
            # As after the promotion of a replica, or where a row was dropped when the clock was set
            # back: nobody would believe it any more (rule 1).
            store.renew(fence[0])
            return self._look(process, store, whole=True)
        if self._incarnation not in (0, fence[0]):
            process.holds.remember(self._rows, rows, self.clock())
        changes = Changes(fence[0])
        if process.holds:  # first, so that no call slips through meanwhile
            changes = self._put_holds_back(process, store)
        with process.lock:
            if process.stopped.is_set():
                return True  # what is known now is known by whoever comes next
            self._take(process, fence, {**rows, **changes.circuits})
            self._adopt(process, changes)
            if not process.revision:
                self._believe_quietly()
            # Only now, for a signal handler may raise before all is believed.
            process.revision = since
            if whole:
                process.resync = False
                process.resync_at = time.monotonic() + RESYNC_EVERY * random.uniform(0.8, 1.2)
        return True

    def _take(self, process: RemoteProcess, fence: Fence, rows: Mapping[str, Circuit]) -> None:
        """Believe what the store says; all of it, when it is another store than before (rule 1)."""
        incarnation, floor = fence
        process.publishing.meet(incarnation)
        if fence != (self._incarnation, self._floor):
            self._incarnation = 0  # a signal handler may raise before all believe it
            self._floor, self._rows = floor, dict(rows)
            changed = list(self._views)
        else:
            for name, circuit in rows.items():
                self._keep_row(name, circuit)
            changed = [name for name in rows if name in self._views]
        for name in changed:
            self._believe(name, self._row(name), incarnation)
        self._incarnation = incarnation

    def _lost(self, process: RemoteProcess, error: StoreLost) -> None:
        """Go on alone until the store is back."""
        with process.lock:
            now = time.monotonic()
            if process.problem is None:
                process.stays = now - process.attached_at > RETRY_MOST or not process.lost_at
                if process.stays:  # else it was back for a moment only
                    process.lost_at = now
            away = now - process.lost_at
            wait = min(RETRY_MOST, max(RETRY_LEAST, away / 5))
            process.retry_at = now + wait * random.uniform(0.5, 1)
            process.turn_at = max(process.turn_at, process.retry_at)
            process.attached = False
            process.problem = str(error)
            is_news = not process.told_lost and not self.observer  # who looks gets an exception
            process.told_lost = process.told_lost or is_news
        if is_news:
            keep(BackendDegraded(self.registry, self.describe(), str(error)))

    def _put_holds_back(self, process: RemoteProcess, store: RemoteStore) -> Changes:
        """Tell a store that has lost everything of the holds that were in force (rule 21)."""
        changes = Changes(0)
        orders = process.holds.orders(self.clock())
        if orders:
            snapshot = store.command(orders, self._deadline(process), if_lost=True)
            changes = self._learn(process, snapshot)
        process.holds.forget()
        return changes

    def _publish(self, process: RemoteProcess, store: RemoteStore, *, figures: bool = True) -> None:
        """Tell operators of this process, its code and, in parts, its calls (rule 23)."""
        publishing = process.publishing
        info = publishing.info(process.pid, self.digest, self._open_alone())
        interval = self.stats_interval if figures else 0
        with (
            publishing.telling(info, self._declared, interval) as (declared, stats),
            self._telling(stats) as (counted, age),
        ):
            most = max(1, FIGURES // buckets_due(age))
            who: ProcessInfo | None = info
            while True:
                part = dict(islice(counted.items(), most))
                seen = store.publish(process.id, who, declared, (part, age))
                for name in part:
                    del counted[name]
                if not counted:
                    break
                who, declared = None, []  # said once
        publishing.meet(seen.incarnation)
        self._hear(process, seen.now)

    def _leave(self, process: RemoteProcess, store: RemoteStore) -> None:
        """Deliver what is pending, and tell operators that this process is gone."""
        if process.attached:
            self._give_back_permits(process, all=True)
            self._flush_all(process)
            if not self.observer:
                process.publishing.stats_at = 0.0
                self._publish(process, store)
                store.withdraw(process.id)

    # -- what the store is told and says -----------------------------------------------------

    def _hear(self, process: RemoteProcess, then: int) -> None:
        process.ahead = then - self.clock()
        process.heard_at = time.monotonic()

    def _by_own_clock(self, snapshot: Snapshot) -> dict[str, Circuit]:
        by = self.clock() - snapshot.now
        return {name: moved(circuit, by) for name, circuit in snapshot.circuits.items()}

    def _learn(self, process: RemoteProcess, snapshot: Snapshot) -> Changes:
        self._hear(process, snapshot.now)
        circuits = self._by_own_clock(snapshot)
        with process.lock:
            known = self._rows
            if any(name in known and known[name].epoch > circuits[name].epoch for name in circuits):
                process.resync = True  # perhaps it has lost changes
        by = self.clock() - snapshot.now
        events = [(name, moved_event(event, by)) for name, event in snapshot.events]
        return Changes(snapshot.incarnation, circuits, events)

    def _deadline(self, process: RemoteProcess) -> int:
        """The store's time after which this process does not wait for it any more."""
        if process.heard_at is None:
            return _NEVER
        return self.clock() + process.ahead + micros(THREAD_PATIENCE)

    def _flush_all(self, process: RemoteProcess) -> None:
        """Bring to the store what is pending; by the one thread that does so."""
        while self._pending:
            changes = self._flush_once(process, THREAD_PATIENCE)
            if changes is None:
                return
            self._adopt(process, changes)

    @abc.abstractmethod
    def _give_back_permits(self, process: RemoteProcess, *, all: bool = False) -> None:
        """Those that nobody has taken in time, or all that nobody has taken."""


def moved_event(event: Event, by: int) -> Event:
    """The event by a clock that is ahead by so many microseconds."""
    return replace(event, at=event.at + by)
