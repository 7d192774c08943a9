"""What goes to and fro between a process and the store that it shares."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from circuitbreaker_django.core import traffic, window
from circuitbreaker_django.core.circuit import Batch, Circuit, Command, Event
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.policy import MICROS, Policy, seconds
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.core.traffic import Bucket, Counts
from circuitbreaker_django.core.window import Slice

logger = logging.getLogger("circuitbreaker_django")

#: Events that a shared store keeps.
HISTORY: Final = 5000
#: Rows of circuits, declarations, and counts of calls of one width, above which those go that
#: nobody will miss.
MAX_ROWS: Final = 2000
MAX_DECLARED: Final = 5000
MAX_TRAFFIC: Final = 100_000
#: Names that a line of the log has, at most.
MAX_NAMED: Final = 20

#: Incarnation and epoch: what makes a moment of a circuit's life unmistakable (rule 1).
Fence = tuple[int, int]
#: A command, and the policy of the circuit that it is for.
Order = tuple[Command, Policy]


class StoreBusy(Exception):
    """Somebody else is writing; nothing was applied."""


class StoreLost(Exception):
    """The store cannot be used; nothing was applied."""


class StoreUnsure(StoreLost):
    """The store did not answer: what it was told may have been applied, or not."""


class OrderUnsure(CircuitBackendError):
    """The store did not answer an operator's order, which may have been applied, or not."""


class NoStore(StoreLost):
    """There is no store, and none was to be made."""


@dataclass(slots=True)
class Evidence:
    """What a process has seen of a circuit's calls, on its way to the store: sums, no list.

    Attributes:
        fence: the moment of the circuit that the calls were admitted under.
        policy: the rules.
        times: of the newest failures.
        last_error, last_message: the class of the newest failure's exception, and what it said.
        slices: all calls, where a rate is asked for.
        streak: the longest row of failures.
        retry_at: until when the failing answer asks to be left alone.
        spared: calls that would have been rejected, had the circuit not moved on paper only.
        paper: on which they were counted.
    """

    fence: Fence
    policy: Policy
    times: tuple[int, ...] = ()
    last_error: str = ""
    slices: tuple[Slice, ...] = ()
    streak: int = 0
    retry_at: int = 0
    spared: int = 0
    paper: int = 0
    last_message: str = ""

    def add(self, newer: Evidence, now: int) -> None:
        """Add what was seen later; what is of an earlier moment of the circuit is void."""
        if newer.fence != self.fence:
            self.fence, self.times, self.slices = newer.fence, (), ()
            self.streak = self.retry_at = 0
        self.policy = newer.policy
        self.times = window.add(self.times, newer.times, newer.policy)
        if newer.last_error:
            self.last_error, self.last_message = newer.last_error, newer.last_message
        self.slices = window.merge(self.slices, newer.slices, newer.policy, now)
        self.streak = max(self.streak, newer.streak)
        self.retry_at = max(self.retry_at, newer.retry_at)
        if newer.spared and newer.paper != self.paper:
            self.paper, self.spared = newer.paper, 0
        self.spared += newer.spared

    def as_batch(self, now: int, store_now: int, origin: str, patience: int) -> Batch:
        """As the store takes it; ``now`` is by this process's clock, ``store_now`` by its own."""
        ahead = store_now - now
        return Batch(
            epoch=self.fence[1],
            ages=tuple(now - time for time in self.times),
            last_error=self.last_error,
            # In slices of the store's clock, for else each process would cut others.
            slices=tuple(
                replace(one, start=window.slice_start(self.policy, one.start + ahead))
                for one in self.slices
            ),
            streak=self.streak,
            retry_after=max(0, self.retry_at - now),
            spared=self.spared,
            paper=self.paper,
            origin=origin,
            patience=patience,
            last_message=self.last_message,
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
    last_message: str = ""


@dataclass(slots=True)
class Changes:
    """What one visit to the store has brought about."""

    incarnation: int
    circuits: dict[str, Circuit] = field(default_factory=dict)
    events: list[tuple[str, Event]] = field(default_factory=list)


#: In the policy of a declaration: whether it is of a family of breakers by key, or of one of them.
KEYED: Final = "keyed"


@dataclass(frozen=True, slots=True)
class Declaration:
    """A breaker that some process's code or settings declare: its effective policy, and where."""

    name: str
    policy: Mapping[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A live process that uses the store.

    Attributes:
        host, pid: where it runs.
        kind: the server's or the command's name.
        started: in seconds of the wall clock.
        digest: a fingerprint of its settings.
        pid_space: where its pid is unique.
        alone: the names of the circuits that it alone has opened for itself (rule 17).
    """

    host: str
    pid: int
    kind: str
    started: float
    digest: str
    pid_space: str
    alone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole store at one moment, for operators; times are of the store's clock.

    Attributes:
        processes: those that were heard of just now.
        floor: the epoch of a circuit that has no row (rule 2).
        silent: those that were not, though they may run, and for how many seconds.
        wall: the same moment as ``now``, in seconds of the wall clock.
    """

    now: int
    circuits: Mapping[str, Circuit]
    declarations: Mapping[str, Declaration]
    processes: tuple[ProcessInfo, ...]
    floor: int = 1
    silent: Mapping[ProcessInfo, float] = field(default_factory=dict)
    wall: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Stats:
    """The calls of one breaker over time, of all processes that share it.

    They are some seconds behind: each process tells of its own now and then (rule 23).

    Attributes:
        now: when they were read, by the store's clock.
        wall: the same moment, in seconds of the wall clock.
        minutes: of the last hour, or as many as were asked for, ascending; those in which nothing
            was counted are left out.
        quarters: of an hour, of the last day, likewise; empty unless they were asked for.
    """

    now: int
    wall: float
    minutes: tuple[Bucket, ...] = ()
    quarters: tuple[Bucket, ...] = ()

    @property
    def last_minute(self) -> Counts:
        """What was counted in the last sixty seconds, about."""
        return traffic.last_minute(self.minutes, self.now)

    @property
    def last_hour(self) -> Counts:
        """What was counted in the last hour, or in as many minutes as were asked for."""
        return traffic.total(self.minutes)

    @property
    def calls_per_second(self) -> float:
        """Calls that were let through, over the last minute."""
        return self.last_minute.calls * MICROS / traffic.MINUTE

    def wall_time(self, bucket: Bucket) -> float:
        """When the bucket begins, in seconds of the wall clock."""
        return self.wall - seconds(self.now - bucket.start)


def warn_of_dropped(names: Iterable[str]) -> None:
    """Say of which circuits the rows could not be read; by whoever has dropped them."""
    dropped = list(names)
    more = len(dropped) - MAX_NAMED
    logger.warning(
        "circuits that could not be read are dropped: %s%s",
        dropped[:MAX_NAMED],
        f" and {more} more" if more > 0 else "",
    )
