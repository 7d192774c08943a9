"""A backend whose store is reached over a network: what all of these share.

Closed calls look at nothing but a gate that the feed thread shuts when circuits change. A caller
waits for the store only to get a trial permit, for 50 ms at most; operators wait for a second. A
store that is away, slow or full costs nobody anything: circuits are this process's own meanwhile.

Where threads cannot run, one caller at a time does their work, at most every quarter of a second
and for at most 50 ms for each answer of the store; all others go on with what is known.
"""

from __future__ import annotations

import abc
import asyncio
import random
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from math import inf
from typing import Any, ClassVar, Final, TypeVar

from circuitbreaker_django.backends import host, lifetime
from circuitbreaker_django.backends.base import (
    COMMAND_PATIENCE,
    MAX_REPORTS,
    PAUSE,
    PERMIT_PATIENCE,
    Backend,
    Clock,
    monotonic,
    operation,
)
from circuitbreaker_django.backends.process import Process, on_event_loop
from circuitbreaker_django.backends.remote_process import (
    FLUSH_EVERY,
    TICK,
    Asked,
    Question,
    RemoteProcess,
    answer,
    start_threads,
)
from circuitbreaker_django.backends.remote_store import (
    RemoteStore,
    Snapshot,
    Teller,
    moved,
)
from circuitbreaker_django.backends.store import (
    Changes,
    Declaration,
    Evidence,
    Fence,
    NoStore,
    Order,
    Overview,
    ProcessInfo,
    Report,
    Stats,
    StoreBusy,
    StoreLost,
    StoreUnsure,
)
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import Circuit, Event, Grant
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.gate import Bell
from circuitbreaker_django.core.news import BackendDegraded, BackendRecovered
from circuitbreaker_django.core.policy import Policy, micros
from circuitbreaker_django.core.states import CircuitState, Outcome
from circuitbreaker_django.core.telling import keep
from circuitbreaker_django.core.trial import Trial, rides_on_a_trial
from circuitbreaker_django.core.view import View

T = TypeVar("T")

#: Seconds that the first use in a process waits for the store, once.
FIRST_PATIENCE: Final = 0.1
#: Seconds that any answer of the store may take where no caller waits for it.
THREAD_PATIENCE: Final = 1.0
#: Seconds that the end of a process waits for what is pending.
CLOSE_PATIENCE: Final = 0.2
#: Seconds between two times that all rows are read again: clocks drift, and a store may have lost
#: changes without a sign.
RESYNC_EVERY: Final = 60.0
#: Seconds before a store that was lost is tried again, at least and at most: a fifth of the time
#: that it has been away.
RETRY_LEAST: Final = 0.1
RETRY_MOST: Final = 5.0
#: Seconds between two publications of a process, and of what its code declares.
PUBLISH_EVERY: Final = 5.0
DECLARE_EVERY: Final = 3600.0
#: Seconds between two looks of a process for what may go.
CLEAN_EVERY: Final = 60.0


#: A time of the store that does not come.
_NEVER: Final = 2**62
#: The bell of a process without threads: nobody passes by it, for nobody would ring it.
_ASK: Final = Bell(seen=None)


