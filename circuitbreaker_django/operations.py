"""What operators see and do, for whoever shows it: from a process that serves no calls itself."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final

from circuitbreaker_django import conf, families
from circuitbreaker_django.backends.loading import load_backend_class, make_backend
from circuitbreaker_django.backends.store import (
    HISTORY,
    KEYED,
    Declaration,
    NoStore,
    Overview,
    ProcessInfo,
    Stats,
)
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core import options, window
from circuitbreaker_django.core.circuit import Circuit, Command, CommandKind, Event
from circuitbreaker_django.core.errors import CircuitBackendError, UnknownBreakerError
from circuitbreaker_django.core.policy import MAX_DURATION, POLICY_FIELDS, Policy, micros, seconds
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.declarations import Declared
from circuitbreaker_django.registry import Registry, in_test_environment

_DURATION: Final = re.compile(r"(?=[0-9])(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")


class CannotSteer(CircuitBackendError):
    """A command would reach nobody; the message says why that may be."""


class AppliedUnseen(CircuitBackendError):
    """A command was applied, but what has come of it could not be seen."""


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
        policy: its effective numbers.
        where: it is declared, as ``file:line`` or in which setting; empty when nobody does.
        family: of a breaker by key, its family's name; empty for any other one.
        epoch: what an order may expect it to be at still.
    """

    registry: str
    name: str
    state: CircuitState
    mode: Mode
    mode_until: datetime | None
    reason: str
    updated_by: str
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
    policy: Policy
    where: str
    family: str
    epoch: int


