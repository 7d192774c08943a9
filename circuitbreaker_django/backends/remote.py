"""A backend whose store is reached over a network: what all of these share.

Closed calls look at nothing but a gate that the feed thread shuts when circuits change. A caller
waits for the store only to get a trial permit, for 50 ms at most; operators wait for a second. A
store that is away, slow or full costs nobody anything: circuits are this process's own meanwhile.

Where threads cannot run, one caller at a time does their work, at most every quarter of a second
and for at most 50 ms for each answer of the store; all others go on with what is known.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Final, TypeVar

from circuitbreaker_django.backends import host, lifetime
from circuitbreaker_django.backends.base import (
    COMMAND_PATIENCE,
    PAUSE,
    Clock,
    monotonic,
    operation,
)
from circuitbreaker_django.backends.process import Process
from circuitbreaker_django.backends.remote_attached import ASK, moved_event
from circuitbreaker_django.backends.remote_permits import RemotePermits, given_back
from circuitbreaker_django.backends.remote_process import FLUSH_EVERY, TICK, RemoteProcess
from circuitbreaker_django.backends.remote_store import RemoteStore, Teller, moved
from circuitbreaker_django.backends.store import (
    Changes,
    Declaration,
    Evidence,
    Fence,
    NoStore,
    Order,
    Overview,
    Report,
    Stats,
    StoreBusy,
    StoreLost,
    StoreUnsure,
)
from circuitbreaker_django.core.circuit import Circuit, Event, Grant
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.policy import Policy, micros
from circuitbreaker_django.core.traffic import KEPT, MINUTE
from circuitbreaker_django.core.view import View

T = TypeVar("T")

#: Seconds that the end of a process waits for what is pending.
CLOSE_PATIENCE: Final = 0.2


class RemoteBackend(RemotePermits):
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

    def __init__(
        self,
        *,
        node: str | None = None,
        threads: bool = True,
        observer: bool = False,
        clock: Clock = monotonic,
    ) -> None:
        self.node = node or f"{host.host_name()} {host.boot_identity()}"
        super().__init__(threads=threads, observer=observer, clock=clock)
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
            self._declared[declaration.name] = declaration
            process.publishing.declare(declaration)

    @operation
    def publish(self) -> None:
        """Tell operators of this process and of what it has counted, now. Never raises."""
        self.sync()
        process = self._here()
        process.publishing.stats_at = 0.0
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
            self._ask(lambda store: self._attach_if_lost(process, store), COMMAND_PATIENCE / 2)
        return super().order(orders)

    @operation
    def close(self) -> None:
        """Let go of the store; the next use takes it up again."""
        process = self._here()
        if process.used:
            try:
                self._do(process, lambda store: self._leave(process, store), CLOSE_PATIENCE)
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
        self._change_bell(ASK)

    # -- what operators ask ------------------------------------------------------------------

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
        process = self._here()
        process.used = True
        try:
            if create or not self.observer:  # whoever only looks has no need of it
                self._do(
                    process, lambda store: self._open(process, store, create), COMMAND_PATIENCE
                )
            return self._as_here(
                self._do(process, lambda store: store.overview(), COMMAND_PATIENCE)
            )
        except NoStore:
            raise NoStore(f"there is nothing at {self.describe()}") from None
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
        return self._as_here(self._ask(lambda store: store.overview(), COMMAND_PATIENCE))

    def _as_here(self, found: Overview) -> Overview:
        """The same by this process's clock."""
        now = self.clock()
        by = now - found.now
        circuits = {name: moved(circuit, by) for name, circuit in sorted(found.circuits.items())}
        return Overview(
            now, circuits, found.declarations, found.processes, found.floor, found.silent
        )

    def stats(
        self,
        names: Collection[str] | None = None,
        *,
        minutes: int = KEPT[MINUTE],
        day: bool = False,
    ) -> Mapping[str, Stats]:
        """The calls of breakers over time; raises ``CircuitBackendError`` without a store."""
        return self._ask(
            lambda store: store.stats(names, minutes=minutes, day=day), COMMAND_PATIENCE
        )

    def events(
        self, limit: int = 100, names: Collection[str] | None = None
    ) -> list[tuple[str, Event]]:
        """The newest events, newest first; raises ``CircuitBackendError`` without a store."""
        then, found = self._ask(lambda store: store.events(max(0, limit), names), COMMAND_PATIENCE)
        by = self.clock() - then
        return [(name, moved_event(event, by)) for name, event in found]

    @operation
    def _ask(self, ask: Callable[[RemoteStore], T], patience: float) -> T:
        if not self.observer:
            self.sync()
        try:
            return self._do(self._here(), ask, patience)
        except (StoreBusy, StoreLost) as error:
            raise CircuitBackendError(str(error)) from error

    # -- what the store is told ---------------------------------------------------------------

    def _flush(self, process: Process, patience: float, *, insist: bool = False) -> None:
        assert isinstance(process, RemoteProcess)
        if process.alive.is_set():
            process.call_writer(urgent=process.attached and bool(self._pending.reports))
        elif insist or time.monotonic() >= process.flushed_at + self.turn_every:
            process.flushed_at = time.monotonic()
            super()._flush(process, patience, insist=insist)

    def _deliver(
        self,
        process: Process,
        evidence: Mapping[str, Evidence],
        reports: list[Report],
        patience: float,
    ) -> Changes:
        assert isinstance(process, RemoteProcess)
        teller = Teller(self.clock(), self.node, self.gathering, self._deadline(process))
        return self._do(
            process,
            lambda store: self._learn(process, store.deliver(evidence, reports, teller)),
            patience,
        )

    def _acquire(
        self,
        process: Process,
        name: str,
        fence: Fence,
        token: str,
        policy: Policy,
        patience: float,
    ) -> tuple[Grant, Changes]:
        assert isinstance(process, RemoteProcess)
        before = self._deadline(process)

        def ask(store: RemoteStore) -> tuple[Grant, Changes]:
            grant, snapshot = store.acquire(name, fence, token, policy, before)
            return grant, self._learn(process, snapshot)

        try:
            return self._do(process, ask, patience)
        except StoreBusy:  # the next callers are spared the wait, and do not come all at once
            return Grant(False, micros(PAUSE * random.uniform(0.5, 1))), Changes(0)
        except StoreUnsure:
            with process.lock:  # it may have been granted
                self._pending.add_report(given_back(name, fence, token, policy))
            raise

    def _command(self, process: Process, orders: Mapping[str, Order], patience: float) -> Changes:
        assert isinstance(process, RemoteProcess)
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
