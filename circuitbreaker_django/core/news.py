"""What there is to tell of circuits, as plain data: one class for each kind."""

from __future__ import annotations

from dataclasses import dataclass

from circuitbreaker_django.core.circuit import Circuit, Command, Event, mode_of
from circuitbreaker_django.core.policy import Policy, seconds
from circuitbreaker_django.core.states import CircuitState, Mode


@dataclass(frozen=True, slots=True)
class StateChanged:
    """A circuit has moved, or an operator has moved it.

    Attributes:
        registry: the alias of the breaker's registry; ``None`` for a breaker made by hand.
        name: the circuit's.
        event: what has happened. Where another process has brought it about, all that was
            missed since the last look is one event, whose cause is ``elsewhere``.
        retry_after: seconds until a call may pass; ``None`` while it is not open, or held open
            without an end.
        origin: whether this process has brought it about. For one circuit and epoch this is so
            in one process of all that share it.
        alone: whether it is so in this process alone, whatever the others believe; then
            ``origin`` is false.
    """

    registry: str | None
    name: str
    event: Event
    retry_after: float | None
    origin: bool = False
    alone: bool = False


@dataclass(frozen=True, slots=True)
class CommandApplied:
    """The store has confirmed an operator's command; told in the process that gave it.

    Attributes:
        registry, name: as in :class:`StateChanged`.
        command: what was asked for, by whom and why.
        epoch: of the circuit as it is now.
        mode: that is in force now.
        mode_ends_in: seconds until that mode ends by itself, if it does.
    """

    registry: str | None
    name: str
    command: Command
    epoch: int
    mode: Mode
    mode_ends_in: float | None


@dataclass(frozen=True, slots=True)
class CallRejected:
    """A call was not let through.

    Attributes:
        registry, name: as in :class:`StateChanged`.
        state: of the circuit; ``CLOSED`` while it ramps up.
        retry_after: seconds until a call may pass; ``None`` in a hold without an end.
    """

    registry: str | None
    name: str
    state: CircuitState
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class BackendDegraded:
    """This process cannot use the shared store and goes on with circuits of its own.

    Attributes:
        registry: as in :class:`StateChanged`.
        place: where the store is, in words for people; never with a password.
        problem: what hinders it.
    """

    registry: str | None
    place: str
    problem: str


@dataclass(frozen=True, slots=True)
class BackendRecovered:
    """This process shares its circuits again; the attributes are those of BackendDegraded."""

    registry: str | None
    place: str


News = StateChanged | CommandApplied | CallRejected | BackendDegraded | BackendRecovered


def state_changed(
    registry: str | None, name: str, event: Event, circuit: Circuit, now: int, **whose: bool
) -> StateChanged:
    """An event, and how long the circuit that it has led to will reject calls."""
    until: int | None = circuit.retry_at
    if event.mode is Mode.FORCED_OPEN:
        until = _end_of_mode(circuit)
    if event.after is not CircuitState.OPEN:
        until = None
    return StateChanged(registry, name, event, _seconds_to(until, now), **whose)


def command_applied(
    registry: str | None, name: str, command: Command, policy: Policy, circuit: Circuit, now: int
) -> CommandApplied:
    """A command, and what is in force in the circuit that it has led to."""
    ends_in = _seconds_to(_end_of_mode(circuit), now)
    return CommandApplied(registry, name, command, circuit.epoch, mode_of(circuit, policy), ends_in)


def _end_of_mode(circuit: Circuit) -> int | None:
    return None if circuit.override is None else circuit.override.until


def _seconds_to(time: int | None, now: int) -> float | None:
    return None if time is None else seconds(time - now)