class ControlRoom:
    """One registry, looked at and steered from outside of the processes that serve.

    It makes no store, unless an order is forced.

    Args:
        registry: the registry.

    Raises:
        CircuitBackendError: the store is there and cannot be used.
        ImproperlyConfigured: the settings are wrong.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        #: Whether other processes have the same circuits.
        self.shared = load_backend_class(registry.config).shared and not in_test_environment()
        #: Why there is nothing to see, if so.
        self.missing: str | None = None
        self._backend = (
            make_backend(registry.config, observer=True) if self.shared else registry.backend
        )
        self._overview = Overview(0, {}, {}, ())
        #: Seconds that a server took to tell all it knows; ``None`` where there is no server.
        self.answered_in: float | None = None
        try:
            self._open(create=False)
        except BaseException:
            self.close()
            raise

    # -- seeing -----------------------------------------------------------------------------

    @property
    def place(self) -> str:
        """Where the circuits are kept, for people."""
        return self._backend.describe()

    @property
    def in_memory(self) -> bool:
        """Whether what is stored ends with the host's uptime (rule 4)."""
        return self.place.startswith("/dev/shm/")

    @property
    def processes(self) -> tuple[ProcessInfo, ...]:
        """The live processes that share the circuits: those that were heard of just now."""
        return self._overview.processes

    @property
    def silent(self) -> Mapping[ProcessInfo, float]:
        """The processes that may run but were not heard of, and for how many seconds."""
        return self._overview.silent

    @property
    def advice(self) -> list[str]:
        """What only the store can tell, and operators should know of."""
        return [] if self.missing is not None else self._backend.advice()

    @property
    def differing(self) -> tuple[ProcessInfo, ...]:
        """The live processes that run with other settings than this one."""
        own = self.registry.config.digest()
        return tuple(process for process in self.processes if process.digest != own)

    def names(self, wanted: Iterable[str] = ()) -> list[str]:
        """Every known name: of the settings, of anybody's code, and of the store (rule 23).

        Args:
            wanted: names; those that a breaker by key would have are known too, for of a family
                not all are told of.
        """
        overview = self._overview
        by_key = [name for name in wanted if self.family_of(name)]
        return sorted({*self.registry, *overview.declarations, *overview.circuits, *by_key})

    def family_of(self, name: str) -> str:
        """The family of a breaker by key, here or in anybody's code; empty for any other name."""
        family, _ = families.split(name)
        published = self._overview.declarations.get(family)
        if published is not None and published.policy.get(KEYED) is True:
            return family
        return self.registry.family_of(name)

    def choose(self, wanted: Iterable[str]) -> list[str]:
        """The names asked for, as :func:`choose` has it, or all of them when none is.

        Raises:
            UnknownBreakerError: one is not known, or a pattern fits none.
        """
        wanted = list(wanted)
        known = self.names(wanted)
        return choose(wanted, known, f"registry {self.registry.config.alias!r}") or known

    def glance(self) -> dict[str, tuple[CircuitState, Mode]]:
        """State and mode of every known breaker: less than :meth:`status` says, and sooner."""
        now, circuits = self._overview.now, self._overview.circuits
        unused = Circuit(epoch=self._overview.floor)
        found = {}
        for name in self.names():
            seen = core.effective(circuits.get(name, unused), self._policy(name), now)
            found[name] = (seen.state, seen.mode)
        return found

    def status(
        self, names: Iterable[str], *, stats: bool = True, day: bool = False
    ) -> list[BreakerStatus]:
        """Those breakers, as they were at the last look, and their calls over time.

        Args:
            names: of breakers.
            stats: whether their calls over time are asked for; they take most of the time.
            day: whether those of the last day are, and not of the last hour only.
        """
        names = list(names)
        found = self._stats(names, day) if stats else {}
        alone: dict[str, list[ProcessInfo]] = {}
        for process in self.processes:
            for name in process.alone:
                alone.setdefault(name, []).append(process)
        return [self._status(name, found.get(name), tuple(alone.get(name, ()))) for name in names]

    def origins(self, name: str) -> dict[str, str]:
        """Where each option of the breaker is set that is not a default, in words (rule 23)."""
        config, published = self.registry.config, self._published(name)
        places = dict.fromkeys(config.defaults, conf.where(config.alias, "DEFAULTS"))
        if published is not None:  # it does not say which of its options are defaults
            known = options.make_policy(config.defaults)
            there = {key: value for key, value in published.policy.items() if key in POLICY_FIELDS}
            differing = [key for key, value in there.items() if value != getattr(known, key)]
            places |= dict.fromkeys(differing, published.where)
        for source, said in self.registry.sources_of(name):
            if isinstance(source, Declared):
                places |= dict.fromkeys(said, source.where)
            else:
                places |= dict.fromkeys(said, conf.where(config.alias, "BREAKERS", source))
        return places

    # -- steering ---------------------------------------------------------------------------

    def refuse_in_vain(self, *, force: bool = False) -> None:
        """Refuse to give orders that nobody would follow.

        Args:
            force: even when no live process is there to hear of it.

        Raises:
            CannotSteer: the message says why.
        """
        alias = self.registry.config.alias
        if not self.registry.config.enabled:
            raise CannotSteer(
                f"registry {alias!r} is switched off (ENABLED is False): all calls pass, whatever "
                "its circuits are"
            )
        if not self.shared:
            raise CannotSteer(
                f"registry {alias!r} keeps circuits in each process alone, so no other process can "
                "steer them: use a shared backend"
            )
        if not self.processes and not force:
            raise CannotSteer(
                f"no live process uses {self.place}, so nothing was done. {self._why_nobody()}. "
                "The command breaker does it anyway with --force"
            )

    def _why_nobody(self) -> str:
        if self.silent:
            return silence(self.silent)
        return (
            "The workers may be stopped, may not have used a breaker yet, or may run in another "
            "container, on another host, or with another place (NAMESPACE, LOCATION)"
        )

    def order(
        self,
        names: Iterable[str],
        kind: CommandKind,
        *,
        duration: int | None = None,
        actor: str,
        reason: str,
        force: bool = False,
        expected: Mapping[str, int] | None = None,
    ) -> list[BreakerStatus]:
        """Apply a command to those breakers, all or none, and return what they are now.

        Args:
            names: of known breakers.
            kind: what to do.
            duration: of a mode, in microseconds.
            actor: who asks.
            reason: why.
            force: even when no live process is there to hear of it; makes the store if need be.
            expected: the epochs that those breakers must be at still, by name.

        Raises:
            CannotSteer: nobody would hear of it.
            CircuitConflictError: one has changed since; nothing was applied.
            AppliedUnseen: it was applied, but the store was lost before it could be seen.
            OrderUnsure: the store did not answer; it may have been applied, or not.
            CircuitBackendError: the store could not confirm it; nothing was applied.
        """
        self.refuse_in_vain(force=force)
        if self.missing is not None:
            self._open(create=True)
        names = list(names)
        expected = expected or {}
        self._backend.order(
            {
                name: (
                    Command(kind, duration, actor, reason, expected.get(name)),
                    self._policy(name),
                )
                for name in names
            }
        )
        try:
            self._overview = self._backend.overview()
        except CircuitBackendError as error:
            raise AppliedUnseen(f"it was applied, but then: {error}") from error
        return self.status(names)

    def close(self) -> None:
        """Let go of the store."""
        if self.shared:
            self._backend.close()

    def history(self, names: Collection[str], limit: int) -> list[tuple[datetime, str, Event]]:
        """What has happened to those breakers, or to any, newest first, and when."""
        if self.missing is not None:
            return []
        events = self._backend.events(HISTORY)
        found = [(name, event) for name, event in events if not names or name in names]
        now = self._overview.now
        return [(_moment(event.at, now), name, event) for name, event in found[:limit]]

    # -- parts ------------------------------------------------------------------------------

    def _open(self, *, create: bool) -> None:
        try:
            self._backend.open(create=create)
            started = time.perf_counter()
            self._overview = self._backend.overview()
            if self._backend.separates:
                self.answered_in = time.perf_counter() - started
        except NoStore as error:
            self.missing = str(error)
        except CircuitBackendError as error:
            raise CircuitBackendError(f"{self.place} cannot be used: {error}") from error
        else:
            self.missing = None

    def _policy(self, name: str) -> Policy:
        """As settings and code say here; what they leave open, as was published (rule 23)."""
        config, here = self.registry.config, self.registry.said_of(name)
        published = self._published(name)
        said = published.policy if published else {}
        there = {key: value for key, value in said.items() if key in POLICY_FIELDS}
        try:
            return options.make_policy({**config.defaults, **there, **here})
        except (TypeError, ValueError):  # published by a process of another release
            return options.make_policy({**config.defaults, **here})

    def _stats(self, names: list[str], day: bool) -> dict[str, Stats]:
        """The calls of those breakers over time, if anybody counts them."""
        if self.missing is not None or not self.registry.config.stats_interval:
            return {}
        try:
            found = self._backend.stats(names, day=day)
        except CircuitBackendError:  # all else is known
            return {}
        nothing = Stats(self._overview.now, time.time())
        return {name: found.get(name, nothing) for name in names}

    def _status(
        self, name: str, stats: Stats | None, alone_in: tuple[ProcessInfo, ...]
    ) -> BreakerStatus:
        overview, policy = self._overview, self._policy(name)
        now = overview.now
        stored = overview.circuits.get(name, Circuit(epoch=overview.floor))
        circuit = core.settle(stored, now)
        seen = core.effective(circuit, policy, now)
        hold = circuit.override
        # One of mode AUTO only says that the circuit decides, where its settings began otherwise.
        said_by = circuit if hold is None or seen.mode is Mode.AUTO else hold
        since = said_by.since
        closed = seen.state is CircuitState.CLOSED
        counted = window.total(circuit.slices, policy, now)
        counts = circuit.state is CircuitState.CLOSED
        by_rate = counts and policy.failure_rate_threshold is not None
        by_time = counts and policy.slow_call_duration is not None
        # Where nobody has failed the calls are not counted together, and no rate needs more.
        suspect = core.is_suspect(circuit, policy, now)
        return BreakerStatus(
            registry=self.registry.config.alias,
            name=name,
            state=seen.state,
            mode=seen.mode,
            mode_until=None if hold is None or hold.until is None else _moment(hold.until, now),
            reason=said_by.reason,
            updated_by=said_by.actor,
            since=_moment(since, now) if since else None,
            retry_after=None if closed or seen.wait is None else seconds(seen.wait),
            failures=max(len(window.live(circuit.failures, policy, now)), counted.failures),
            failure_rate=counted.failures / max(1, counted.calls) if by_rate else None,
            slow_rate=counted.slow / max(1, counted.calls) if by_time else None,
            calls_needed=max(0, policy.minimum_calls - counted.calls) if suspect else 0,
            would_reject=circuit.spared,
            alone_in=alone_in if closed and seen.mode is Mode.AUTO else (),
            last_error=circuit.last_error,
            last_message=circuit.last_message,
            last_error_at=_moment(circuit.last_error_at, now) if circuit.last_error_at else None,
            stats=stats,
            policy=policy,
            where=self._where(name),
            family=self.family_of(name),
            epoch=stored.epoch,
        )

    def _where(self, name: str) -> str:
        published = self._published(name)
        if published is not None:
            return published.where
        return self.registry.where(name) if name in self.registry else ""

    def _published(self, name: str) -> Declaration | None:
        """What was published of a breaker; of one by key that was not, that of its family."""
        declarations = self._overview.declarations
        return declarations.get(name) or declarations.get(self.family_of(name))


