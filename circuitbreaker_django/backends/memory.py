"""The backend of one process: for tests, and for breakers that are made by hand."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from circuitbreaker_django.backends.base import Clock, monotonic
from circuitbreaker_django.backends.process import Process
from circuitbreaker_django.backends.store import Overview, Stats
from circuitbreaker_django.backends.transactional import Transaction, TransactionalBackend
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core import traffic
from circuitbreaker_django.core.circuit import Circuit, Event
from circuitbreaker_django.core.policy import micros
from circuitbreaker_django.core.traffic import KEPT, MINUTE, QUARTER, Buckets
from circuitbreaker_django.core.view import View

if TYPE_CHECKING:
    from circuitbreaker_django.core.breaker import CircuitBreaker

#: Events kept.
HISTORY = 200
#: The epoch of circuits without a row, before any was dropped.
_FLOOR = 1


class MemoryBackend(TransactionalBackend):
    """Circuits in a dictionary; no other process sees them.

    Args:
        clock: microseconds of a monotonic clock; tests inject one.
    """

    def __init__(self, *, clock: Clock = monotonic) -> None:
        super().__init__(clock=clock)
        self._history: list[tuple[str, Event]] = []
        #: By the width of the buckets and the circuit's name; none until somebody asks.
        self._buckets: dict[int, dict[str, Buckets]] = {}

    def new_view(self, breaker: CircuitBreaker, name: str) -> View:
        """A breaker's view of the circuit of that name."""
        with self._here().lock:
            if self._floor > _FLOOR:
                self._rows.setdefault(name, self._row(name))
            return super().new_view(breaker, name)

    def drop_view(self, view: View, heir: str) -> None:
        """Forget a breaker that nobody uses, with its row, if nothing counts in that (rule 2)."""
        with self._here().lock:
            super().drop_view(view, heir)
            if view.name in self._views:
                return
            for buckets in self._buckets.values():
                buckets.pop(view.name, None)
            row = self._rows.get(view.name)
            if row is not None and core.is_blank(row, view.policy, self.clock()):
                self._raise_floor(row.epoch)
                del self._rows[view.name]

    def _raise_floor(self, epoch: int) -> None:
        """From the first time on whoever has a view has a row: to him no floor means anything."""
        if self._floor == _FLOOR < epoch:
            for name in self._views:
                self._rows.setdefault(name, self._row(name))
        self._floor = max(self._floor, epoch)

    def _keep_row(self, name: str, circuit: Circuit) -> None:
        """The rows are the store itself: what another thread has written since is newer."""

    @contextmanager
    def _transaction(self, process: Process, patience: float) -> Iterator[Transaction]:
        step = Transaction(self._rows.get, self._incarnation, self._floor, self.clock())
        yield step
        self._rows.update((name, step.changes.circuits[name]) for name in step.written)
        self._history = [*self._history, *step.changes.events][-HISTORY:]

    def touch(self) -> None:
        """Put what was counted where it belongs, if it is time to."""
        if self.clock() >= self._uncounted.since + micros(self.stats_interval):
            self.publish()

    def publish(self) -> None:
        """Put what was counted into its buckets, and drop those of long ago."""
        if not self.stats_interval:
            return
        with self._here().lock:
            taken, age = self._take_traffic()
            now = self.clock()
            for width in KEPT:
                known = self._buckets.setdefault(width, {})
                for name, counts in taken.items():
                    more = traffic.shares(counts, age, width, now)
                    known[name] = traffic.add(known.get(name, {}), more, width, now)
                first = traffic.oldest(width, now)
                for name in [name for name, there in known.items() if max(there) < first]:
                    del known[name]

    def overview(self) -> Overview:
        """Every circuit; what is declared is known to whoever is in this process."""
        return Overview(self.clock(), dict(self._rows), {}, (), self._floor)

    def stats(
        self,
        names: Collection[str] | None = None,
        *,
        minutes: int = KEPT[MINUTE],
        day: bool = False,
    ) -> Mapping[str, Stats]:
        """The calls of breakers over time, in this process."""
        self.publish()
        now, wall = self.clock(), time.time()
        with self._here().lock:
            short, long = (
                {
                    name: traffic.newest(buckets, width, now, number)
                    for name, buckets in self._buckets.get(width, {}).items()
                    if names is None or name in names
                }
                for width, number in ((MINUTE, minutes), (QUARTER, KEPT[QUARTER]))
            )
        return {
            name: Stats(now, wall, short.get(name, ()), long[name] if day else ())
            for name in (long if day else short)
        }

    def events(
        self, limit: int = 100, names: Collection[str] | None = None
    ) -> list[tuple[str, Event]]:
        """The newest events, newest first."""
        found = [one for one in self._history if names is None or one[0] in names]
        return found[: -limit - 1 : -1]
