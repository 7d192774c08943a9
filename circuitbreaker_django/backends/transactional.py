"""Backends whose store is changed in transactions: the transition functions run inside of them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from circuitbreaker_django.backends.base import Backend
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
    def _transaction(self, patience: float) -> AbstractContextManager[Transaction]:
        """A transaction; committed at the end of the block, undone by an exception.

        Raises:
            StoreBusy: somebody else kept writing for ``patience`` seconds.
            StoreLost: the store cannot be used.
        """

    def _deliver(
        self, evidence: Mapping[str, Evidence], reports: list[Report], patience: float
    ) -> Changes:
        origin = self._here().id
        with self._transaction(patience) as step:
            incarnation = step.changes.incarnation
            local_now = self.clock()
            for name, kept in evidence.items():
                known_incarnation, _ = kept.fence
                if known_incarnation != incarnation:
                    continue
                circuit, policy = step.read(name), kept.policy
                batch = kept.as_batch(local_now, step.now, origin, self.gathering)
                after, events = core.record(circuit, batch, policy, step.now)
                step.write(name, after, events)
                was_suspect = core.is_suspect(circuit, policy, step.now)
                if core.is_suspect(after, policy, step.now) and not was_suspect:
                    step.silent = False  # the others have to tell of their calls (rule 7)
            for report in reports:
                known_incarnation, epoch = report.fence
                if known_incarnation != incarnation:
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
                    max(0, report.retry_at - local_now),
                    report.last_message,
                )
                step.write(report.name, after, events)
                if len(after.permits) < len(circuit.permits):
                    step.silent = False  # a permit has come back: others may ask for it
            return step.changes

    def _acquire(
        self, name: str, fence: Fence, token: str, policy: Policy, patience: float
    ) -> tuple[Grant, Changes]:
        incarnation, epoch = fence
        with self._transaction(patience) as step:
            circuit = step.read(name)
            if incarnation != step.changes.incarnation:
                return Grant(False), step.changes
            circuit, grant, events = core.acquire(circuit, epoch, token, policy, step.now)
            step.write(name, circuit, events)
            return grant, step.changes

    def _command(self, orders: Mapping[str, Order], patience: float) -> Changes:
        with self._transaction(patience) as step:
            for name, (command, policy) in orders.items():
                result = core.command(step.read(name), command, policy, step.now)
                if result is None:
                    raise CircuitConflictError(
                        f"nothing was applied: circuit {name!r} has changed meanwhile"
                    )
                step.write(name, *result)
            return step.changes