def choose(wanted: Iterable[str], known: Collection[str], where: str) -> list[str]:
    """The known names that are asked for, by name or by pattern (``fnmatchcase``), each once.

    A known name is never read as a pattern.

    Args:
        wanted: names and patterns.
        known: names.
        where: they are known, in words.

    Raises:
        UnknownBreakerError: one is not known, or a pattern fits none; the message names the
            nearest, or all when none is near.
    """
    chosen: dict[str, None] = {}
    problems = []
    for name in wanted:
        is_pattern = name not in known and families.is_pattern(name)
        fitting = [each for each in known if fnmatchcase(each, name)] if is_pattern else [name]
        chosen.update(dict.fromkeys(fitting))
        if is_pattern and not fitting:
            problems.append(f"no breaker fits {name!r} in {where}{_hint(name, known)}")
        elif not is_pattern and name not in known:
            problems.append(f"no breaker {name!r} in {where}{_hint(name, known)}")
    if problems:
        raise UnknownBreakerError(". ".join(problems))
    return list(chosen)


def _hint(name: str, known: Collection[str]) -> str:
    if not known:
        return "; none is known yet"
    if close := difflib.get_close_matches(name, known):
        return f"; did you mean {' or '.join(close)}?"
    listed = ", ".join(sorted(known)[:10])
    return f"; known are: {listed}" + (f" and {len(known) - 10} more" if len(known) > 10 else "")


