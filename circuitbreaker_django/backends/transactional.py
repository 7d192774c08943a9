"""Backends whose store is changed in transactions: the transition functions run inside of them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.store import Changes, Failures, Fence, Order, Report
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import Batch, Circuit, Event, Grant
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
        self, failures: Mapping[str, Failures], reports: list[Report], patience: float
    ) -> Changes:
        with self._transaction(patience) as step:
            incarnation = step.changes.incarnation
            local_now = self.clock()
            for name, kept in failures.items():
                known_incarnation, epoch = kept.fence
                if known_incarnation == incarnation:
                    ages = tuple(local_now - time for time in kept.times)
                    batch = Batch(epoch, ages, kept.last_error)
                    step.write(name, *core.record(step.read(name), batch, kept.policy, step.now))
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
