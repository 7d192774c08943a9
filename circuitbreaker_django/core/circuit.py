"""The shared record of one circuit, and the only code that knows what moves it.

Every function is pure: ``(circuit, input, policy, now) -> (circuit, events)``. Backends
apply them inside their own atomic step. All times are microseconds of the store's clock.

============ =============================================== =========================
stored       input                                           becomes
============ =============================================== =========================
closed       a rule is reached, a quorum has seen failures   open
closed       a failure while ramping up                      open, one opening more
open         ``retry_at`` reached                            open (*is* half-open)
half-open    a trial fails                                   open, one opening more
half-open    ``success_threshold`` trials succeed            closed (ramping up, if asked)
any          trip                                            open, its time restarted
any          hold, disable                                   as it was, override on top
any          metrics-only                                    closed on paper, what it was aside
held         enable, or the hold's time is over              open (*is* half-open)
disabled     enable, or its time is over                     as it was
metrics-only enable, or its time is over                     what was set aside
any          reset                                           closed, all cleared
============ =============================================== =========================

Whatever is not in the table changes nothing. An input that carries another epoch than the
circuit's is of an earlier life of it and is dropped (rule 3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from circuitbreaker_django.core import window
from circuitbreaker_django.core.policy import MAX_TRIAL_TIMEOUT, Policy, micros, seconds
from circuitbreaker_django.core.states import CircuitState, Mode, Outcome
from circuitbreaker_django.core.window import Slice

#: Permits remembered in one epoch, the live and those whose lease has run out, so that a late
#: report still counts. The oldest of the latter are forgotten first.
MAX_PERMITS: Final = 1064
#: The share of calls that is admitted right after a recovery.
RAMP_FLOOR: Final = 0.1
#: Texts from outside are cut to this many characters before they are stored.
MAX_TEXT: Final = 500


@dataclass(frozen=True, slots=True)
class Override:
    """An operator's will, on top of the automatic state that it leaves as it was (rule 19).

    ``AUTO`` is one too, where the policy's ``initial_mode`` is another. ``aside`` is the automatic
    circuit under ``METRICS_ONLY``, where the record itself is a shadow that moves on paper.
    """

    mode: Mode
    epoch: int
    since: int
    until: int | None
    actor: str
    reason: str
    aside: Circuit | None = None


@dataclass(frozen=True, slots=True)
class Permit:
    """A trial's lease; ``expires`` is fixed at the grant and nothing moves it (rule 11)."""

    token: str
    expires: int


@dataclass(frozen=True, slots=True)
class Witness:
    """A host or process that has seen failures, and when the last (rule 8)."""

    origin: str
    seen_at: int


@dataclass(frozen=True, slots=True)
class Circuit:
    """One circuit as the store keeps it.

    Attributes:
        epoch: of its life, at least 1; every transition and command begins a new one (rule 1).
        state: ``CLOSED`` or ``OPEN``; never ``HALF_OPEN``, which is derived.
        since: when the state began; opening again does not move it.
        retry_at: when an open circuit may be tried.
        openings: in a row; of a circuit that ramps up, those before.
        failures: the times of the newest, ascending; empty but in a closed circuit.
        slices: calls that were told of; empty but in a closed circuit with a rate rule.
        suspect_since: when the first of the failures or slow calls in ``slices`` was told of.
        witnesses: who has seen failures, and when the last; only where a quorum is asked for.
        spared: calls that it would have rejected while it moved on paper.
        trials: granted in this epoch.
        trial_successes: since it opened.
        permits: of this epoch that have not reported.
        override: an operator's will, which dominates while it lasts.
        actor, reason: who brought the state about, if a person did, and why.
        last_error, last_message: the class of the newest failure's exception, and what it said.
        last_error_at: when that failure was.
    """

    epoch: int
    state: CircuitState = CircuitState.CLOSED
    since: int = 0
    retry_at: int = 0
    openings: int = 0
    failures: tuple[int, ...] = ()
    slices: tuple[Slice, ...] = ()
    suspect_since: int = 0
    witnesses: tuple[Witness, ...] = ()
    spared: int = 0
    trials: int = 0
    trial_successes: int = 0
    permits: tuple[Permit, ...] = ()
    override: Override | None = None
    actor: str = ""
    reason: str = ""
    last_error: str = ""
    last_message: str = ""
    last_error_at: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """What one process has seen of calls that were admitted under ``epoch``.

    Attributes:
        epoch: of the closed circuit.
        ages: of the newest failures, in microseconds.
        last_error, last_message: the class of the newest failure's exception, and what it said.
        slices: all calls, where a rate is asked for, not told of before; in the store's time.
        streak: the failures in a row, up to the newest.
        retry_after: how long the failing answer asks to be left alone, in microseconds.
        spared: calls that would have been rejected, had the circuit not moved on paper only.
        paper: on which they were counted.
        origin: who tells this (rule 8).
        patience: for how long a rate waits for what other processes have to tell (rule 7).
    """

    epoch: int
    ages: tuple[int, ...] = ()
    last_error: str = ""
    slices: tuple[Slice, ...] = ()
    streak: int = 0
    retry_after: int = 0
    spared: int = 0
    paper: int = 0
    origin: str = ""
    patience: int = 0
    last_message: str = ""


