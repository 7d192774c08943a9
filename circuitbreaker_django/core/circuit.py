"""The shared record of one circuit, and the only code that knows what moves it.

Every function is pure: ``(circuit, input, policy, now) -> (circuit, events)``. Backends
apply them inside their own atomic step. All times are microseconds of the store's clock.

===========  ==============================================  =========================
stored       input                                           becomes
===========  ==============================================  =========================
closed       ``failure_threshold`` failures in the window    open
open         ``retry_at`` reached                            open (*is* half-open)
half-open    a trial fails                                   open, one opening more
half-open    ``success_threshold`` trials succeed            closed
any          trip                                            open, its time restarted
any          hold                                            as it was, override on top
held         the hold's time is over                         open (*is* half-open)
any          reset                                           closed, all cleared
===========  ==============================================  =========================

Whatever is not in the table changes nothing. An input that carries another epoch than the
circuit's is of an earlier life of it and is dropped (rule 3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from circuitbreaker_django.core import window
from circuitbreaker_django.core.policy import MAX_TRIAL_TIMEOUT, Policy, micros
from circuitbreaker_django.core.states import CircuitState, Mode, Outcome

#: Permits remembered in one epoch, the live and those whose lease has run out, so that a late
#: report still counts. The oldest of the latter are forgotten first.
MAX_PERMITS: Final = 1064
#: Texts from outside are cut to this many characters before they are stored.
MAX_TEXT: Final = 500


@dataclass(frozen=True, slots=True)
class Override:
    """An operator's will, on top of the automatic state that it leaves as it was (rule 19)."""

    mode: Mode
    epoch: int
    since: int
    until: int | None
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Permit:
    """A trial's lease; ``expires`` is fixed at the grant and nothing moves it (rule 11)."""

    token: str
    expires: int


@dataclass(frozen=True, slots=True)
class Circuit:
    """One circuit as the store keeps it.

    Attributes:
        epoch: of its life, at least 1; every transition and command begins a new one (rule 1).
        state: ``CLOSED`` or ``OPEN``; never ``HALF_OPEN``, which is derived.
        since: when the state began; opening again does not move it.
        retry_at: when an open circuit may be tried.
        openings: since it was last closed.
        failures: the times of the newest, ascending; empty but in a closed circuit.
        trials: granted in this epoch.
        trial_successes: since it opened.
        permits: of this epoch that have not reported.
        override: an operator's will, which dominates while it lasts.
        actor, reason: who brought the state about, if a person did, and why.
        last_error: the class of the newest failure's exception.
    """

    epoch: int
    state: CircuitState = CircuitState.CLOSED
    since: int = 0
    retry_at: int = 0
    openings: int = 0
    failures: tuple[int, ...] = ()
    trials: int = 0
    trial_successes: int = 0
    permits: tuple[Permit, ...] = ()
    override: Override | None = None
    actor: str = ""
    reason: str = ""
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Failures of one process that were admitted under ``epoch``, as ages in microseconds."""

    epoch: int
    ages: tuple[int, ...]
    last_error: str = ""


class CommandKind(StrEnum):
    """What an operator may ask for."""

    TRIP = "trip"
    HOLD = "hold"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Command:
    """An operator's command.

    ``duration`` is in microseconds and for a hold only; ``expected_epoch`` makes the
    command fail when the circuit has moved on since the operator looked at it.
    """

    kind: CommandKind
    duration: int | None = None
    actor: str = ""
    reason: str = ""
    expected_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a circuit's history; ``cause`` says why and ``actor`` who, if a person did."""

    epoch: int
    at: int
    before: CircuitState
    after: CircuitState
    mode: Mode
    cause: str
    actor: str = ""
    reason: str = ""
    failures: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """A permit, or for how many microseconds there will be none (``None``: not in this epoch)."""

    granted: bool
    wait: int | None = None


@dataclass(frozen=True, slots=True)
class Effective:
    """What a caller or an operator sees of a circuit at one moment."""

    state: CircuitState
    mode: Mode
    wait: int | None
    """Microseconds until a call may pass; ``None`` for a hold without an end."""


Result = tuple[Circuit, tuple[Event, ...]]


