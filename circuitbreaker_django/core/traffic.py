"""A circuit's calls over time, for people to look at; nothing is decided by them (rule 23).

They are counted in buckets of a minute for an hour, and of a quarter of an hour for a day. A
process tells of what it has counted since it last did so; whoever keeps that adds it up. All
times are microseconds of the store's clock.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from circuitbreaker_django.core.policy import MICROS

#: The widths of buckets, and how many of each are kept.
MINUTE: Final = 60 * MICROS
QUARTER: Final = 15 * MINUTE
KEPT: Final = {MINUTE: 60, QUARTER: 96}


class Counts(NamedTuple):
    """What was counted of a circuit's calls.

    Attributes:
        calls: that were let through.
        failures: of them.
        slow: of them, be they failures or not; where the policy says what is slow.
        ignored: of them: neither a failure nor a success.
        rejected: calls that were not let through.
    """

    calls: int = 0
    failures: int = 0
    slow: int = 0
    ignored: int = 0
    rejected: int = 0


class Bucket(NamedTuple):
    """What was counted from ``start`` on."""

    start: int
    counts: Counts


#: Buckets of one width by their beginnings.
Buckets = dict[int, Counts]

NOTHING: Final = Counts()


def plus(one: Counts, other: Counts) -> Counts:
    """The sum of both."""
    return Counts(*map(operator.add, one, other))


def minus(later: Counts, earlier: Counts) -> Counts:
    """What has come since; nothing is less than none, for counters lose a race now and then."""
    return Counts(*(max(0, number) for number in map(operator.sub, later, earlier)))


def total(buckets: Iterable[Bucket]) -> Counts:
    """The sum of all."""
    return Counts(*map(sum, zip(*(bucket.counts for bucket in buckets), strict=True)))


def start_of(width: int, time: int) -> int:
    """The beginning of the bucket that ``time`` is in."""
    return time - time % width


def oldest(width: int, now: int, number: int | None = None) -> int:
    """The beginning of the oldest of the last so many buckets; by default of all that are kept."""
    return start_of(width, now) - ((KEPT[width] if number is None else number) - 1) * width


def shares(counts: Counts, age: int, width: int, now: int) -> Iterator[Bucket]:
    """What to add to which bucket, evenly where several are due.

    Args:
        counts: what was counted.
        age: for how long it was counted, until now.
        width: of the buckets.
        now: the time.
    """
    last = start_of(width, now)
    number = (last - start_of(width, now - max(0, age))) // width + 1
    for index in range(max(0, number - KEPT[width]), number):
        part = (value * (index + 1) // number - value * index // number for value in counts)
        share = Counts(*part)
        if any(share):
            yield Bucket(last - (number - 1 - index) * width, share)


def buckets_due(age: int) -> int:
    """The most buckets that :func:`shares` puts into what was counted for so long."""
    return sum(min(number, max(0, age) // width + 2) for width, number in KEPT.items())


def add(buckets: Mapping[int, Counts], more: Iterable[Bucket], width: int, now: int) -> Buckets:
    """The buckets with what is added, without those that are no longer kept."""
    merged = dict(buckets)
    for start, counts in more:
        merged[start] = plus(merged.get(start, NOTHING), counts)
    return dict(newest(merged, width, now))


def newest(
    buckets: Mapping[int, Counts], width: int, now: int, number: int | None = None
) -> tuple[Bucket, ...]:
    """The last so many buckets, ascending; by default all that are kept."""
    first = oldest(width, now, number)
    return tuple(
        Bucket(start, buckets[start]) for start in sorted(buckets) if first <= start <= now
    )


def last_minute(minutes: Iterable[Bucket], now: int) -> Counts:
    """What was counted in the last sixty seconds, as far as whole minutes tell.

    Of the minute before the current one as large a part counts as lies within them.
    """
    current = start_of(MINUTE, now)
    by_start = dict(minutes)
    before = by_start.get(current - MINUTE, NOTHING)
    left = MINUTE - (now - current)
    part = Counts(*(round(value * left / MINUTE) for value in before))
    return plus(by_start.get(current, NOTHING), part)
