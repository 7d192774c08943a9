"""The tables of the SQLite backend: what is written to them, and what is believed of them."""

from __future__ import annotations

import functools
import json
import secrets
import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from circuitbreaker_django.backends import sqlite_traffic
from circuitbreaker_django.backends.published import (
    GONE_AFTER,
    KEEP_DECLARED,
    dump_process,
    is_forgotten,
    load_process,
    patient_policy,
    roll_call,
)
from circuitbreaker_django.backends.store import (
    HISTORY,
    KEYED,
    MAX_DECLARED,
    MAX_ROWS,
    MAX_TRAFFIC,
    Declaration,
    Overview,
    ProcessInfo,
    StoreLost,
)
from circuitbreaker_django.backends.transactional import Transaction
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import Circuit, Event
from circuitbreaker_django.core.policy import micros, seconds
from circuitbreaker_django.core.record import dump_circuit, dump_event, load_circuit, load_event

_TABLES: Final = """
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    incarnation INTEGER NOT NULL, floor INTEGER NOT NULL, revision INTEGER NOT NULL,
    boot TEXT NOT NULL
);
CREATE TABLE circuits (
    name TEXT PRIMARY KEY, revision INTEGER NOT NULL, record TEXT NOT NULL, wall_until REAL
) WITHOUT ROWID;
CREATE INDEX circuits_revision ON circuits (revision);
CREATE TABLE events (id INTEGER PRIMARY KEY, name TEXT NOT NULL, record TEXT NOT NULL);
CREATE TABLE processes (
    id TEXT PRIMARY KEY, seen_at INTEGER NOT NULL, info TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE declarations (
    name TEXT PRIMARY KEY, seen_at INTEGER NOT NULL, policy TEXT NOT NULL, place TEXT NOT NULL
) WITHOUT ROWID;
"""


class Corrupt(StoreLost):
    """What lies in the file is not ours to understand: it is to be replaced."""

    def __init__(self, why: object) -> None:
        super().__init__(f"the store is corrupt: {why}")


@dataclass(frozen=True, slots=True)
class Meta:
    """What the store says of itself."""

    incarnation: int
    floor: int
    revision: int
    boot: str


def read_meta(connection: sqlite3.Connection) -> Meta:
    """What the store says of itself.

    Raises:
        Corrupt: nothing that we have written.
    """
    row = connection.execute("SELECT incarnation, floor, revision, boot FROM meta").fetchone()
    if row is None or not isinstance(row[3], str):
        raise Corrupt("it has no identity")
    if not all(isinstance(value, int) and value >= 0 for value in row[:3]) or row[2] >> 62:
        raise Corrupt("its identity is no number")
    return Meta(*row)


def find_circuit(connection: sqlite3.Connection, name: str) -> Circuit | None:
    """The circuit's row, if it has one."""
    row = connection.execute("SELECT record FROM circuits WHERE name = ?", (name,)).fetchone()
    return None if row is None else _circuit(row[0])


def read_circuits(connection: sqlite3.Connection, since: int) -> dict[str, Circuit]:
    """The circuits that were changed by a later revision than ``since``."""
    rows = connection.execute("SELECT name, record FROM circuits WHERE revision > ?", (since,))
    circuits = {name: _known_circuit(record) for name, record in rows}
    if not all(isinstance(name, str) for name in circuits):
        raise Corrupt("a name is no text")
    return circuits


def read_events(
    connection: sqlite3.Connection, limit: int, names: Collection[str] | None = None
) -> list[tuple[str, Event]]:
    """The newest events of those breakers, or of any, newest first."""
    wanted = None if names is None else json.dumps(list(names))
    rows = connection.execute(
        "SELECT name, record FROM events"
        " WHERE ?1 IS NULL OR name IN (SELECT value FROM json_each(?1)) ORDER BY id DESC LIMIT ?2",
        (wanted, limit),
    )
    try:
        return [(name, _known_event(record)) for name, record in rows]
    except ValueError as error:
        raise Corrupt(error) from error


