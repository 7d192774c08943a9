"""What a store that is reached over a network must be able to do.

One object is one connection, used by one thread at a time. It opens itself at its first use and
anew after each error. What it is told are durations and what it answers are times of its own
clock, with the time that it was: so the clocks of hosts are never compared (rule 4).
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from circuitbreaker_django.backends.store import (
    Declaration,
    Evidence,
    Fence,
    Order,
    Overview,
    ProcessInfo,
    Report,
    Stats,
)
from circuitbreaker_django.core.circuit import Circuit, Event, Grant
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.traffic import KEPT, MINUTE, Counts

#: Counts by name of breaker, and the microseconds in which they were counted.
Counted = tuple[Mapping[str, Counts], int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a store has said, at ``now`` of its clock, which all times are of.

    Attributes:
        now: the store's time.
        incarnation: its identity; 0 if it is not there, or has lost what was in it.
        floor: the epoch of circuits without a row (rule 2).
        revision: of the newest change that it tells of.
        circuits: those that were asked for, or that were touched.
        events: what a change has brought about.
        more: whether there are changes after this revision.
    """

    now: int
    incarnation: int
    floor: int
    revision: int
    circuits: Mapping[str, Circuit]
    events: Sequence[tuple[str, Event]] = ()
    more: bool = False


@dataclass(frozen=True, slots=True)
class Teller:
    """Who tells a store of calls.

    Attributes:
        now: the time by the process's clock, which evidence is in.
        origin: what counts as one where a quorum is asked for (rule 8).
        patience: for how long a rate waits for what others have to tell, in microseconds (rule 7).
        before: the store's time after which nothing is to be done any more: nobody waits for it.
    """

    now: int
    origin: str
    patience: int
    before: int


class RemoteStore(abc.ABC):
    """A connection; each method raises ``StoreLost``, or ``StoreUnsure`` after a change."""

    @abc.abstractmethod
    def look(self, since: int) -> Snapshot:
        """What has changed after a revision, in pages; all circuits after 0. Writes nothing."""

    @abc.abstractmethod
    def wait(self, since: int, seconds: float) -> None:
        """Return when there is a newer revision, or when the time is over."""

    @abc.abstractmethod
    def deliver(
        self, evidence: Mapping[str, Evidence], reports: Sequence[Report], teller: Teller
    ) -> Snapshot:
        """Count calls and take reports, all or nothing; of another incarnation none."""

    @abc.abstractmethod
    def acquire(
        self, name: str, fence: Fence, token: str, policy: Policy, before: int
    ) -> tuple[Grant, Snapshot]:
        """Ask for a trial permit, not after ``before``."""

    @abc.abstractmethod
    def command(
        self, orders: Mapping[str, Order], before: int, *, if_lost: bool = False
    ) -> Snapshot:
        """Apply commands, all or none; raises ``CircuitConflictError`` too.

        Args:
            orders: by name of circuit.
            before: not after this time.
            if_lost: only to circuits that have no row; the others are in the answer as they are.
        """

    @abc.abstractmethod
    def renew(self, incarnation: int) -> None:
        """Take another identity, for a store of this one has lost changes; its rows stay."""

    @abc.abstractmethod
    def publish(
        self,
        process: str,
        info: ProcessInfo | None = None,
        declared: Sequence[Declaration] = (),
        counted: Counted = ({}, 0),
    ) -> Snapshot:
        """Write down who is there, what his code declares, and what he has counted (rule 23).

        It makes the store if there is none, and shows whether it takes what it is given.

        Args:
            process: its id.
            info: nothing is said of a process that only looks.
            declared: what is to be known for some days.
            counted: counts by name of breaker, and the microseconds that they are of.
        """

    @abc.abstractmethod
    def withdraw(self, process: str) -> None:
        """Forget a process that ends."""

    @abc.abstractmethod
    def overview(self) -> Overview:
        """Everything, for operators; raises ``NoStore`` where there is nothing."""

    @abc.abstractmethod
    def stats(
        self, names: Collection[str] | None, *, minutes: int = KEPT[MINUTE], day: bool
    ) -> Mapping[str, Stats]:
        """The calls of breakers over time, by the store's clock."""

    @abc.abstractmethod
    def events(
        self, limit: int, names: Collection[str] | None = None
    ) -> tuple[int, list[tuple[str, Event]]]:
        """The store's time, and the newest events of those breakers, or of any, newest first."""

    def clean(self) -> None:
        """Drop what nobody will miss where there is too much: keys from outside must not fill it.

        Of circuits those that would be the same without a row; the floor is raised for them.
        """

    def advice(self) -> list[str]:
        """What only the store can tell, and operators should know of."""
        return []

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the connection; never raises. The next use opens it again."""


def moved(circuit: Circuit, by: int) -> Circuit:
    """The circuit by a clock that is ahead by so many microseconds. What never was stays 0."""
    override = circuit.override
    if override is not None:
        override = replace(
            override,
            since=_moved(override.since, by),
            until=None if override.until is None else override.until + by,
            aside=None if override.aside is None else moved(override.aside, by),
        )
    return replace(
        circuit,
        since=_moved(circuit.since, by),
        retry_at=_moved(circuit.retry_at, by),
        failures=tuple(time + by for time in circuit.failures),
        slices=tuple(replace(one, start=one.start + by) for one in circuit.slices),
        suspect_since=_moved(circuit.suspect_since, by),
        witnesses=tuple(replace(one, seen_at=one.seen_at + by) for one in circuit.witnesses),
        permits=tuple(replace(one, expires=one.expires + by) for one in circuit.permits),
        override=override,
        last_error_at=_moved(circuit.last_error_at, by),
    )


def _moved(time: int, by: int) -> int:
    return time and time + by