def silence(silent: Mapping[ProcessInfo, float]) -> str:
    """What it means that those processes are silent, for people; without a full stop.

    Args:
        silent: processes, at least one, and the seconds since each was heard of.
    """
    many, listed = len(silent) > 1, sorted(process.pid for process in silent)
    pids = ", ".join(map(str, listed[:10])) + ", …" * (len(listed) > 10)
    they = "they" if many else "it"
    return (
        f"{len(silent)} process{'es were' if many else ' was'} not heard of for "
        f"{max(silent.values()):.0f} s (pid {pids}): {they} may be cut off from the store and go "
        f"on alone ({'their' if many else 'its'} log says why), be idle where no threads run, or "
        "be gone"
    )


def parse_duration(text: str) -> int:
    """Microseconds of ``90s``, ``10m``, ``2h`` or ``1h30m``.

    Raises:
        ValueError: it is none of these, nothing, or too long.
    """
    match = _DURATION.fullmatch(text)
    hours, minutes, secs = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + secs
    if not match:
        raise ValueError("give a duration with its unit, as 90s, 10m, 2h or 1h30m")
    if not 0 < total <= MAX_DURATION:
        raise ValueError(f"give a duration from 1s to {MAX_DURATION // 3600:.0f}h")
    return micros(total)


def event_as_data(registry: str, at: datetime, name: str, event: Event) -> dict[str, Any]:
    """One line of the history as plain values: for JSON, with keys that stay."""
    return {
        "registry": registry,
        "name": name,
        "at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "before": event.before,
        "after": event.after,
        "mode": event.mode,
        "cause": event.cause,
        "actor": event.actor or None,
        "reason": event.reason or None,
        "failures": event.failures,
        "calls": event.calls,
        "slow": event.slow,
        "last_error": event.last_error or None,
        "last_error_message": event.last_message or None,
    }


def _moment(at: int, now: int) -> datetime:
    """A time of the store's clock on the calendar."""
    return datetime.fromtimestamp(time.time() - seconds(now - at), UTC)
