"""The store of the database backend: tables, changed in transactions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from circuitbreaker_django.backends import transactional
from circuitbreaker_django.backends.database import sql
from circuitbreaker_django.backends.database.connection import DatabaseConnection, DatabaseCursor
from circuitbreaker_django.backends.published import (
    FORGOTTEN_AFTER,
    GONE_AFTER,
    KEEP_DECLARED,
    dump_declaration,
    dump_process,
    is_keyed,
    load_declaration,
    patient_policy,
    roll_call,
)
from circuitbreaker_django.backends.remote_store import (
    Counted,
    RemoteStore,
    Snapshot,
    Teller,
)
from circuitbreaker_django.backends.store import (
    HISTORY,
    MAX_DECLARED,
    MAX_ROWS,
    MAX_TRAFFIC,
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
    warn_of_dropped,
)
from circuitbreaker_django.backends.transactional import Transaction
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core import traffic
from circuitbreaker_django.core.circuit import Circuit, Event, Grant
from circuitbreaker_django.core.policy import Policy, micros
from circuitbreaker_django.core.record import dump_circuit, dump_event, load_circuit, load_event
from circuitbreaker_django.core.traffic import KEPT, MINUTE, QUARTER, Bucket, Counts

T = TypeVar("T")

#: Seconds between two looks for news.
POLL_EVERY: Final = 0.5
#: Seconds before it is noted again that a declaration was seen.
NOTE_DECLARED: Final = 1800.0
#: Circuits that are read at once.
PAGE: Final = 1000
#: Figures that are dropped at once where there are too many: a statement has half a second.
DROP_AT_ONCE: Final = 10_000


class DatabaseStore(RemoteStore):
    """The tables, as far as they are of one namespace, over one connection.

    Args:
        connection: to the database.
        namespace: keeps projects and registries apart.
        clock: microseconds; takes the place of the server's in tests.
    """

    def __init__(
        self,
        connection: DatabaseConnection,
        namespace: str,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.connection = connection
        self.namespace = namespace
        self._clock = clock

    @property
    def _now(self) -> int | None:
        return None if self._clock is None else self._clock()

    # -- reading ----------------------------------------------------------------------------

    def look(self, since: int) -> Snapshot:
        """What has changed after a revision, in pages; all circuits after 0.

        It writes nothing, unless there are circuits that cannot be read: those it drops.
        """
        while True:
            with self._transaction() as cursor:
                rows = cursor.rows(sql.CHANGES, self._now, since, PAGE - 1, since, self.namespace)
            if not rows:
                return Snapshot(0, 0, 0, 0, {})
            incarnation, floor, revision, now, more = rows[0][:5]
            circuits, unreadable = _circuits(row[5:] for row in rows if row[5] is not None)
            if not unreadable:
                return Snapshot(now, incarnation, floor, revision, circuits, more=more)
            with self._transaction() as cursor:
                self._drop(cursor, unreadable)

    def wait(self, since: int, seconds: float) -> None:
        """Wait a while: what is polled is the revision, by :meth:`look`."""
        time.sleep(min(POLL_EVERY, seconds))

    def overview(self) -> Overview:
        """Everything, for operators. What another release has published unreadably is left out."""
        with self._transaction("REPEATABLE READ") as cursor:
            ((now,),) = cursor.rows(f"SELECT {sql.NOW}", self._now)
            store = cursor.rows(sql.STORE, self._now, self.namespace)
            records = cursor.rows(sql.CIRCUITS, self.namespace)
            declarations = cursor.rows(sql.DECLARATIONS, self.namespace)
            processes = cursor.rows(sql.PROCESSES, self.namespace, now - micros(FORGOTTEN_AFTER))
        if not store:
            raise NoStore(f"there is nothing of {self.namespace!r}")
        circuits, _ = _circuits(records)
        live, silent = roll_call(processes, now)
        return Overview(
            now,
            circuits,
            {
                name: declaration
                for name, text in declarations
                if (declaration := load_declaration(name, text))
            },
            live,
            store[0][1],
            silent,
        )

    def stats(
        self, names: Collection[str] | None, *, minutes: int = KEPT[MINUTE], day: bool
    ) -> Mapping[str, Stats]:
        """The calls of breakers over time, by the store's clock."""
        chosen = None if names is None else list(names)
        rows: dict[int, list[tuple[Any, ...]]] = {MINUTE: [], QUARTER: []}
        with self._transaction("REPEATABLE READ") as cursor:
            ((now,),) = cursor.rows(f"SELECT {sql.NOW}", self._now)
            wall = time.time()
            numbers = {MINUTE: minutes, **({QUARTER: KEPT[QUARTER]} if day else {})}
            for width, number in numbers.items():
                first = traffic.oldest(width, now, number)
                rows[width] = cursor.rows(
                    sql.TRAFFIC, self.namespace, width, first, now, chosen, chosen
                )
        short, long = _buckets(rows[MINUTE]), _buckets(rows[QUARTER])
        return {
            name: Stats(now, wall, tuple(short.get(name, ())), tuple(long.get(name, ())))
            for name in {**long, **short}
        }

    def events(
        self, limit: int, names: Collection[str] | None = None
    ) -> tuple[int, list[tuple[str, Event]]]:
        """The store's time, and the newest events of those breakers, or of any, newest first."""
        chosen = None if names is None else list(names)
        with self._transaction() as cursor:
            ((now,),) = cursor.rows(f"SELECT {sql.NOW}", self._now)
            number = max(0, min(limit, HISTORY))
            rows = cursor.rows(sql.EVENTS, self.namespace, chosen, chosen, number)
        events = []
        for name, record in rows:
            try:
                events.append((name, load_event(record)))
            except ValueError:  # of another release: it is history, and moves nothing
                continue
        return now, events

    # -- changing circuits --------------------------------------------------------------------

    def deliver(
        self, evidence: Mapping[str, Evidence], reports: Sequence[Report], teller: Teller
    ) -> Snapshot:
        """Count calls and take reports, all or nothing; of another incarnation none."""

        def act(step: Transaction) -> None:
            transactional.deliver(
                step, evidence, reports, teller.now, teller.origin, teller.patience
            )

        names = {*evidence, *(report.name for report in reports)}
        return self._step(names, teller.before, act)[1]

    def acquire(
        self, name: str, fence: Fence, token: str, policy: Policy, before: int
    ) -> tuple[Grant, Snapshot]:
        """Ask for a trial permit, not after ``before``."""
        return self._step(
            [name], before, lambda step: transactional.acquire(step, name, fence, token, policy)
        )

    def command(
        self, orders: Mapping[str, Order], before: int, *, if_lost: bool = False
    ) -> Snapshot:
        """Apply commands, all or none; raises ``CircuitConflictError`` too."""
        return self._step(
            orders, before, lambda step: transactional.command(step, orders, if_lost=if_lost)
        )[1]

    def renew(self, incarnation: int) -> None:
        """Take another identity, for a store of this one has lost changes; its rows stay."""
        with self._transaction() as cursor:
            cursor.run(sql.RENEW, _incarnation(), self._now, self.namespace, incarnation)

    # -- who is there -------------------------------------------------------------------------

    def publish(
        self,
        process: str,
        info: ProcessInfo | None = None,
        declared: Sequence[Declaration] = (),
        counted: Counted = ({}, 0),
    ) -> Snapshot:
        """Write down who is there, what his code declares, and what he has counted (rule 23).

        It makes the store if there is none, and forgets what is of long ago.
        """
        with self._transaction() as cursor:
            self._add_store(cursor)
            ((incarnation, floor, revision, now),) = cursor.rows(
                sql.STORE, self._now, self.namespace
            )
            if info is not None:
                told = dump_process(info)
                cursor.run(sql.SEE_PROCESS, self.namespace, process, self._now, told)
                cursor.run(sql.FORGET_PROCESSES, self.namespace, self._now, micros(GONE_AFTER))
            if declared:
                cursor.run(
                    sql.NOTE_DECLARATIONS,
                    self.namespace,
                    self._now,
                    [entry.name for entry in declared],
                    [dump_declaration(entry) for entry in declared],
                    micros(NOTE_DECLARED),
                )
                keep = micros(KEEP_DECLARED)
                cursor.run(sql.FORGET_DECLARATIONS, self.namespace, self._now, keep)
            self._keep_traffic(cursor, counted, now)
        return Snapshot(now, incarnation, floor, revision, {})

    def _keep_traffic(self, cursor: DatabaseCursor, counted: Counted, now: int) -> None:
        calls, age = counted
        shares = [
            (name, width, start, *share)
            for name, counts in calls.items()
            for width in KEPT
            for start, share in traffic.shares(counts, age, width, now)
        ]
        if shares:
            cursor.run(sql.ADD_TRAFFIC, self.namespace, *map(list, zip(*shares, strict=True)))
            for width in KEPT:
                first = traffic.oldest(width, now)
                cursor.run(sql.FORGET_TRAFFIC, self.namespace, width, first)

    def withdraw(self, process: str) -> None:
        """Forget a process that ends."""
        with self._transaction() as cursor:
            cursor.run(sql.WITHDRAW, self.namespace, process)

    def clean(self) -> None:
        """Drop what nobody will miss where there is too much of it."""
        with self._transaction() as cursor:
            ((rows, entries),) = cursor.rows(sql.SIZES, self.namespace, self.namespace)
            widths = dict(cursor.rows(sql.TRAFFIC_SIZES, self.namespace))
            surplus = {width: size - MAX_TRAFFIC for width, size in widths.items()}
            for width in [width for width, number in surplus.items() if number > 0]:
                number = min(surplus[width], DROP_AT_ONCE)
                cursor.run(sql.DROP_TRAFFIC, self.namespace, width, number)
            if rows <= MAX_ROWS and entries <= MAX_DECLARED:
                return
            ((now,),) = cursor.rows(f"SELECT {sql.NOW}", self._now)
            texts = cursor.rows(sql.DECLARATIONS_BY_AGE, self.namespace)
            records = dict(cursor.rows(sql.CIRCUITS, self.namespace)) if rows > MAX_ROWS else {}
        declared = [one for name, text in texts if (one := load_declaration(name, text))]
        keyed = [one.name for one in declared if is_keyed(one)]
        patient = patient_policy(one.policy for one in declared)
        circuits, _ = _circuits(records.items())
        blank = {
            name: circuit.epoch
            for name, circuit in circuits.items()
            if core.is_blank(circuit, patient, now)
        }
        with self._transaction() as cursor:
            cursor.run(
                sql.DROP_DECLARATIONS, self.namespace, keyed[: max(0, entries - MAX_DECLARED)]
            )
            cursor.run(sql.DROP_EMPTY_CIRCUITS, self.namespace)
            dropped = cursor.rows(
                sql.DROP_BLANK_CIRCUITS,
                list(blank),
                [records[name] for name in blank],
                self.namespace,
            )
            if dropped:
                newest = max(blank[name] for (name,) in dropped)
                cursor.run(sql.RAISE_FLOOR, newest, self._now, self.namespace)

    def close(self) -> None:
        """Let go of the connection; never raises. The next use opens it again."""
        self.connection.close()

    # -- parts --------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, isolation: str = "READ COMMITTED") -> Iterator[DatabaseCursor]:
        """What only a lock on a whole table can hinder: then the store cannot be used."""
        try:
            with self.connection.transaction(isolation) as cursor:
                yield cursor
        except StoreBusy as error:
            raise StoreLost(str(error)) from error

    def _step(
        self, names: Iterable[str], before: int, act: Callable[[Transaction], T]
    ) -> tuple[T, Snapshot]:
        """An atomic step on some circuits: nobody else changes them before its end."""
        wanted = sorted(set(names))
        for _ in range(3):  # rows that are not there cannot be locked
            with self.connection.transaction() as cursor:
                rows = cursor.rows(sql.LOCK, self.namespace, wanted, self._now, self.namespace)
                found, unreadable = _locked(rows)
                if found.keys() == set(wanted):
                    incarnation, floor, revision, now = rows[0][:4]
                    if now > before:
                        raise StoreBusy("the store came to it too late")
                    step = Transaction(found.get, incarnation, floor, now)
                    done = act(step)
                    revision = self._save(cursor, step) or revision
                    changes = step.changes
                    return done, Snapshot(
                        now, incarnation, floor, revision, changes.circuits, changes.events
                    )
                self._drop(cursor, unreadable)
            with self.connection.transaction() as cursor:
                self._add_store(cursor)
                cursor.run(sql.ADD_CIRCUITS, wanted, self.namespace)
        raise StoreBusy("somebody deletes the rows of circuits again and again")

    def _save(self, cursor: DatabaseCursor, step: Transaction) -> int | None:
        """Write what the step has brought about; the new revision, if there is one."""
        written = sorted(step.written)
        records = [dump_circuit(step.changes.circuits[name]) for name in written]
        if step.silent:
            if written:
                cursor.run(sql.SAVE_SILENTLY, written, records, self.namespace)
            return None
        newest_first = step.changes.events[::-1]
        saved = cursor.rows(
            sql.SAVE,
            len(newest_first),
            self.namespace,
            step.changes.incarnation,
            written,
            records,
            [name for name, _ in newest_first],
            [dump_event(event) for _, event in newest_first],
            HISTORY,
        )
        if not saved:
            raise StoreBusy("the store has begun anew meanwhile")
        return int(saved[0][0])

    def _add_store(self, cursor: DatabaseCursor) -> None:
        cursor.run(sql.ADD_STORE, self.namespace, _incarnation(), self._now)

    def _drop(self, cursor: DatabaseCursor, spoilt: Mapping[str, str]) -> None:
        """Drop what is no circuit, by name; the floor is raised, so that the next is newer."""
        if not spoilt:
            return
        dropped = cursor.rows(
            sql.DROP_CIRCUITS, list(spoilt), list(spoilt.values()), self.namespace
        )
        if dropped:
            warn_of_dropped(name for (name,) in dropped)
            cursor.run(sql.RAISE_FLOOR, 0, self._now, self.namespace)


def _incarnation() -> int:
    return secrets.randbits(63) | 1


def _circuits(rows: Iterable[tuple[Any, ...]]) -> tuple[dict[str, Circuit], dict[str, str]]:
    """Circuits by name, and what is none."""
    circuits, unreadable = {}, {}
    for name, record in rows:
        try:
            circuits[name] = load_circuit(record)
        except ValueError:
            unreadable[name] = record
    return circuits, unreadable


def _buckets(rows: Iterable[tuple[Any, ...]]) -> dict[str, list[Bucket]]:
    """Buckets by name of breaker."""
    found: dict[str, list[Bucket]] = {}
    for name, start, *numbers in rows:
        found.setdefault(name, []).append(Bucket(start, Counts(*numbers)))
    return found


def _locked(
    rows: Sequence[tuple[Any, ...]],
) -> tuple[dict[str, Circuit | None], dict[str, str]]:
    """The circuits whose rows are locked, and what is none."""
    names, records = rows[0][4:] if rows else (None, None)
    found = dict(zip(names or (), records or (), strict=True))
    circuits, unreadable = _circuits(
        (name, record) for name, record in found.items() if record is not None
    )
    return {name: circuits.get(name) for name in found if name not in unreadable}, unreadable
