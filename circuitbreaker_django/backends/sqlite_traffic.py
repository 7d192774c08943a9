"""The table of the SQLite backend that keeps the calls of breakers over time (rule 23)."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Mapping
from typing import Final

from circuitbreaker_django.backends.store import Stats
from circuitbreaker_django.core import traffic
from circuitbreaker_django.core.traffic import KEPT, MINUTE, QUARTER, Bucket, Counts

TABLE: Final = """
CREATE TABLE traffic (
    name TEXT NOT NULL, width INTEGER NOT NULL, start INTEGER NOT NULL,
    calls INTEGER NOT NULL, failures INTEGER NOT NULL, slow INTEGER NOT NULL,
    ignored INTEGER NOT NULL, rejected INTEGER NOT NULL,
    PRIMARY KEY (name, width, start)
) WITHOUT ROWID;
CREATE INDEX traffic_start ON traffic (width, start)
"""

_ADD: Final = """
INSERT INTO traffic VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    calls = calls + excluded.calls, failures = failures + excluded.failures,
    slow = slow + excluded.slow, ignored = ignored + excluded.ignored,
    rejected = rejected + excluded.rejected
"""

_READ: Final = "SELECT name, start, calls, failures, slow, ignored, rejected FROM traffic"


def keep_traffic(
    writer: sqlite3.Connection, counted: Mapping[str, Counts], age: int, now: int
) -> None:
    """Add what a process has counted, and drop what is of long ago.

    Args:
        writer: inside of a transaction.
        counted: by name of breaker.
        age: for how long it was counted, in microseconds.
        now: by the store's clock.
    """
    for width in KEPT:
        rows = [
            (name, width, start, *share)
            for name, counts in counted.items()
            for start, share in traffic.shares(counts, age, width, now)
        ]
        writer.executemany(_ADD, rows)
        first = traffic.oldest(width, now)
        writer.execute("DELETE FROM traffic WHERE width = ? AND start < ?", (width, first))


def read_traffic(
    reader: sqlite3.Connection,
    names: Collection[str] | None,
    now: int,
    *,
    minutes: int,
    day: bool,
) -> Mapping[str, Stats]:
    """The calls of breakers over time; what makes no sense is left out."""
    wall = time.time()
    short = _read(reader, names, MINUTE, minutes, now)
    long = _read(reader, names, QUARTER, KEPT[QUARTER], now) if day else {}
    return {
        name: Stats(now, wall, tuple(short.get(name, ())), tuple(long.get(name, ())))
        for name in {**long, **short}
    }


def _read(
    reader: sqlite3.Connection, names: Collection[str] | None, width: int, number: int, now: int
) -> dict[str, list[Bucket]]:
    found: dict[str, list[Bucket]] = {}
    values: tuple[object, ...] = (width, traffic.oldest(width, now, number), now)
    query = f"{_READ} WHERE width = ? AND start BETWEEN ? AND ?"
    query += " AND min(calls, failures, slow, ignored, rejected) >= 0"
    if names is not None:
        # As one value, for the number of values in a query is limited.
        query += " AND name IN (SELECT value FROM json_each(?))"
        values += (json.dumps(list(names)),)
    rows = reader.execute(f"{query} ORDER BY name, start", values)
    # Written out, and past two constructors: of a hundred breakers there are 3,000 rows, and a page
    # waits for them.
    new = tuple.__new__
    for name, start, calls, failures, slow, ignored, rejected in rows:
        if type(calls) is type(failures) is type(slow) is type(ignored) is type(rejected) is int:
            bucket = new(Bucket, (start, new(Counts, (calls, failures, slow, ignored, rejected))))
            if name in found:
                found[name].append(bucket)
            else:
                found[name] = [bucket]
    return found
