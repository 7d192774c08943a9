"""What goes to and fro between a process and the store that it shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from circuitbreaker_django.core import window
from circuitbreaker_django.core.circuit import Batch, Circuit, Command, Event
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.core.window import Slice

#: Incarnation and epoch: what makes a moment of a circuit's life unmistakable (rule 1).
Fence = tuple[int, int]
#: A command, and the policy of the circuit that it is for.
Order = tuple[Command, Policy]


class StoreBusy(Exception):
    """Somebody else is writing; nothing was applied."""


class StoreLost(Exception):
    """The store cannot be used; nothing was applied."""


class NoStore(StoreLost):
    """There is no store, and none was to be made."""


@dataclass(slots=True)
class Evidence:
    """What a process has seen of a circuit's calls, on its way to the store: sums, no list.

    Attributes:
        fence: the moment of the circuit that the calls were admitted under.
        policy: the rules.
        times: of the newest failures.
        last_error: the class of the newest failure's exception.
        slices: all calls, where a rate is asked for.
        streak: the longest row of failures.
        retry_at: until when the failing answer asks to be left alone.
        spared: calls that would have been rejected, had the circuit not moved on paper only.
    """

    fence: Fence
    policy: Policy
    times: tuple[int, ...] = ()
    last_error: str = ""
    slices: tuple[Slice, ...] = ()
    streak: int = 0
    retry_at: int = 0
    spared: int = 0

    def add(self, newer: Evidence, now: int) -> None:
        """Add what was seen later; what is of an earlier moment of the circuit is void."""
        if newer.fence != self.fence:
            self.fence, self.times, self.slices = newer.fence, (), ()
            self.streak = self.retry_at = 0
        self.policy = newer.policy
        self.times = window.add(self.times, newer.times, newer.policy)
        self.last_error = newer.last_error or self.last_error
        self.slices = window.merge(self.slices, newer.slices, newer.policy, now)
        self.streak = max(self.streak, newer.streak)
        self.retry_at = max(self.retry_at, newer.retry_at)
        self.spared += newer.spared

    def as_batch(self, now: int, store_now: int, origin: str, patience: int) -> Batch:
        """As the store takes it; ``now`` is by this process's clock, ``store_now`` by its own."""
        ahead = store_now - now
        return Batch(
            epoch=self.fence[1],
            ages=tuple(now - time for time in self.times),
            last_error=self.last_error,
            slices=tuple(replace(one, start=one.start + ahead) for one in self.slices),
            streak=self.streak,
            retry_after=max(0, self.retry_at - now),
            spared=self.spared,
            origin=origin,
            patience=patience,
        )


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a trial, on its way to the store."""

    name: str
    fence: Fence
    token: str
    policy: Policy
    outcome: Outcome
    last_error: str
    retry_at: int = 0


@dataclass(slots=True)
class Changes:
    """What one visit to the store has brought about."""

    incarnation: int
    circuits: dict[str, Circuit] = field(default_factory=dict)
    events: list[tuple[str, Event]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Declaration:
    """A breaker that some process's code or settings declare: its effective policy, and where."""

    name: str
    policy: Mapping[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A live process that uses the store; ``started`` is in seconds of the wall clock."""

    host: str
    pid: int
    kind: str
    started: float
    digest: str
    pid_space: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole store at one moment, for operators; times are of the store's clock."""

    now: int
    circuits: Mapping[str, Circuit]
    declarations: Mapping[str, Declaration]
    processes: tuple[ProcessInfo, ...]
