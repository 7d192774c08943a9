"""One breaker as an operator sees it, read from the circuit that the store keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from circuitbreaker_django.backends.store import Overview, ProcessInfo, Stats
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core import window
from circuitbreaker_django.core.circuit import Circuit
from circuitbreaker_django.core.policy import Policy, seconds
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.operations.catalogue import Catalogue
from circuitbreaker_django.operations.looks import Look, look_of


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """One breaker as an operator sees it; moments are aware and in UTC.

    Attributes:
        registry: its alias.
        name: the breaker's.
        state: the effective one.
        mode: who decides, the circuit or an operator.
        mode_until: when a mode ends by itself; ``None`` without one or for one without end.
        reason: why it is so.
        updated_by: who brought it about, if a person did.
        updated_to: what that one has made of it; a mode of the settings is nobody's.
        since: when it opened, closed or was held; ``None`` when nothing has ever happened.
        retry_after: seconds until a call may pass; ``None`` when it is closed, or held without end.
        failures: that count towards its opening.
        failure_rate: the share of failures among the calls of the window; ``None`` when it is not
            closed, or no rule asks for it.
        slow_rate: the share of slow calls, likewise.
        calls_needed: calls that the window lacks for the two to count.
        would_reject: calls that passed under ``metrics_only`` and else would have been rejected.
        alone_in: the processes that have opened it for themselves only, while it is closed.
        last_error, last_message: the class of the newest failure's exception, and what it said.
        last_error_at: when that failure was; ``None`` when there was none.
        stats: its calls over time; ``None`` when nobody counts them, or they cannot be read.
        trials_running: the trials that are under way.
        policy: its effective numbers, by the settings of this process; what they leave open, as
            the last process that told of it has it.
        elsewhere: where live processes run with other settings, the options that the last one
            that told of it has other values of, and these values.
        where: it is declared, as ``file:line`` or in which setting; empty when nobody does.
        family: of a breaker by key, its family's name; empty for any other one.
        common_to: of a family's common breaker, the pattern of the breakers by key that it stands
            in for; empty for any other one.
        epoch: what an order may expect it to be at still.
    """

    registry: str
    name: str
    state: CircuitState
    mode: Mode
    mode_until: datetime | None
    reason: str
    updated_by: str
    updated_to: Look
    since: datetime | None
    retry_after: float | None
    failures: int
    failure_rate: float | None
    slow_rate: float | None
    calls_needed: int
    would_reject: int
    alone_in: tuple[ProcessInfo, ...]
    last_error: str
    last_message: str
    last_error_at: datetime | None
    stats: Stats | None
    trials_running: int
    policy: Policy
    elsewhere: Mapping[str, Any]
    where: str
    family: str
    common_to: str
    epoch: int


def status_of(
    name: str, known: Catalogue, stats: Stats | None, alone_in: tuple[ProcessInfo, ...]
) -> BreakerStatus:
    """That breaker at the moment of the overview.

    Args:
        name: the breaker's.
        known: what is known of the breakers of its registry.
        stats: its calls over time, if they are known.
        alone_in: the processes that have opened it for themselves only.
    """
    overview, policy = known.overview, known.policy(name)
    now = overview.now
    stored = overview.circuits.get(name, Circuit(epoch=overview.floor))
    circuit = core.settle(stored, now)
    seen = core.effective(circuit, policy, now)
    hold = circuit.override
    # One of mode AUTO only says that the circuit decides, where its settings began otherwise.
    said_by = circuit if hold is None or seen.mode is Mode.AUTO else hold
    since = said_by.since
    closed = seen.state is CircuitState.CLOSED
    mode, state = (Mode.AUTO, circuit.state) if hold is not said_by else (hold.mode, seen.state)
    counted = window.total(circuit.slices, policy, now)
    counts = circuit.state is CircuitState.CLOSED
    by_rate = counts and policy.failure_rate_threshold is not None
    by_time = counts and policy.slow_call_duration is not None
    # Where nobody has failed the calls are not counted together, and no rate needs more.
    suspect = core.is_suspect(circuit, policy, now)
    return BreakerStatus(
        registry=known.registry.config.alias,
        name=name,
        state=seen.state,
        mode=seen.mode,
        mode_until=None if hold is None or hold.until is None else moment(hold.until, overview),
        reason=said_by.reason,
        updated_by=said_by.actor,
        updated_to=look_of(state, mode),
        since=moment(since, overview) if since else None,
        retry_after=None if closed or seen.wait is None else seconds(seen.wait),
        failures=max(len(window.live(circuit.failures, policy, now)), counted.failures),
        failure_rate=counted.failures / max(1, counted.calls) if by_rate else None,
        slow_rate=counted.slow / max(1, counted.calls) if by_time else None,
        calls_needed=max(0, policy.minimum_calls - counted.calls) if suspect else 0,
        would_reject=circuit.spared,
        alone_in=alone_in if closed and seen.mode is Mode.AUTO else (),
        last_error=circuit.last_error,
        last_message=circuit.last_message,
        last_error_at=moment(circuit.last_error_at, overview) if circuit.last_error_at else None,
        stats=stats,
        trials_running=len(core.running(circuit, now)),
        policy=policy,
        elsewhere=known.elsewhere(name, policy),
        where=known.where(name),
        family=known.family_of(name),
        common_to=known.common_to(name),
        epoch=stored.epoch,
    )


def moment(at: int, overview: Overview) -> datetime:
    """A time of the store's clock on the calendar; the same however long ago the overview was."""
    return datetime.fromtimestamp(overview.wall - seconds(overview.now - at), UTC)
