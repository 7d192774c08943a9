"""Backends whose store is changed in transactions: the transition functions run inside of them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager

from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.process import Process
from circuitbreaker_django.backends.store import Changes, Evidence, Fence, Order, Report
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import Circuit, Event, Grant
from circuitbreaker_django.core.errors import CircuitConflictError
from circuitbreaker_django.core.policy import Policy


class Transaction:
    """One atomic step: what is read in it stays true until it is over.

    Attributes:
        now: microseconds of the store's clock.
        find: the stored circuit of a name, if it has a row.
        changes: the circuits as they are now, and the events.
        written: the names of the circuits that are to be kept.
        silent: whether nobody but the writer needs to hear of it.
    """

    def __init__(
        self, find: Callable[[str], Circuit | None], incarnation: int, floor: int, now: int
    ) -> None:
        self.now = now
        self.changes = Changes(incarnation)
        self.written: set[str] = set()
        self.silent = True
        self.find = find
        self._floor = floor

    def read(self, name: str) -> Circuit:
        """The circuit; one that has no row is closed, at the floor of all dropped rows (rule 2)."""
        circuits = self.changes.circuits
        if name not in circuits:
            circuits[name] = self.find(name) or Circuit(epoch=self._floor)
        return circuits[name]

    def write(self, name: str, circuit: Circuit, events: tuple[Event, ...] = ()) -> None:
        """Keep the circuit; events are for everybody to hear."""
        if circuit != self.read(name):
            self.changes.circuits[name] = circuit
            self.written.add(name)
        self.changes.events += [(name, event) for event in events]
        self.silent = self.silent and not events


class TransactionalBackend(Backend):
    """The operations of a backend, for a store that has transactions."""

    @abc.abstractmethod
    def _transaction(
        self, process: Process, patience: float
    ) -> AbstractContextManager[Transaction]:
        """A transaction; committed at the end of the block, undone by an exception.

        Raises:
            StoreBusy: somebody else kept writing for ``patience`` seconds.
            StoreLost: the store cannot be used.
        """

    def _deliver(
        self,
        process: Process,
        evidence: Mapping[str, Evidence],
        reports: list[Report],
        patience: float,
    ) -> Changes:
        with self._transaction(process, patience) as step:
            deliver(step, evidence, reports, self.clock(), process.id, self.gathering)
            return step.changes

    def _acquire(
        self,
        process: Process,
        name: str,
        fence: Fence,
        token: str,
        policy: Policy,
        patience: float,
    ) -> tuple[Grant, Changes]:
        with self._transaction(process, patience) as step:
            return acquire(step, name, fence, token, policy), step.changes

    def _command(self, process: Process, orders: Mapping[str, Order], patience: float) -> Changes:
        with self._transaction(process, patience) as step:
            command(step, orders)
            return step.changes


def deliver(
    step: Transaction,
    evidence: Mapping[str, Evidence],
    reports: Iterable[Report],
    now: int,
    origin: str,
    gathering: int,
) -> None:
    """Count calls and take reports; what is of another incarnation is void (rule 1).

    Args:
        step: in which it is done.
        evidence: by name of circuit.
        reports: of trials that have ended.
        now: by the clock of the process that tells it.
        origin: what counts as one where a quorum is asked for (rule 8).
        gathering: for how long a rate waits for what others have to tell (rule 7).
    """
    for name, kept in evidence.items():
        incarnation, _ = kept.fence
        if incarnation != step.changes.incarnation:
            continue
        circuit, policy = step.read(name), kept.policy
        batch = kept.as_batch(now, step.now, origin, gathering)
        after, events = core.record(circuit, batch, policy, step.now)
        step.write(name, after, events)
        was_suspect = core.is_suspect(circuit, policy, step.now)
        if core.is_suspect(after, policy, step.now) and not was_suspect:
            step.silent = False  # the others have to tell of their calls (rule 7)
    for report in reports:
        incarnation, epoch = report.fence
        if incarnation != step.changes.incarnation:
            continue
        circuit = step.read(report.name)
        after, events = core.report(
            circuit,
            epoch,
            report.token,
            report.outcome,
            report.policy,
            step.now,
            report.last_error,
            max(0, report.retry_at - now),
            report.last_message,
        )
        step.write(report.name, after, events)
        if len(after.permits) < len(circuit.permits):
            step.silent = False  # a permit has come back: others may ask for it


def acquire(step: Transaction, name: str, fence: Fence, token: str, policy: Policy) -> Grant:
    """Ask for a trial permit."""
    incarnation, epoch = fence
    circuit = step.read(name)
    if incarnation != step.changes.incarnation:
        return Grant(False)
    circuit, grant, events = core.acquire(circuit, epoch, token, policy, step.now)
    step.write(name, circuit, events)
    return grant


def command(step: Transaction, orders: Mapping[str, Order], *, if_lost: bool = False) -> None:
    """Apply commands.

    Args:
        step: in which it is done.
        orders: by name of circuit.
        if_lost: only to circuits that have no row.

    Raises:
        CircuitConflictError: a circuit is not at the epoch that its command expects.
    """
    for name, (order, policy) in orders.items():
        if if_lost and step.find(name) is not None:
            continue
        result = core.command(step.read(name), order, policy, step.now)
        if result is None:
            raise CircuitConflictError(
                f"nothing was applied: circuit {name!r} has changed meanwhile"
            )
        step.write(name, *result)