def settle(circuit: Circuit, now: int) -> Circuit:
    """The circuit without a hold whose time is over: half-open, so that a trial comes first."""
    hold = circuit.override
    if hold is None or hold.until is None or now < hold.until:
        return circuit
    was_open = circuit.state is CircuitState.OPEN
    return replace(
        circuit,
        state=CircuitState.OPEN,
        since=circuit.since if was_open else hold.since,
        retry_at=hold.until,
        openings=max(1, circuit.openings),
        failures=(),
        trial_successes=0,
        override=None,
        actor=hold.actor,
        reason="the hold is over",
    )


def effective(circuit: Circuit, policy: Policy, now: int) -> Effective:
    """The state as it is at ``now``, without any change."""
    circuit = settle(circuit, now)
    if circuit.override is not None:
        until = circuit.override.until
        wait = None if until is None else until - now
        return Effective(CircuitState.OPEN, circuit.override.mode, wait)
    if circuit.state is CircuitState.CLOSED:
        return Effective(CircuitState.CLOSED, Mode.AUTO, 0)
    wait = clamp(circuit, policy, now).retry_at - now
    if wait > 0:
        return Effective(CircuitState.OPEN, Mode.AUTO, wait)
    return Effective(CircuitState.HALF_OPEN, Mode.AUTO, 0)


def record(circuit: Circuit, batch: Batch, policy: Policy, now: int) -> Result:
    """Count failures of a closed circuit, and open it when the threshold is reached."""
    circuit = settle(circuit, now)
    closed = circuit.state is CircuitState.CLOSED and circuit.override is None
    if batch.epoch != circuit.epoch or not closed or not batch.ages:
        return circuit, ()
    failures = window.add(circuit.failures, (now - max(0, age) for age in batch.ages), policy)
    circuit = replace(circuit, failures=failures, last_error=batch.last_error[:MAX_TEXT])
    if not window.tripped(failures, policy, now):
        return circuit, ()
    count = f"{len(failures)} failures" if len(failures) > 1 else "1 failure"
    why = f"{count} within {policy.failure_window:g} s"
    return _open(circuit, policy, now, cause=why)


def acquire(
    circuit: Circuit, epoch: int, token: str, policy: Policy, now: int
) -> tuple[Circuit, Grant, tuple[Event, ...]]:
    """Ask for a trial permit. Asking again with the same token changes nothing."""
    circuit = settle(circuit, now)
    if circuit.epoch != epoch or circuit.state is CircuitState.CLOSED or circuit.override:
        return circuit, Grant(False), ()
    circuit = clamp(circuit, policy, now)
    if now < circuit.retry_at:
        return circuit, Grant(False, circuit.retry_at - now), ()
    if any(permit.token == token for permit in circuit.permits):
        return circuit, Grant(True), ()
    live = [permit for permit in circuit.permits if _is_live(permit, now)]
    if len(live) >= policy.half_open_max_calls:
        return circuit, Grant(False, min(permit.expires for permit in live) - now), ()
    expired = [permit for permit in circuit.permits if not _is_live(permit, now)]
    live.append(Permit(token, now + micros(policy.trial_timeout)))
    circuit = replace(
        circuit,
        permits=(*expired, *live)[-MAX_PERMITS:],
        trials=circuit.trials + 1,
    )
    if circuit.trials > 1:
        return circuit, Grant(True), ()
    event = Event(  # half-open has no epoch of its own (rule 22)
        epoch=circuit.epoch,
        at=now,
        before=CircuitState.OPEN,
        after=CircuitState.HALF_OPEN,
        mode=Mode.AUTO,
        cause="first trial",
    )
    return circuit, Grant(True), (event,)


def report(
    circuit: Circuit,
    epoch: int,
    token: str,
    outcome: Outcome,
    policy: Policy,
    now: int,
    last_error: str = "",
) -> Result:
    """A trial has ended; its token counts once, in its epoch, also after its lease (rule 12)."""
    circuit = settle(circuit, now)
    if circuit.epoch != epoch or all(permit.token != token for permit in circuit.permits):
        return circuit, ()
    circuit = replace(
        circuit, permits=tuple(permit for permit in circuit.permits if permit.token != token)
    )
    if outcome is Outcome.IGNORED:
        return circuit, ()
    if outcome is Outcome.FAILURE:
        circuit = replace(circuit, last_error=last_error[:MAX_TEXT])
        return _open(circuit, policy, now, cause="a trial failed")
    successes = circuit.trial_successes + 1
    if successes < policy.success_threshold:
        return replace(circuit, trial_successes=successes), ()
    why = "a trial succeeded" if successes == 1 else f"{successes} trials succeeded"
    return _close(circuit, policy, now, cause=why)