class CommandKind(StrEnum):
    """What an operator may ask for."""

    TRIP = "trip"
    HOLD = "hold"
    DISABLE = "disable"
    METRICS_ONLY = "metrics_only"
    ENABLE = "enable"
    RESET = "reset"


#: The mode that a command begins.
MODES: Final = {
    CommandKind.HOLD: Mode.FORCED_OPEN,
    CommandKind.DISABLE: Mode.DISABLED,
    CommandKind.METRICS_ONLY: Mode.METRICS_ONLY,
}


@dataclass(frozen=True, slots=True)
class Command:
    """An operator's command.

    ``duration`` is in microseconds and for a mode only; ``expected_epoch`` makes the
    command fail when the circuit has moved on since the operator looked at it.
    """

    kind: CommandKind
    duration: int | None = None
    actor: str = ""
    reason: str = ""
    expected_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a circuit's history; ``cause`` says why and ``actor`` who, if a person did.

    ``failures``, ``calls`` and ``slow`` are those that counted at that moment.
    """

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
    calls: int = 0
    slow: int = 0
    last_message: str = ""


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
    """The circuit without a mode whose time is over; a hold leaves it half-open: a trial first."""
    override = circuit.override
    if override is None or override.until is None or now < override.until:
        return circuit
    return _without(override, circuit, override.until)


def mode_of(circuit: Circuit, policy: Policy) -> Mode:
    """Who decides, for a circuit that is settled."""
    return Mode(policy.initial_mode) if circuit.override is None else circuit.override.mode


def paper(circuit: Circuit) -> int:
    """Which paper a settled circuit moves on under ``METRICS_ONLY``: the epoch of the operator's
    order, or 0 where it is the policy's.
    """
    return 0 if circuit.override is None else circuit.override.epoch


def counts(circuit: Circuit, policy: Policy) -> bool:
    """Whether outcomes move a circuit that is settled, be it on paper."""
    return mode_of(circuit, policy) in (Mode.AUTO, Mode.METRICS_ONLY)


def effective(circuit: Circuit, policy: Policy, now: int) -> Effective:
    """The state as it is at ``now``, without any change."""
    circuit = settle(circuit, now)
    mode = mode_of(circuit, policy)
    if mode is Mode.AUTO:
        return automatic(circuit, policy, now)
    if mode is not Mode.FORCED_OPEN:
        return Effective(CircuitState.CLOSED, mode, 0)
    until = None if circuit.override is None else circuit.override.until
    return Effective(CircuitState.OPEN, mode, None if until is None else until - now)


def automatic(circuit: Circuit, policy: Policy, now: int) -> Effective:
    """The state below any mode; under ``METRICS_ONLY`` the one on paper."""
    mode = mode_of(circuit, policy)
    if circuit.state is CircuitState.CLOSED:
        return Effective(CircuitState.CLOSED, mode, 0)
    wait = clamp(circuit, policy, now).retry_at - now
    if wait > 0:
        return Effective(CircuitState.OPEN, mode, wait)
    return Effective(CircuitState.HALF_OPEN, mode, 0)


def share(circuit: Circuit, policy: Policy, now: int) -> float:
    """The share of calls that a closed circuit admits: less than 1 while it ramps up."""
    if circuit.state is CircuitState.OPEN or not circuit.openings or not policy.ramp_up:
        return 1.0
    return min(1.0, max(RAMP_FLOOR, (now - circuit.since) / micros(policy.ramp_up)))


def is_suspect(circuit: Circuit, policy: Policy, now: int) -> bool:
    """Whether somebody has told of a failure or a slow call in the window (rule 7)."""
    seen = window.total(circuit.slices, policy, now)
    return bool(seen.failures or seen.slow)


def is_blank(circuit: Circuit, policy: Policy, now: int) -> bool:
    """Whether nothing counts of what has ever happened to it: it is as if it were new."""
    circuit = settle(circuit, now)
    return (
        circuit.state is CircuitState.CLOSED
        and circuit.override is None
        and share(circuit, policy, now) == 1
        and not window.live(circuit.failures, policy, now)
        and not is_suspect(circuit, policy, now)
    )


def record(circuit: Circuit, batch: Batch, policy: Policy, now: int) -> Result:
    """Count calls of a closed circuit, and open it when a rule is reached."""
    circuit = settle(circuit, now)
    on_paper = mode_of(circuit, policy) is Mode.METRICS_ONLY
    if batch.spared and on_paper and batch.paper == paper(circuit):
        circuit = replace(circuit, spared=circuit.spared + batch.spared)
    closed = circuit.state is CircuitState.CLOSED and counts(circuit, policy)
    if batch.epoch != circuit.epoch or not closed:
        return circuit, ()
    circuit = _with_batch(circuit, batch, policy, now)
    relapse = batch.ages or any(one.failures or one.slow for one in batch.slices)
    if relapse and share(circuit, policy, now) < 1:
        why: str | None = "a relapse while it ramped up"
    else:
        complete = now - circuit.suspect_since >= batch.patience
        slices = circuit.slices if complete and is_suspect(circuit, policy, now) else ()
        why = window.why_tripped(circuit.failures, slices, batch.streak, policy, now)
    if why is None or not _has_quorum(circuit, policy, now):
        return circuit, ()
    return _open(circuit, policy, now, cause=why, asked=batch.retry_after)


def acquire(
    circuit: Circuit, epoch: int, token: str, policy: Policy, now: int
) -> tuple[Circuit, Grant, tuple[Event, ...]]:
    """Ask for a trial permit. Asking again with the same token changes nothing."""
    circuit = settle(circuit, now)
    closed = circuit.state is CircuitState.CLOSED
    if circuit.epoch != epoch or closed or not counts(circuit, policy):
        return circuit, Grant(False), ()
    circuit = clamp(circuit, policy, now)
    if now < circuit.retry_at:
        return circuit, Grant(False, circuit.retry_at - now), ()
    if any(permit.token == token for permit in circuit.permits):
        return circuit, Grant(True), ()
    live = running(circuit, now)
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
        mode=mode_of(circuit, policy),
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
    retry_after: int = 0,
    last_message: str = "",
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
        circuit = _with_error(circuit, last_error, last_message, now)
        return _open(circuit, policy, now, cause="a trial failed", asked=retry_after)
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
    if order.kind is CommandKind.ENABLE:
        return _enable(circuit, policy, now, order)
    epoch = next_epoch(circuit, now)
    before = circuit
    if circuit.override is not None and circuit.override.aside is not None:
        circuit = circuit.override.aside  # what was counted on paper is thrown away
    circuit = replace(circuit, override=None, permits=(), trials=0)
    mode = MODES[order.kind]
    override = Override(
        mode=mode,
        epoch=epoch,
        since=now,
        until=None if order.duration is None else now + order.duration,
        actor=order.actor[:MAX_TEXT],
        reason=order.reason[:MAX_TEXT],
        aside=circuit if mode is Mode.METRICS_ONLY else None,
    )
    if mode is Mode.METRICS_ONLY:
        circuit = Circuit(epoch=epoch, since=now)
    after = replace(circuit, epoch=epoch, override=override)
    return _moved(before, after, policy, now, cause=order.kind, order=order)


def clamp(circuit: Circuit, policy: Policy, now: int) -> Circuit:
    """The circuit with no longer a wait than the policy allows: clocks step back (rule 4)."""
    latest = now + micros(policy.longest_wait)
    if circuit.retry_at > latest:
        circuit = replace(circuit, retry_at=latest)
    if circuit.since > now:  # what has closed in the future would ramp up for ever
        circuit = replace(circuit, since=now)
    return circuit


def next_epoch(circuit: Circuit, now: int) -> int:
    """Later than every epoch before, also when a clock or a store began anew (rule 1)."""
    return max(now, circuit.epoch + 1)


def _without(override: Override, circuit: Circuit, now: int) -> Circuit:
    """The circuit after the end of its mode."""
    if override.mode is Mode.METRICS_ONLY:
        left = override.aside or Circuit(epoch=1, since=now)
        # A new epoch, for what was admitted on paper counts no more; the same by every clock, for
        # each process finds out by its own that the time is over.
        return replace(left, epoch=circuit.epoch + 1, override=None)
    if override.mode is not Mode.FORCED_OPEN:
        return replace(circuit, override=None)
    was_open = circuit.state is CircuitState.OPEN
    return replace(
        circuit,
        state=CircuitState.OPEN,
        since=circuit.since if was_open else override.since,
        retry_at=now,
        openings=max(1, circuit.openings),
        failures=(),
        slices=(),
        suspect_since=0,
        witnesses=(),
        trial_successes=0,
        override=None,
        actor=override.actor,
        reason="the hold is over",
    )


def _enable(circuit: Circuit, policy: Policy, now: int, order: Command) -> Result:
    """End the mode; where the policy begins with one, say so on top."""
    if mode_of(circuit, policy) is Mode.AUTO:
        return circuit, ()
    epoch = next_epoch(circuit, now)
    override = circuit.override
    if override is None:  # the mode is the one that the policy begins with
        override = Override(mode_of(circuit, policy), epoch, now, None, "", "")
    after = _without(override, circuit, now)
    if policy.initial_mode is not Mode.AUTO:
        actor, reason = order.actor[:MAX_TEXT], order.reason[:MAX_TEXT]
        override = Override(Mode.AUTO, epoch, now, None, actor, reason)
        after = replace(after, override=override)
    after = replace(after, epoch=epoch, permits=(), trials=0)
    return _moved(circuit, after, policy, now, cause=order.kind, order=order)


def _with_batch(circuit: Circuit, batch: Batch, policy: Policy, now: int) -> Circuit:
    """The circuit with what a process tells of its calls."""
    times = [now - max(0, age) for age in batch.ages]
    slices = window.merge(circuit.slices, batch.slices, policy, now) if policy.has_rates else ()
    was_suspect = is_suspect(circuit, policy, now)
    circuit = replace(
        circuit,
        failures=window.add(circuit.failures, times, policy),
        slices=slices,
    )
    if times:
        circuit = _with_error(circuit, batch.last_error, batch.last_message, max(times))
    if not was_suspect and is_suspect(circuit, policy, now):
        circuit = replace(circuit, suspect_since=now)
    if policy.quorum > 1:
        bad = [one.start for one in batch.slices if one.failures or one.slow]
        if times or bad:
            witness = Witness(batch.origin, max((*times, *bad)))
            others = (one for one in circuit.witnesses if one.origin != batch.origin)
            newest = sorted((*others, witness), key=lambda one: one.seen_at)
            circuit = replace(circuit, witnesses=tuple(newest[-policy.quorum :]))
    return circuit


def _with_error(circuit: Circuit, error: str, message: str, at: int) -> Circuit:
    return replace(
        circuit,
        last_error=error[:MAX_TEXT],
        last_message=message[:MAX_TEXT],
        last_error_at=at,
    )


def _has_quorum(circuit: Circuit, policy: Policy, now: int) -> bool:
    """Whether enough hosts have seen failures in the window (rule 8)."""
    if policy.quorum == 1:
        return True
    times = tuple(one.seen_at for one in circuit.witnesses)
    return len(window.live(times, policy, now)) >= policy.quorum


def running(circuit: Circuit, now: int) -> list[Permit]:
    """The permits of the trials that run: without those whose lease has run out (rule 11)."""
    return [permit for permit in circuit.permits if _is_live(permit, now)]


def _is_live(permit: Permit, now: int) -> bool:
    """Whether the lease runs; one that is longer than any can be is a clock's or store's fault."""
    return now < permit.expires <= now + micros(MAX_TRIAL_TIMEOUT)


def _wait(policy: Policy, openings: int, asked: int, epoch: int) -> int:
    """How long a circuit stays open, in microseconds (rule 16)."""
    try:
        wait = policy.recovery_timeout * float(policy.recovery_backoff) ** (openings - 1)
    except OverflowError:
        wait = policy.wait_max
    wait = min(max(wait, seconds(asked)), policy.wait_max)
    # By chance, and yet the same for whoever works it out: of the time of the opening.
    chance = epoch % 65_536 * 40_503 % 65_536 / 65_536
    return micros(wait * (1 + policy.recovery_jitter * chance))


def _open(
    circuit: Circuit,
    policy: Policy,
    now: int,
    *,
    cause: str,
    asked: int = 0,
    order: Command | None = None,
) -> Result:
    """Open, or open again with the time restarted; an operator's trip is no opening more."""
    was_open = circuit.state is CircuitState.OPEN
    if order is not None:
        reason = order.reason[:MAX_TEXT]
    else:
        reason = f"{cause}, last {circuit.last_error}" if circuit.last_error else cause
    epoch = next_epoch(circuit, now)
    if was_open or share(circuit, policy, now) < 1:
        openings = circuit.openings + (order is None)
    else:
        openings = 1
    opened = replace(
        circuit,
        epoch=epoch,
        state=CircuitState.OPEN,
        since=circuit.since if was_open else now,
        retry_at=now + _wait(policy, openings, asked, epoch + sum(circuit.failures)),
        openings=openings,
        failures=(),
        slices=(),
        suspect_since=0,
        witnesses=(),
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
    """Close; what is left of before is the last error, which operators may still want.

    After a recovery the mode stays, and while it ramps up the number of openings.
    """
    by_itself = order is None
    closed = Circuit(
        epoch=next_epoch(circuit, now),
        since=now,
        openings=circuit.openings if by_itself and policy.ramp_up else 0,
        spared=circuit.spared if by_itself else 0,
        override=circuit.override if by_itself else None,
        actor="" if order is None else order.actor[:MAX_TEXT],
        reason=cause if order is None else order.reason[:MAX_TEXT],
        last_error=circuit.last_error,
        last_message=circuit.last_message,
        last_error_at=circuit.last_error_at,
    )
    return _moved(circuit, closed, policy, now, cause=cause, order=order)


def _moved(
    before: Circuit, after: Circuit, policy: Policy, now: int, *, cause: str, order: Command | None
) -> Result:
    """The circuit after a transition, with the event that tells of it."""
    mode = mode_of(after, policy)
    # On paper the states of the paper, for those of the circuit do not change.
    look = automatic if order is None and mode is Mode.METRICS_ONLY else effective
    then = look(after, policy, now).state
    seen = window.total(before.slices, policy, now)
    # What opened it; to a command or to a close an old error would be no explanation.
    explains = order is None and then is CircuitState.OPEN
    event = Event(
        epoch=after.epoch,
        at=now,
        before=look(before, policy, now).state,
        after=then,
        mode=mode,
        cause=cause,
        actor="" if order is None else order.actor[:MAX_TEXT],
        reason="" if order is None else order.reason[:MAX_TEXT],
        failures=max(seen.failures, len(window.live(before.failures, policy, now))),
        last_error=after.last_error if explains else "",
        calls=seen.calls,
        slow=seen.slow,
        last_message=after.last_message if explains else "",
    )
    return after, (event,)