def read_overview(connection: sqlite3.Connection, now: int) -> Overview:
    """Everything, for operators. What another release has published unreadably is left out."""
    declarations = {}
    for name, policy, where in connection.execute(
        "SELECT name, policy, place FROM declarations ORDER BY name"
    ):
        values = _known_object(policy)
        if values is not None and isinstance(name, str) and isinstance(where, str):
            declarations[name] = Declaration(name, values, where)
    processes, silent = roll_call(
        connection.execute(
            "SELECT info, seen_at FROM processes WHERE typeof(seen_at) = 'integer' ORDER BY id"
        ),
        now,
    )
    circuits = dict(sorted(read_circuits(connection, -1).items()))
    floor = read_meta(connection).floor
    return Overview(now, circuits, declarations, processes, floor, silent)


def make_tables(writer: sqlite3.Connection, boot: str, now: int) -> None:
    """Make the tables in a new file."""
    for statement in (_TABLES + sqlite_traffic.TABLE).split(";"):
        writer.execute(statement)
    writer.execute("INSERT INTO meta VALUES (1, ?, ?, 0, ?)", (_incarnation(), now, boot))


def carry_over(writer: sqlite3.Connection, boot: str, now: int) -> None:
    """After a new boot all times are void: holds stay, what is open may be tried (rule 4).

    Events go, for nobody could say when they were.
    """
    revision = read_meta(writer).revision + 1
    for name, record, wall_until in writer.execute(
        "SELECT name, record, wall_until FROM circuits"
    ).fetchall():
        circuit = _without_times(_circuit(record), now)
        hold = circuit.override
        if hold is not None:
            until = hold.until
            if until is not None:
                left = wall_until - time.time() if isinstance(wall_until, float) else 0.0
                until = now + micros(max(0.0, left))
            aside = None if hold.aside is None else _without_times(hold.aside, now)
            hold = replace(hold, since=now, until=until, aside=aside)
            circuit = replace(circuit, override=hold)
        writer.execute(
            "UPDATE circuits SET record = ?, revision = ? WHERE name = ?",
            (dump_circuit(circuit), revision, name),
        )
    writer.execute("DELETE FROM events")
    writer.execute("DELETE FROM processes")
    writer.execute("DELETE FROM traffic")
    writer.execute("UPDATE declarations SET seen_at = ?", (now,))
    writer.execute(
        "UPDATE meta SET boot = ?, incarnation = ?, revision = ?", (boot, _incarnation(), revision)
    )


def _without_times(circuit: Circuit, now: int) -> Circuit:
    return replace(
        circuit,
        since=now,
        retry_at=now,
        failures=(),
        slices=(),
        suspect_since=0,
        witnesses=(),
        permits=(),
        trials=0,
        trial_successes=0,
        last_error_at=0,
    )


def save(writer: sqlite3.Connection, meta: Meta, step: Transaction) -> None:
    """Write what a transaction has brought about; its revision is what others hear of."""
    revision = meta.revision
    if not step.silent:
        revision += 1
        writer.execute("UPDATE meta SET revision = ?", (revision,))
    for name in step.written:
        circuit = step.changes.circuits[name]
        until = None if circuit.override is None else circuit.override.until
        wall_until = None if until is None else time.time() + seconds(until - step.now)
        writer.execute(
            "INSERT INTO circuits VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
            " revision = excluded.revision, record = excluded.record,"
            " wall_until = excluded.wall_until",
            (name, revision, dump_circuit(circuit), wall_until),
        )
    for name, event in step.changes.events:
        writer.execute("INSERT INTO events (name, record) VALUES (?, ?)", (name, dump_event(event)))
        writer.execute("DELETE FROM events WHERE id <= last_insert_rowid() - ?", (HISTORY,))


def publish(
    writer: sqlite3.Connection,
    process: str,
    info: ProcessInfo,
    declared: Iterable[Declaration],
    now: int,
) -> None:
    """Write down who is there and what his code declares, and forget who is gone (rule 23)."""
    writer.execute("REPLACE INTO processes VALUES (?, ?, ?)", (process, now, dump_process(info)))
    gone = writer.execute(
        "SELECT id, info, seen_at FROM processes WHERE seen_at <= ?", (now - micros(GONE_AFTER),)
    ).fetchall()
    writer.executemany(
        "DELETE FROM processes WHERE id = ?",
        [
            (each,)
            for each, text, seen_at in gone
            if is_forgotten(load_process(text), seconds(now - seen_at))
        ],
    )
    writer.executemany(
        "REPLACE INTO declarations VALUES (?, ?, ?, ?)",
        [
            (entry.name, now, json.dumps(dict(entry.policy), default=str), _text(entry.where))
            for entry in declared
        ],
    )
    writer.execute("DELETE FROM declarations WHERE seen_at <= ?", (now - micros(KEEP_DECLARED),))


