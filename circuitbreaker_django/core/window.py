"""What is counted, and for how long, in bounded memory.

Failures are kept exactly, as the times of the newest ones (rule 6): a tuple in ascending order.
For rates all calls are counted, in slices of a tenth of the window (rule 7): so a rate is of the
last nine to ten tenths, and never of a call that is older than the window. All times are
microseconds of one clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from circuitbreaker_django.core.policy import Policy, micros

#: Slices to a window.
SLICES: Final = 10
#: Slices kept. Processes whose windows differ in length, or whose clocks do, cut others.
MAX_SLICES: Final = 64


@dataclass(frozen=True, slots=True)
class Slice:
    """Calls that ended from ``start`` on; of them the failures, and the slow ones of both kinds."""

    start: int
    calls: int
    failures: int = 0
    slow: int = 0


def add(window: tuple[int, ...], times: Iterable[int], policy: Policy) -> tuple[int, ...]:
    """The newest ``failure_threshold`` of what was there and what is added."""
    if policy.failure_threshold is None:
        return ()
    return tuple(sorted((*window, *times))[-policy.failure_threshold :])


def live(window: tuple[int, ...], policy: Policy, now: int) -> tuple[int, ...]:
    """The failures that still count at ``now``."""
    limit = now - micros(policy.failure_window)
    return tuple(time for time in window if time > limit)


def width(policy: Policy) -> int:
    """The length of a slice."""
    return max(1, micros(policy.failure_window) // SLICES)


def slice_start(policy: Policy, time: int) -> int:
    """The beginning of the slice that ``time`` is in."""
    return time - time % width(policy)


def merge(
    slices: Iterable[Slice], more: Iterable[Slice], policy: Policy, now: int
) -> tuple[Slice, ...]:
    """What was there and what is added, without what no longer counts at ``now``."""
    merged: dict[int, Slice] = {}
    for one in (*slices, *more):
        there = merged.get(one.start)
        merged[one.start] = one if there is None else _sum(one.start, (there, one))
    starts = sorted(live(tuple(merged), policy, now))[-MAX_SLICES:]
    return tuple(merged[start] for start in starts)


def total(slices: Iterable[Slice], policy: Policy, now: int) -> Slice:
    """All that still counts at ``now``, as one slice."""
    limit = now - micros(policy.failure_window)
    return _sum(limit, (one for one in slices if one.start > limit))


def why_tripped(
    failures: tuple[int, ...], slices: tuple[Slice, ...], streak: int, policy: Policy, now: int
) -> str | None:
    """Which rule opens a circuit of which this was seen, in words; ``None``: none does.

    Args:
        failures: the times of the newest.
        slices: calls; not to be judged yet if empty.
        streak: failures in a row.
        policy: the rules.
        now: the time.
    """
    span = f"within {policy.failure_window:g} s"
    count = len(live(failures, policy, now))
    if policy.failure_threshold is not None and count >= policy.failure_threshold:
        return f"{count} failure{'s' * (count > 1)} {span}"
    if policy.consecutive_failures is not None and streak >= policy.consecutive_failures:
        return f"{streak} failure{'s' * (streak > 1)} in a row"
    seen = total(slices, policy, now)
    if not policy.has_rates or seen.calls < policy.minimum_calls:
        return None
    rate = policy.failure_rate_threshold
    # A quotient, for that of two whole numbers is what the same share is written as.
    if rate is not None and seen.failures / seen.calls >= rate:
        return f"{seen.failures} of {seen.calls} calls failed {span}"
    if policy.slow_call_duration is None:
        return None
    if seen.slow / seen.calls >= policy.slow_call_rate_threshold:
        limit = f"{policy.slow_call_duration:g} s"
        return f"{seen.slow} of {seen.calls} calls took {limit} or longer {span}"
    return None


def _sum(start: int, slices: Iterable[Slice]) -> Slice:
    calls = failures = slow = 0
    for one in slices:
        calls += one.calls
        failures += one.failures
        slow += one.slow
    return Slice(start, calls, failures, slow)