class RemoteBackend(Backend):
    """Circuits that processes of many hosts share.

    Args:
        node: what counts as one where a quorum is asked for; by default the host (rule 8).
        threads: whether this process may have threads.
        observer: look and steer only: make no store, and do not count as a process.
        clock: microseconds of a monotonic clock; tests inject one.
    """

    shared = True
    separates = True
    queues = False
    #: A round of the feed, and one delivery.
    gathering = micros(TICK + FLUSH_EVERY)
    #: Circuits that one delivery is of, at most.
    batch: ClassVar[int | None] = 50
    #: Seconds between two times that a caller does the work of threads, and that any answer of the
    #: store may then take.
    turn_every = FLUSH_EVERY
    turn_patience = PERMIT_PATIENCE

    def __init__(
        self,
        *,
        node: str | None = None,
        threads: bool = True,
        observer: bool = False,
        clock: Clock = monotonic,
    ) -> None:
        self.node = node or f"{host.host_name()} {host.boot_identity()}"
        self.threads = threads and not observer
        self.observer = observer
        self._declared: dict[str, Declaration] = {}
        super().__init__(clock=clock)
        self.bell = _ASK
        lifetime.watch(self)

    # -- what a breaker calls ---------------------------------------------------------------

    def sync(self) -> None:
        """Begin to use the store at the first use; do the work of threads that do not run."""
        process = self._here()
        if not process.used:
            self._use(process)
            self.announce()
        elif not process.alive.is_set():
            self._take_turn(process)
            self.announce()

    def count(self, view: View, epoch: int, policy: Policy, **call: Any) -> None:
        """A call that was admitted under ``epoch`` has ended, and is to be counted."""
        super().count(view, epoch, policy, **call)
        if view.is_open_alone:
            self._here().call_writer(urgent=True)  # the others are to know at once

    async def ask_ahead(self, view: View, policy: Policy) -> None:
        """Ask for a permit, if one may be had, and let the event loop go on meanwhile."""
        self.sync()
        process = self._here()
        if not process.alive.is_set() or not self._wants_permit(view, policy):
            return
        asked = self._ask_for_permit(process, view, policy)
        if asked is not None:
            await asyncio.wait({asyncio.wrap_future(asked.answer)}, timeout=PERMIT_PATIENCE)

    def _wants_permit(self, view: View, policy: Policy) -> bool:
        """Whether a call would have to ask the store for a permit."""
        with self._here().lock:
            now = self.clock()
            view.settle(policy, now)
            circuit = view.circuit
            return (
                self.available
                and not view.local
                and core.counts(circuit, policy)
                and core.automatic(circuit, policy, now).state is CircuitState.HALF_OPEN
                and now >= view.pause_until
                and not rides_on_a_trial(view, now)
            )

    @operation
    def touch(self) -> None:
        """Notice a fork that nobody was told of, and do the work of threads that do not run."""
        process = self._here()
        if process.used and not process.alive.is_set():
            self._take_turn(process)

    def declare(self, declaration: Declaration) -> None:
        """Let operators know of a breaker; told to the store at the first use of any."""
        process = self._here()
        with process.lock:
            self._declared[declaration.name] = process.undeclared[declaration.name] = declaration
            process.publish_at = 0.0

    @operation
    def publish(self) -> None:
        """Tell operators of this process and of what it has counted, now. Never raises."""
        self.sync()
        process = self._here()
        process.stats_at = 0.0
        try:
            self._do(process, lambda store: self._publish(process, store), COMMAND_PATIENCE)
        except (StoreBusy, StoreLost):
            pass  # it is told later

    def order(self, orders: Mapping[str, Order]) -> Mapping[str, Circuit]:
        """Apply an operator's commands, by name of circuit: all of them or none.

        Raises:
            CircuitConflictError: a circuit is not at the epoch that its command expects.
            CircuitBackendError: the store could not confirm them.
        """
        process = self._here()
        if process.used and not process.attached:
            self._ask(self._attach_if_lost, COMMAND_PATIENCE / 2)
        return super().order(orders)

    @operation
    def close(self) -> None:
        """Let go of the store; the next use takes it up again."""
        process = self._here()
        if process.used:
            try:
                self._do(process, self._leave, CLOSE_PATIENCE)
            except (StoreBusy, StoreLost):
                pass  # it will be forgotten
        with process.lock:
            process.stopped.set()
        with process.mail:
            process.mail.notify()
        if process.store is not None and not process.alive.is_set():
            process.store.close()
        with process.lock:
            self._process = self._new_process()
            self._incarnation = 0  # holds that are known of now may be over when it comes back
        self._change_bell(_ASK)

    # -- what operators ask ------------------------------------------------------------------

    @property
    def problem(self) -> str | None:
        """Why the store cannot be used, if it cannot."""
        return self._here().problem

    @operation
    def open(self, *, create: bool) -> None:
        """Open the store for an operator, or say why that cannot be.

        Raises:
            NoStore: there is none, and ``create`` is false.
            CircuitBackendError: it cannot be used.
        """
        process = self._here()
        process.used = True
        try:
            self._do(process, lambda store: self._open(process, store, create), COMMAND_PATIENCE)
        except NoStore:
            raise
        except (StoreBusy, StoreLost) as error:
            raise CircuitBackendError(str(error)) from error

    @property
    def lost_at(self) -> float | None:
        """Since when the store cannot be used, by ``time.monotonic()``; ``None`` if it can."""
        process = self._here()
        return None if process.problem is None else process.lost_at

    @property
    def heard_at(self) -> float | None:
        """When the store was last heard of, by ``time.monotonic()``; at most a second ago, or it
        is away.
        """
        return self._here().heard_at

    def advice(self) -> list[str]:
        """What only the store can tell, and operators should know of."""
        return self._ask(lambda store: store.advice(), COMMAND_PATIENCE)

    def overview(self) -> Overview:
        """Everything, for operators; raises ``CircuitBackendError`` without a store."""
        found = self._ask(lambda store: store.overview(), COMMAND_PATIENCE)
        now = self.clock()
        by = now - found.now
        circuits = {name: moved(circuit, by) for name, circuit in sorted(found.circuits.items())}
        return Overview(now, circuits, found.declarations, found.processes, found.floor)

    def stats(
        self, names: Collection[str] | None = None, *, day: bool = False
    ) -> Mapping[str, Stats]:
        """The calls of breakers over time; raises ``CircuitBackendError`` without a store."""
        return self._ask(lambda store: store.stats(names, day=day), COMMAND_PATIENCE)

    def events(self, limit: int = 100) -> list[tuple[str, Event]]:
        """The newest events, newest first; raises ``CircuitBackendError`` without a store."""
        then, found = self._ask(lambda store: store.events(max(0, limit)), COMMAND_PATIENCE)
        by = self.clock() - then
        return [(name, _moved(event, by)) for name, event in found]

    @operation
    def _ask(self, ask: Callable[[RemoteStore], T], patience: float) -> T:
        self.sync()
        try:
            return self._do(self._here(), ask, patience)
        except (StoreBusy, StoreLost) as error:
            raise CircuitBackendError(str(error)) from error

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
            self._change_bell(_ASK)
        return process

    def _change_bell(self, bell: Bell) -> None:
        """Whoever has passed by the old bell looks again at his next call."""
        self.bell = bell
        self._shut_gates()

    def _may_write(self, process: Process) -> bool:
        assert isinstance(process, RemoteProcess)
        return process.attached and time.monotonic() >= process.ask_at

    def _patience(self) -> float:
        return PERMIT_PATIENCE

    def _use(self, process: RemoteProcess) -> None:
        """The first use in this process: start, and wait a moment for what the store says."""
        with process.lock:
            if process.first_until is None:
                process.first_until = time.monotonic() + FIRST_PATIENCE
            until = process.first_until
        if self.threads and not start_threads(self, process, THREAD_PATIENCE):
            self.threads = False
            self._process = process = self._new_process()
        if not self.threads:
            process.used = True
            self._take_turn(process)
            return
        if not on_event_loop():
            process.first.wait(max(0.0, until - time.monotonic()))
        process.used = True

    def _take_turn(self, process: RemoteProcess) -> None:
        """Do the work of both threads, if it is this caller's turn."""
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
    def feed_round(self, process: RemoteProcess, store: RemoteStore) -> None:
        """Hear of what has changed, and keep house."""
        with process.lock:
            if self.bell is _ASK and not process.stopped.is_set():
                self._change_bell(Bell())
        if not process.attached:
            process.stopped.wait(min(TICK, max(0.0, process.retry_at - time.monotonic())))
            if time.monotonic() < process.retry_at or process.stopped.is_set():
                return
        try:
            if process.attached:
                self._try_to(process, store, lambda store: store.wait(process.revision, TICK))
            self._try_to(process, store, lambda store: self._keep_up(process, store))
        except (StoreBusy, StoreLost):
            return
        finally:
            process.first.set()
        self._give_back_permits(process)
        self._keep_contributions()
        if self._evidence:
            process.call_writer(urgent=False)

    @operation
    def write_round(
        self, process: RemoteProcess, store: RemoteStore, question: Question | None
    ) -> None:
        """Do what is asked, or deliver what is due."""
        process.store = store
        with process.visiting.taken(inf):
            if question is not None and question.answer.set_running_or_notify_cancel():
                try:
                    answer(question, self._try_to(process, store, question.ask))
                except BaseException as error:
                    answer(question, error)
            if process.attached and process.take_flush():
                self._flush_all(process)

    def _keep_up(self, process: RemoteProcess, store: RemoteStore) -> None:
        """Know what the store knows, and let it know of this process."""
        whole = process.resync or time.monotonic() >= process.resync_at
        if not process.attached or not self._look(process, store, whole=whole):
            self._open(process, store, create=not self.observer)  # it is new, or has lost all
        if self._is_publishing_due(process):
            self._publish(process, store)
        if not self.observer and time.monotonic() >= process.clean_at:
            process.clean_at = time.monotonic() + CLEAN_EVERY * random.uniform(0.8, 1.2)
            store.clean()

    def _attach(self, process: RemoteProcess, store: RemoteStore) -> None:
        """Take up a store that is new, or was away; it is back when it takes what it is given."""
        self._publish(process, store)
        self._look(process, store, whole=True)
        with process.lock:
            process.attached, process.ask_at = True, 0.0
            told, process.problem = process.problem, None
        if told is not None:
            keep(BackendRecovered(self.registry, self.describe()))
        process.call_writer(urgent=True)

    def _attach_if_lost(self, store: RemoteStore) -> None:
        process = self._here()
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
        known_here = fence == (self._incarnation, self._floor)
        # A circuit without a row is at the floor (rule 2).
        epochs = {name: rows[name].epoch if name in rows else fence[1] for name in before}
        if whole and known_here and any(epochs[name] < epoch for name, epoch in before.items()):
            # As after the promotion of a replica: nobody would believe it any more (rule 1).
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
            is_first, process.revision = not process.revision, since
            if whole:
                process.resync = False
                process.resync_at = time.monotonic() + RESYNC_EVERY * random.uniform(0.8, 1.2)
            self._take(fence, {**rows, **changes.circuits})
            self._adopt(process, changes)
            if is_first:
                self._believe_quietly()
        return True

    def _take(self, fence: Fence, rows: Mapping[str, Circuit]) -> None:
        """Believe what the store says; all of it, when it is another store than before (rule 1)."""
        incarnation, floor = fence
        if fence != (self._incarnation, self._floor):
            self._incarnation, self._floor, self._rows = incarnation, floor, dict(rows)
            changed = list(self._views)
        else:
            for name, circuit in rows.items():
                self._keep_row(name, circuit)
            changed = [name for name in rows if name in self._views]
        for name in changed:
            self._believe(name, self._row(name), incarnation)

    def _lost(self, process: RemoteProcess, error: StoreLost) -> None:
        """Go on alone until the store is back."""
        with process.lock:
            now = time.monotonic()
            if process.problem is None:
                process.lost_at = now
            away = now - process.lost_at
            wait = min(RETRY_MOST, max(RETRY_LEAST, away / 5))
            process.retry_at = now + wait * random.uniform(0.5, 1)
            process.turn_at = max(process.turn_at, process.retry_at)
            process.attached = False
            told, process.problem = process.problem, str(error)
        if told is None:
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

    def _publish(self, process: RemoteProcess, store: RemoteStore) -> None:
        """Tell operators of this process, its code and its calls (rule 23)."""
        now = time.monotonic()
        again = now >= process.declare_at
        tell = self.stats_interval > 0 and now >= process.stats_at
        with process.lock:  # what is declared from here on is for the next time
            process.publish_at = now + PUBLISH_EVERY
            news, process.undeclared = process.undeclared, {}
            declared = list((self._declared if again else news).values())
        if again:
            process.declare_at = now + DECLARE_EVERY
        if tell:
            process.stats_at = now + self.stats_interval
        info = ProcessInfo(
            host.host_name(),
            process.pid,
            host.process_kind(),
            process.started,
            self.digest,
            host.pid_space(),
            self._open_alone(),
        )
        try:
            with self._telling(tell) as counted:
                seen = store.publish(process.id, info, declared, counted)
        except (StoreBusy, StoreLost):
            with process.lock:
                process.publish_at = process.stats_at = 0.0
                process.undeclared = {**news, **process.undeclared}
            if again:
                process.declare_at = 0.0
            raise
        self._hear(process, seen.now)
        process.alone = info.alone

    def _is_publishing_due(self, process: RemoteProcess) -> bool:
        now = time.monotonic()
        if self.observer:
            return False
        stats = self.stats_interval > 0 and now >= process.stats_at
        return now >= process.publish_at or stats or process.alone != self._open_alone()

    def _leave(self, store: RemoteStore) -> None:
        """Deliver what is pending, and tell operators that this process is gone."""
        process = self._here()
        if process.attached:
            self._flush_all(process)
            if not self.observer:
                process.stats_at = 0.0
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
        events = [(name, _moved(event, by)) for name, event in snapshot.events]
        return Changes(snapshot.incarnation, circuits, events)

    def _deadline(self, process: RemoteProcess) -> int:
        """The store's time after which this process does not wait for it any more."""
        if process.heard_at is None:
            return _NEVER
        return self.clock() + process.ahead + micros(THREAD_PATIENCE)

    def _flush(self, process: Process, patience: float, *, insist: bool = False) -> None:
        assert isinstance(process, RemoteProcess)
        if process.alive.is_set():
            process.call_writer(urgent=bool(self._reports))
        elif insist or time.monotonic() >= process.flushed_at + self.turn_every:
            process.flushed_at = time.monotonic()
            super()._flush(process, patience, insist=insist)

    def _flush_all(self, process: RemoteProcess) -> None:
        """Bring to the store what is pending; by the one thread that does so."""
        while self._evidence or self._reports:
            changes = self._flush_once(process, THREAD_PATIENCE)
            if changes is None:
                return
            self._adopt(process, changes)

    def _deliver(
        self, evidence: Mapping[str, Evidence], reports: list[Report], patience: float
    ) -> Changes:
        process = self._here()
        teller = Teller(self.clock(), self.node, self.gathering, self._deadline(process))
        return self._do(
            process,
            lambda store: self._learn(process, store.deliver(evidence, reports, teller)),
            patience,
        )

    def _acquire(
        self, name: str, fence: Fence, token: str, policy: Policy, patience: float
    ) -> tuple[Grant, Changes]:
        process = self._here()
        before = self._deadline(process)

        def ask(store: RemoteStore) -> tuple[Grant, Changes]:
            grant, snapshot = store.acquire(name, fence, token, policy, before)
            return grant, self._learn(process, snapshot)

        try:
            return self._do(process, ask, patience)
        except StoreBusy:
            process.ask_at = time.monotonic() + PAUSE  # the next callers are spared the wait
            raise
        except StoreUnsure as error:
            self._release(process, Report(name, fence, token, policy, Outcome.IGNORED, ""))
            raise StoreBusy(str(error)) from error

    def _try(self, process: Process, view: View, policy: Policy) -> Trial | None:
        assert isinstance(process, RemoteProcess)
        if not (on_event_loop() and process.alive.is_set() and self.available) or view.local:
            return super()._try(process, view, policy)
        asked = self._ask_for_permit(process, view, policy)
        if asked is None or not asked.answer.done():
            return None
        with process.lock:
            if process.asked.pop(view, None) is not asked:
                return None  # another thread has taken it
        return self._take_permit(process, view, policy, asked)

    def _ask_for_permit(self, process: RemoteProcess, view: View, policy: Policy) -> Asked | None:
        """The permit that is on its way, or that has come and nobody has taken."""
        with process.lock:
            asked = process.asked.get(view)
            fence = (view.incarnation, view.shared_epoch)
            if asked is not None and asked.report.fence == fence:
                return asked
            if not self._may_write(process):
                return None
            report = Report(view.name, fence, secrets.token_hex(8), policy, Outcome.IGNORED, "")

            def ask(store: RemoteStore) -> Grant:
                try:
                    grant, changes = self._acquire(view.name, fence, report.token, policy, 0)
                except (StoreBusy, StoreLost):
                    return Grant(False)
                self._adopt(process, changes)
                return grant

            try:
                coming = process.submit(ask)
            except StoreBusy:
                return None
            asked = Asked(report, coming, time.monotonic() + PAUSE)
            process.asked[view] = asked
        return asked

    def _take_permit(
        self, process: RemoteProcess, view: View, policy: Policy, asked: Asked
    ) -> Trial | None:
        grant, now = asked.answer.result(), self.clock()
        if grant.granted:
            report = asked.report
            expires = now + micros(policy.trial_timeout)
            return Trial(view, report.fence, report.token, expires, local=False)
        if grant.wait is not None:
            view.pause_until = now + min(grant.wait, micros(PAUSE))
        return None

    def _give_back_permits(self, process: RemoteProcess) -> None:
        """Those that nobody has taken: whoever asked for them was cancelled, or comes no more."""
        now = time.monotonic()
        with process.lock:
            for view, asked in list(process.asked.items()):
                if now >= asked.good_until and asked.answer.done():
                    del process.asked[view]
                    self._reports.append(asked.report)
        if self._reports:
            process.call_writer(urgent=True)

    def _release(self, process: RemoteProcess, report: Report) -> None:
        """Give back a permit that may have been granted, and spare the next callers the wait."""
        with process.lock:
            process.ask_at = time.monotonic() + PAUSE
            if len(self._reports) < MAX_REPORTS:
                self._reports.append(report)
        process.call_writer(urgent=True)

    def _command(self, orders: Mapping[str, Order], patience: float) -> Changes:
        process = self._here()
        before = self._deadline(process)
        return self._do(
            process, lambda store: self._learn(process, store.command(orders, before)), patience
        )

    # -- forks -------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Nothing: connections and threads are the parent's, and stay so."""

    def after_fork_in_parent(self) -> None:
        """Nothing was let go of."""

    def after_fork_in_child(self) -> None:
        """Begin anew at the next call, with threads and connections of its own."""
        self._here()


def _moved(event: Event, by: int) -> Event:
    return replace(event, at=event.at + by)
