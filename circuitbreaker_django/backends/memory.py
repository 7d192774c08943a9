"""The backend of one process: for tests, and for breakers that are made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from circuitbreaker_django.backends.base import Clock, monotonic
from circuitbreaker_django.backends.store import Overview
from circuitbreaker_django.backends.transactional import Transaction, TransactionalBackend
from circuitbreaker_django.core.circuit import Circuit, Event

#: Events kept.
HISTORY = 200


class MemoryBackend(TransactionalBackend):
    """Circuits in a dictionary; no other process sees them.

    Args:
        clock: microseconds of a monotonic clock; tests inject one.
    """

    def __init__(self, *, clock: Clock = monotonic) -> None:
        super().__init__(clock=clock)
        self._history: list[tuple[str, Event]] = []

    def _keep_row(self, name: str, circuit: Circuit) -> None:
        """The rows are the store itself: what another thread has written since is newer."""

    @contextmanager
    def _transaction(self, patience: float) -> Iterator[Transaction]:
        step = Transaction(self._rows.get, self._incarnation, self._floor, self.clock())
        yield step
        self._rows.update((name, step.changes.circuits[name]) for name in step.written)
        self._history = [*self._history, *step.changes.events][-HISTORY:]

    def overview(self) -> Overview:
        """Every circuit; what is declared is known to whoever is in this process."""
        return Overview(self.clock(), dict(self._rows), {}, ())

    def events(self, limit: int = 100) -> list[tuple[str, Event]]:
        """The newest events, newest first."""
        return self._history[: -limit - 1 : -1]