def _text(path: str) -> str:
    """A path as SQLite can keep it: Python has others, too."""
    return path.encode(errors="backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Waste:
    """What may go.

    Attributes:
        records: of circuits, by name, as they were read.
        floor: the newest of their epochs.
        declared: names of breakers by key.
        traffic: how many counts of breakers by key, by their width.
    """

    records: Mapping[str, str]
    floor: int
    declared: Sequence[str]
    traffic: Mapping[int, int]


def find_waste(reader: sqlite3.Connection, now: int) -> Waste | None:
    """What may go where there is too much, for keys from outside must not fill a host.

    Of circuits those that would be the same without a row, for every policy that anybody has
    declared; of declarations those of breakers by key that were not seen for the longest time; of
    counts of calls the oldest of breakers by key.
    """
    (rows,) = reader.execute("SELECT count(*) FROM circuits").fetchone()
    (entries,) = reader.execute("SELECT count(*) FROM declarations").fetchone()
    counts = reader.execute("SELECT width, count(*) FROM traffic GROUP BY width").fetchall()
    traffic = {width: count - MAX_TRAFFIC for width, count in counts if count > MAX_TRAFFIC}
    if rows <= MAX_ROWS and entries <= MAX_DECLARED and not traffic:
        return None
    declared = [
        (name, _object(policy) or {})
        for name, policy in reader.execute("SELECT name, policy FROM declarations ORDER BY seen_at")
    ]
    blank: dict[str, str] = {}
    floor = 0
    if rows > MAX_ROWS:
        patient = patient_policy(values for _, values in declared)
        for name, record in reader.execute("SELECT name, record FROM circuits"):
            circuit = _circuit(record)
            if core.is_blank(circuit, patient, now):
                blank[name], floor = record, max(floor, circuit.epoch)
    keyed = [
        name
        for name, values in declared
        if isinstance(name, str) and ":" in name and values.get(KEYED) is True
    ]
    waste = Waste(blank, floor, keyed[: max(0, entries - MAX_DECLARED)], traffic)
    return waste if waste.records or waste.declared or waste.traffic else None


def drop(writer: sqlite3.Connection, waste: Waste) -> None:
    """Drop it, but for what somebody has written to meanwhile; the floor is raised first (rule 2).

    It is raised in any case, for by that the others hear that they are to forget rows.
    """
    if waste.records:
        writer.execute(
            "UPDATE meta SET floor = max(floor + 1, ?), revision = revision + 1", (waste.floor,)
        )
    writer.executemany("DELETE FROM circuits WHERE name = ? AND record = ?", waste.records.items())
    writer.executemany(
        "DELETE FROM declarations WHERE name = ?", [(name,) for name in waste.declared]
    )
    writer.executemany(
        "DELETE FROM traffic WHERE (name, width, start) IN (SELECT name, width, start FROM traffic"
        " WHERE width = ? AND instr(name, ':') ORDER BY start LIMIT ?)",
        waste.traffic.items(),
    )


def withdraw(writer: sqlite3.Connection, process: str) -> None:
    """Forget a process that ends."""
    writer.execute("DELETE FROM processes WHERE id = ?", (process,))


def _incarnation() -> int:
    return secrets.randbits(63) | 1


def _circuit(record: Any) -> Circuit:
    try:
        return load_circuit(record)
    except ValueError as error:
        raise Corrupt(error) from error


#: Whoever looks at everything now and then finds most of it as it was.
_known_circuit: Final = functools.lru_cache(maxsize=4096)(_circuit)
_known_event: Final = functools.lru_cache(maxsize=HISTORY)(load_event)


def _object(text: Any) -> dict[str, Any] | None:
    try:
        data = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


_known_object: Final = functools.lru_cache(maxsize=MAX_DECLARED)(_object)
