"""What goes to and fro between a process and the store that it shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from circuitbreaker_django.core.circuit import Circuit, Command, Event
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import Outcome

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
class Failures:
    """Failures of one circuit that are on their way to the store: the newest, not a list of all."""

    fence: Fence
    policy: Policy
    times: tuple[int, ...] = ()
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a trial, on its way to the store."""

    name: str
    fence: Fence
    token: str
    policy: Policy
    outcome: Outcome
    last_error: str


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
