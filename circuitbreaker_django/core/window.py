"""What is counted, and for how long: the newest failures, exact and in bounded memory (rule 6).

A window is a tuple of times in ascending order, in microseconds of one clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from circuitbreaker_django.core.policy import Policy, micros


def add(window: tuple[int, ...], times: Iterable[int], policy: Policy) -> tuple[int, ...]:
    """The newest ``failure_threshold`` of what was there and what is added."""
    return tuple(sorted((*window, *times))[-policy.failure_threshold :])


def live(window: tuple[int, ...], policy: Policy, now: int) -> tuple[int, ...]:
    """The failures that still count at ``now``."""
    limit = now - micros(policy.failure_window)
    return tuple(time for time in window if time > limit)


def tripped(window: tuple[int, ...], policy: Policy, now: int) -> bool:
    """Whether the oldest of the newest ``failure_threshold`` failures still counts."""
    return len(live(window, policy, now)) >= policy.failure_threshold