def command(circuit: Circuit, order: Command, policy: Policy, now: int) -> Result | None:
    """Apply an operator's command; ``None`` when the circuit is not at the expected epoch."""
    if order.expected_epoch not in (None, circuit.epoch):
        return None
    circuit = settle(circuit, now)
    if order.kind is CommandKind.RESET:
        return _close(circuit, policy, now, cause=order.kind, order=order)
    if order.kind is CommandKind.TRIP:
        return _open(circuit, policy, now, cause=order.kind, order=order)
    epoch = next_epoch(circuit, now)
    hold = Override(
        mode=Mode.FORCED_OPEN,
        epoch=epoch,
        since=now,
        until=None if order.duration is None else now + order.duration,
        actor=order.actor[:MAX_TEXT],
        reason=order.reason[:MAX_TEXT],
    )
    held = replace(circuit, epoch=epoch, override=hold, permits=(), trials=0)
    return _moved(circuit, held, policy, now, cause=order.kind, order=order)


def clamp(circuit: Circuit, policy: Policy, now: int) -> Circuit:
    """The circuit with no longer a wait than the policy allows: clocks step back (rule 4)."""
    latest = now + micros(policy.recovery_timeout_max)
    return circuit if circuit.retry_at <= latest else replace(circuit, retry_at=latest)


def next_epoch(circuit: Circuit, now: int) -> int:
    """Later than every epoch before, also when a clock or a store began anew (rule 1)."""
    return max(now, circuit.epoch + 1)


def _is_live(permit: Permit, now: int) -> bool:
    """Whether the lease runs; one that is longer than any can be is a clock's or store's fault."""
    return now < permit.expires <= now + micros(MAX_TRIAL_TIMEOUT)


def _open(
    circuit: Circuit, policy: Policy, now: int, *, cause: str, order: Command | None = None
) -> Result:
    """Open, or open again with the time restarted; an operator's trip is no opening more."""
    was_open = circuit.state is CircuitState.OPEN
    if order is not None:
        reason = order.reason[:MAX_TEXT]
    else:
        reason = f"{cause}, last {circuit.last_error}" if circuit.last_error else cause
    opened = replace(
        circuit,
        epoch=next_epoch(circuit, now),
        state=CircuitState.OPEN,
        since=circuit.since if was_open else now,
        retry_at=now + micros(policy.recovery_timeout),
        openings=circuit.openings if was_open and order is not None else circuit.openings + 1,
        failures=(),
        trials=0,
        trial_successes=0,
        permits=(),
        actor="" if order is None else order.actor[:MAX_TEXT],
        reason=reason,
    )
    return _moved(circuit, opened, policy, now, cause=cause, order=order)


def _close(
    circuit: Circuit, policy: Policy, now: int, *, cause: str, order: Command | None = None
) -> Result:
    """Close with nothing left of before but the last error, which operators may still want."""
    closed = Circuit(
        epoch=next_epoch(circuit, now),
        since=now,
        actor="" if order is None else order.actor[:MAX_TEXT],
        reason=cause if order is None else order.reason[:MAX_TEXT],
        last_error=circuit.last_error,
    )
    return _moved(circuit, closed, policy, now, cause=cause, order=order)


def _moved(
    before: Circuit, after: Circuit, policy: Policy, now: int, *, cause: str, order: Command | None
) -> Result:
    """The circuit after a transition, with the event that tells of it."""
    then, mode = after.state, Mode.AUTO
    if after.override is not None:
        then, mode = CircuitState.OPEN, after.override.mode
    event = Event(
        epoch=after.epoch,
        at=now,
        before=effective(before, policy, now).state,
        after=then,
        mode=mode,
        cause=cause,
        actor="" if order is None else order.actor[:MAX_TEXT],
        reason="" if order is None else order.reason[:MAX_TEXT],
        failures=len(before.failures),
        # What opened it; to a command or to a close an old error would be no explanation.
        last_error=after.last_error if order is None and then is CircuitState.OPEN else "",
    )
    return after, (event,)
