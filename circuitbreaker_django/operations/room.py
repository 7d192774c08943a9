"""What operators see and do, for whoever shows it: from a process that serves no calls itself."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from circuitbreaker_django.backends.loading import load_backend_class, make_backend
from circuitbreaker_django.backends.store import NoStore, Overview, ProcessInfo, Stats
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import Circuit, Command, CommandKind, Event
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.core.traffic import KEPT, MINUTE
from circuitbreaker_django.environment import in_test_environment
from circuitbreaker_django.operations.catalogue import Catalogue
from circuitbreaker_django.operations.status import BreakerStatus, moment, status_of
from circuitbreaker_django.registry import Registry


class CannotSteer(CircuitBackendError):
    """A command would reach nobody; the message says why that may be."""


class Unreachable(CircuitBackendError):
    """A server does not answer, or not as it should; the message says what was seen of it now."""


class AppliedUnseen(CircuitBackendError):
    """A command was applied, but what has come of it could not be seen."""


class ControlRoom:
    """One registry, looked at and steered from outside of the processes that serve.

    It makes no store, unless an order is forced.

    Args:
        registry: the registry.

    Raises:
        CircuitBackendError: the store is there and cannot be used; of a server that is
            :class:`Unreachable`, for this process has only just come and cannot say since when.
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
        #: What is known of its breakers by name, as of the last look.
        self.known = Catalogue(registry, Overview(0, {}, {}, ()))
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
        return self.known.overview.processes

    @property
    def silent(self) -> Mapping[ProcessInfo, float]:
        """The processes that may run but were not heard of, and for how many seconds."""
        return self.known.overview.silent

    @property
    def advice(self) -> list[str]:
        """What only the store can tell, and operators should know of."""
        return [] if self.missing is not None else self._backend.advice()

    @property
    def differing(self) -> tuple[ProcessInfo, ...]:
        """The live processes that run with other settings than this one."""
        return self.known.differing

    def glance(self) -> dict[str, tuple[CircuitState, Mode]]:
        """State and mode of every known breaker: less than :meth:`status` says, and sooner."""
        overview, found = self.known.overview, {}
        unused = Circuit(epoch=overview.floor)
        for name in self.known.names():
            circuit = overview.circuits.get(name, unused)
            at_rest = circuit.state is CircuitState.CLOSED and circuit.override is None
            if at_rest and not self.known.begins_in_a_mode(name):
                # Whatever else its policy says; of a thousand those take most of the time.
                found[name] = (CircuitState.CLOSED, Mode.AUTO)
                continue
            seen = core.effective(circuit, self.known.policy(name), overview.now)
            found[name] = (seen.state, seen.mode)
        return found

    def status(
        self,
        names: Iterable[str],
        *,
        stats: bool = True,
        minutes: int = KEPT[MINUTE],
        day: bool = False,
    ) -> list[BreakerStatus]:
        """Those breakers, as they were at the last look, and their calls over time.

        Args:
            names: of breakers.
            stats: whether their calls over time are asked for; they take most of the time.
            minutes: of how many minutes; by default of an hour.
            day: whether those of the last day are asked for, too.
        """
        names = list(names)
        found = self._stats(names, minutes, day) if stats else {}
        alone: dict[str, list[ProcessInfo]] = {}
        for process in self.processes:
            for name in process.alone:
                alone.setdefault(name, []).append(process)
        return [
            status_of(name, self.known, found.get(name), tuple(alone.get(name, ())))
            for name in names
        ]

    def history(self, names: Collection[str], limit: int) -> list[tuple[datetime, str, Event]]:
        """What has happened to those breakers, or to any, newest first, and when."""
        if self.missing is not None:
            return []
        overview, found = self.known.overview, self._backend.events(limit, names or None)
        return [(moment(event.at, overview), name, event) for name, event in found]

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
                f"registry {alias!r} keeps separate circuits in each process, so no other one can "
                "steer them: use a shared backend"
            )
        if not self.processes and not force:
            raise CannotSteer(
                f"no live process uses {self.place}. {self._why_nobody()}. "
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
                    self.known.policy(name),
                )
                for name in names
            }
        )
        try:
            self.known = Catalogue(self.registry, self._backend.overview())
        except CircuitBackendError as error:
            raise AppliedUnseen(f"it was applied, but then: {error}") from error
        return self.status(names)

    def close(self) -> None:
        """Let go of the store."""
        if self.shared:
            self._backend.close()

    # -- parts ------------------------------------------------------------------------------

    def _open(self, *, create: bool) -> None:
        asked = time.perf_counter()
        try:
            self.known = Catalogue(self.registry, self._backend.open(create=create))
            if self._backend.separates:
                self.answered_in = time.perf_counter() - asked
        except NoStore as error:
            self.missing = str(error)
        except CircuitBackendError as error:
            if not self._backend.separates:
                raise CircuitBackendError(f"{self.place} cannot be used: {error}") from error
            spent = (time.perf_counter() - asked) * 1000
            raise Unreachable(
                f"{self.place} cannot be used now: {error} (asked for {spent:.0f} ms)"
            ) from error
        else:
            self.missing = None

    def _stats(self, names: list[str], minutes: int, day: bool) -> dict[str, Stats]:
        """The calls of those breakers over time, if anybody counts them."""
        if self.missing is not None or not self.registry.config.stats_interval:
            return {}
        try:
            found = self._backend.stats(names, minutes=minutes, day=day)
        except CircuitBackendError:  # all else is known
            return {}
        nothing = Stats(self.known.overview.now, self.known.overview.wall)
        return {name: found.get(name, nothing) for name in names}


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
