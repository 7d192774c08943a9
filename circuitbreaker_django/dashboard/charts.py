"""Calls and states over time, as outlines that one SVG path each can draw.

A path is a text, so the page's script can put a newer one in its place. All are in a box of
:data:`WIDTH` by :data:`HEIGHT`, but for sparklines, which the page stretches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final

from circuitbreaker_django.backends.store import Stats
from circuitbreaker_django.core.circuit import Event
from circuitbreaker_django.core.policy import seconds
from circuitbreaker_django.core.traffic import MINUTE, NOTHING, QUARTER, Counts, oldest
from circuitbreaker_django.operations.looks import URGENCY, Look, look_of

WIDTH: Final = 1000
HEIGHT: Final = 100
#: Minutes of a sparkline, which is as many wide, less one.
SPARKS: Final = 30
_XS: Final = [f"L{x} " for x in range(SPARKS)]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time that a chart shows, up to now; both in seconds."""

    length: int
    bucket: int


SPANS: Final = {
    "hour": Span(3600, int(seconds(MINUTE))),
    "day": Span(86400, int(seconds(QUARTER))),
}


def lately(stats: Stats) -> list[Counts]:
    """What was counted in each of the minutes of a sparkline."""
    found, first = [NOTHING] * SPARKS, oldest(MINUTE, stats.now, SPARKS)
    for start, counts in stats.minutes:
        if start >= first:
            found[(start - first) // MINUTE] = counts
    return found


def spark(minutes: Sequence[Counts], last: Counts) -> dict[str, str]:
    """Calls of the last minutes, and those that failed or were rejected, as lines if any did.

    Args:
        minutes: what was counted :func:`lately`.
        last: of the last sixty seconds, for the current minute has only begun.
    """
    shown = [*minutes[:-1], last]
    calls = [one.calls + one.rejected for one in shown]
    bad = [one.failures + one.rejected for one in shown]
    most = max(calls)
    return {
        "spark": _line(calls, most) if most else "",
        "spark_bad": _line(bad, most) if any(bad) else "",
    }


def bars(stats: Stats, span: Span) -> dict[str, str]:
    """Calls by what became of them, one bar of three parts for each bucket; slow ones as marks."""
    found = list(buckets(stats, span))
    most = most_of(found) or 1
    paths = {"bar_ok": "", "bar_failed": "", "bar_rejected": "", "bar_slow": ""}
    for start, counts in found:
        left = max(0.0, start - (stats.wall - span.length))
        right = min(start + span.bucket, stats.wall) - (stats.wall - span.length)
        x, end = WIDTH * left / span.length, WIDTH * right / span.length
        # A gap between bars, as far as there is room.
        width = max(1.0, (end - x) * 0.85)
        floor = 0.0
        parts = (counts.calls - counts.failures, counts.failures, counts.rejected)
        for name, part in zip(paths, parts, strict=False):
            height = HEIGHT * part / most
            if part > 0:
                paths[name] += _box(x, HEIGHT - floor - height, width, height)
            floor += height
        if counts.slow:
            paths["bar_slow"] += _box(x, HEIGHT - HEIGHT * counts.slow / most, width, 2)
    return paths


def buckets(stats: Stats, span: Span) -> Iterator[tuple[float, Counts]]:
    """What was counted in the span, with the beginnings in seconds of the wall clock."""
    for bucket in stats.quarters if span is SPANS["day"] else stats.minutes:
        start = stats.wall_time(bucket)
        if start + span.bucket > stats.wall - span.length:
            yield start, bucket.counts


def most_of(found: Iterable[tuple[float, Counts]]) -> int:
    """The most calls and rejections of one bucket."""
    return max((counts.calls + counts.rejected for _, counts in found), default=0)


def strip(
    history: Sequence[tuple[datetime, Event]], look: Look, now: datetime, span: Span
) -> tuple[dict[str, str], dict[Look, float]]:
    """The states of the span, as one path for each look, and for how many seconds each was.

    Half-open begins with its first trial, for only that is an event. Where it was several things
    within a unit of the width, the most urgent is drawn: so what was short is seen, and a path is
    no longer for a circuit that opens and closes all the time.

    Args:
        history: newest first.
        look: what it looks like now.
        now: the end of the span.
        span: what is shown.
    """
    paths = {f"strip_{each}": "" for each in Look}
    lengths: dict[Look, float] = {}
    drawn = [Look.CLOSED] * WIDTH
    end = float(span.length)
    for start, shown in _periods(history, look, now, span):
        if start < end:
            lengths[shown] = lengths.get(shown, 0) + end - start
            first, last = WIDTH * start / span.length, WIDTH * end / span.length
            for x in range(int(first), math.ceil(last)):
                drawn[x] = min(drawn[x], shown, key=URGENCY.__getitem__)
            end = start
    x = 0
    for each, units in groupby(drawn):
        width = len(list(units))
        paths[f"strip_{each}"] += _box(x, 0, width, HEIGHT)
        x += width
    return paths, lengths


def _periods(
    history: Sequence[tuple[datetime, Event]], look: Look, now: datetime, span: Span
) -> Iterator[tuple[float, Look]]:
    """What it was like, newest first, and since how many seconds after the span's beginning."""
    shown = look_of(history[0][1].after, history[0][1].mode) if history else look
    if look is Look.HALF_OPEN and shown is Look.OPEN:
        shown = look  # it may be tried, but nobody has yet
    for index, (at, event) in enumerate(history):
        start = span.length - (now - at).total_seconds()
        yield max(0.0, start), shown
        if start <= 0:
            return
        before = history[index + 1][1] if index + 1 < len(history) else None
        shown = Look(event.before.value) if before is None else look_of(before.after, before.mode)
    yield 0.0, shown


def _line(values: Sequence[int], most: int) -> str:
    points = [f"{x}{HEIGHT - HEIGHT * y // most}" for x, y in zip(_XS, values, strict=True)]
    return "M" + "".join(points)[1:]


def _box(x: float, y: float, width: float, height: float) -> str:
    return f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z"
