"""What one process has seen of one circuit's calls, where successes matter too (rule 7)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from math import inf

from circuitbreaker_django.core import window
from circuitbreaker_django.core.policy import MICROS, Policy
from circuitbreaker_django.core.window import Slice

#: How often a breaker that somebody has failed on tells of its calls, in microseconds.
TELL_EVERY = 250_000

Seconds = Callable[[], float]


class Tally:
    """Counts the calls of one life of a circuit.

    A call that has succeeded in time adds one to ``calls`` and is done, unless ``due`` has come:
    no lock, and an increment that is lost to a race is tolerated. All else is done under the
    backend's lock.

    Attributes:
        seconds: the process's clock.
        limit: seconds from which on a call is slow; ``None`` where no call is.
        due: by that clock, when a call has to take the long way.
        calls: since the last of those.
        passed: all before those; for people to look at.
        streak: failures in a row.
    """

    __slots__ = (
        "_now_in",
        "_slices",
        "_told",
        "_told_at",
        "calls",
        "due",
        "limit",
        "passed",
        "policy",
        "seconds",
        "streak",
    )

    def __init__(self, policy: Policy, seconds: Seconds = time.monotonic) -> None:
        self.policy = policy
        self.seconds = seconds
        limit = policy.slow_call_duration
        # A float, for to compare one with an integer costs 0.3 of an empty wrapper.
        self.limit = None if limit is None else float(limit)
        self.due = -inf
        self.calls = 0.0
        self.passed = 0
        self.streak = 0
        self._slices: tuple[Slice, ...] = ()
        self._told: tuple[Slice, ...] = ()
        self._told_at = 0
        #: The slice that calls pass by in: ``due`` is never later than its end.
        self._now_in = 0

    def passes(self, started: float | None) -> bool:
        """Count a call that has succeeded, unless it has to take the long way.

        What a protected function does in place.
        """
        ended = self.seconds()
        if ended >= self.due:
            return False
        if self.limit is not None and started is not None and ended - started >= self.limit:
            return False
        self.calls += 1.0
        return True

    def count(self, now: int, *, failed: bool, slow: bool) -> None:
        """Count a call that has taken the long way."""
        self._look(now, Slice(self._start(now), 1, int(failed), int(slow)))
        self.streak = self.streak + 1 if failed else 0

    def is_suspect(self, now: int) -> bool:
        """Whether a failure or a slow call of this process is in the window."""
        seen = window.total(self._slices, self.policy, now)
        return bool(seen.failures or seen.slow)

    def slices(self, now: int) -> tuple[Slice, ...]:
        """All calls of this process in the window."""
        self._look(now)
        return self._slices

    def untold(self, now: int) -> tuple[Slice, ...]:
        """The calls that nobody was told of; whoever asks tells of them."""
        self._look(now)
        told = {one.start: one for one in self._told}
        self._told = self._slices
        self._told_at = now
        new = [
            replace(
                one,
                calls=one.calls - told[one.start].calls,
                failures=one.failures - told[one.start].failures,
                slow=one.slow - told[one.start].slow,
            )
            if one.start in told
            else one
            for one in self._slices
        ]
        return tuple(one for one in new if one.calls)

    def may_tell(self, now: int) -> bool:
        """Whether it is time to tell the others again."""
        return now >= self._told_at + TELL_EVERY

    def wait(self, now: int, *, suspect: bool) -> None:
        """Let calls pass by until something is due.

        Args:
            now: the time.
            suspect: whether somebody's failure or slow call is in the window.
        """
        policy = self.policy
        until = self._start(now) + window.width(policy)
        if suspect:
            until = min(until, self._told_at + TELL_EVERY)
            # Its next call may be the one that makes a rate count.
            few = window.total(self._slices, policy, now).calls < policy.minimum_calls
            until = now if few else until
        if self.streak and policy.consecutive_failures is not None:
            until = now
        self.due = until / MICROS

    def _start(self, now: int) -> int:
        return window.slice_start(self.policy, now)

    def _look(self, now: int, *more: Slice) -> None:
        passed, self.calls = int(self.calls), 0.0
        self.passed += passed
        if passed:
            more = (Slice(self._now_in, passed), *more)
        self._now_in = self._start(now)
        self._slices = window.merge(self._slices, more, self.policy, now)
        starts = {one.start for one in self._slices}
        self._told = tuple(one for one in self._told if one.start in starts)


def seconds_of(clock: Callable[[], int]) -> Seconds:
    """A clock of microseconds as one of seconds."""
    return lambda: clock() / MICROS
