"""What every backend is: the circuits of one namespace, and this process's part in them.

A backend keeps one :class:`View` per circuit, takes the outcomes of suspect calls and the
permits of trials to its store, and goes on alone when the store is away. What a store must
be able to do is the abstract methods at the end; the contract suite in
``tests/backends/test_contract.py`` is what they must keep.
"""

from __future__ import annotations

import abc
import functools
import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, ClassVar, Concatenate, ParamSpec, TypeVar

from circuitbreaker_django.backends.pending import Pending, Uncounted
from circuitbreaker_django.backends.process import Process, on_event_loop
from circuitbreaker_django.backends.store import (
    Changes,
    Declaration,
    Evidence,
    Fence,
    Order,
    OrderUnsure,
    Overview,
    Report,
    Stats,
    StoreBusy,
    StoreLost,
    StoreUnsure,
)
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import Circuit, Event, Grant
from circuitbreaker_django.core.detail import Detail
from circuitbreaker_django.core.errors import CircuitBackendError, CircuitOpenError
from circuitbreaker_django.core.gate import Bell
from circuitbreaker_django.core.news import command_applied, state_changed
from circuitbreaker_django.core.policy import Policy, micros, seconds
from circuitbreaker_django.core.states import CircuitState, Mode, Outcome
from circuitbreaker_django.core.tally import Seconds, seconds_of
from circuitbreaker_django.core.telling import keep, tell
from circuitbreaker_django.core.traffic import KEPT, MINUTE, Counts
from circuitbreaker_django.core.trial import Admission, Trial, rides_on_a_trial
from circuitbreaker_django.core.view import View

if TYPE_CHECKING:
    from circuitbreaker_django.core.breaker import CircuitBreaker

logger = logging.getLogger("circuitbreaker_django")

Clock = Callable[[], int]
P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B", bound="Backend")

#: Seconds that a caller may wait for a trial permit (rule 13).
PERMIT_PATIENCE = 0.05
#: Seconds that a command may wait for the store.
COMMAND_PATIENCE = 1.0
#: Seconds for which a process believes a "no permit now".
PAUSE = 1.0


def monotonic() -> int:
    """The host's monotonic clock in microseconds, the same for all processes of one boot."""
    return time.monotonic_ns() // 1000


def patience_left(patient_until: float) -> float:
    """Seconds that a caller may still wait, by ``time.monotonic()``; none on an event loop."""
    return 0.0 if on_event_loop() else max(0.0, patient_until - time.monotonic())


def operation(method: Callable[Concatenate[B, P], R]) -> Callable[Concatenate[B, P], R]:
    """Mark what may bring news about, or meet some: it is told at the end, under no lock."""

    @functools.wraps(method)
    def announcing(self: B, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        finally:
            self.announce()

    return announcing


class Backend(abc.ABC):
    """The circuits of one namespace.

    Args:
        clock: microseconds of a monotonic clock; tests inject one.
    """

    #: Whether other processes see and steer these circuits.
    shared: ClassVar[bool] = False
    #: Whether the store is a server, where registries of one ``LOCATION`` are apart all the same.
    separates: ClassVar[bool] = False
    #: Whether a failing caller waits for its turn to write (only where a turn is microseconds).
    queues: ClassVar[bool] = True
    #: Circuits that one delivery to the store is of, at most.
    batch: ClassVar[int | None] = None
    #: Microseconds that other processes need at most to tell of their calls (rule 7).
    gathering: ClassVar[int] = 0
    #: A fingerprint of this process's settings, told to operators where circuits are shared.
    digest: str = ""
    #: Seconds between two times that this process tells of its calls; 0: it never does (rule 23).
    stats_interval: float = 5.0
    #: What is kept of the messages of exceptions.
    error_detail: Detail = Detail()
    #: The alias of the registry whose circuits these are; listeners are told of it.
    registry: str | None = None

    def __init__(self, *, clock: Clock = monotonic) -> None:
        self.clock = clock
        #: The same clock for calls that have no time for microseconds.
        self.seconds: Seconds = (
            time.monotonic if clock is monotonic else seconds_of(lambda: self.clock())
        )
        #: What decides whether a call is among the share that is admitted while a circuit ramps up.
        self.chance: Callable[[], float] = random.random
        #: Told of a process's first rejection by an opening; not of each one.
        self.on_first_rejection: Callable[[CircuitOpenError], None] | None = None
        self.bell = Bell()
        self._incarnation = 0
        self._floor = 1
        self._rows: dict[str, Circuit] = {}
        self._views: dict[str, list[View]] = {}
        self._pending = Pending()
        self._uncounted = Uncounted(clock())
        #: The epoch of each circuit whose first rejection was told.
        self._told: dict[str, int] = {}
        #: The circuits that others may have moved since a change of them was last announced.
        self._unannounced: list[str] = []
        self._process = self._new_process()

    # -- what a breaker calls ---------------------------------------------------------------

    def new_view(self, breaker: CircuitBreaker, name: str) -> View:
        """A breaker's view of the circuit of that name."""
        with self._here().lock:
            view = View(breaker, name, self._row(name), self._incarnation)
            self._views.setdefault(name, []).append(view)
        return view

    def drop_view(self, view: View, heir: str) -> None:
        """Forget a breaker that nobody uses, and with its last view all that is kept of it.

        Args:
            view: the breaker's.
            heir: the name under which calls are told of that it has told nobody of. With a name
                each they would fill the memory while there is no store to tell.
        """
        with self._here().lock:
            self._uncounted.add(heir, view.untold())
            views = self._views.get(view.name, [])
            if view in views:
                views.remove(view)
            if not views:
                self._views.pop(view.name, None)
                self._uncounted.bequeath(view.name, heir)
                self._pending.evidence.pop(view.name, None)
                self._told.pop(view.name, None)

    def sync(self) -> None:
        """Act on what has changed in the store. Never raises."""

    @operation
    def count(
        self,
        view: View,
        epoch: int,
        policy: Policy,
        *,
        failed: bool,
        slow: bool = False,
        error: str = "",
        retry_after: float = 0,
        message: str = "",
    ) -> None:
        """A call that was admitted under ``epoch`` has ended, and is to be counted.

        Args:
            view: the breaker's.
            epoch: that the call was admitted under.
            policy: the breaker's.
            failed: whether it failed; a success only counts for rules that ask for it.
            slow: whether it took long.
            error: the class of the exception.
            retry_after: for how many seconds the failing answer asks to be left alone.
            message: of the exception.
        """
        self.sync()  # what has happened meanwhile may have made it void
        process = self._here()
        asked = micros(retry_after)
        with process.lock:
            if view.epoch != epoch:
                return
            now = self.clock()
            view.count(policy, now, failed=failed, slow=slow)
            tells = failed or slow or view.has_to_tell(policy, now)
            if tells:
                times = (now,) if failed else ()
                self._keep(view, policy, now, times, error, now + asked, message=message)
                if not failed and not slow:  # the newest failure was another call
                    error, message = view.circuit.last_error, view.circuit.last_message
                own = view.own_evidence(now, error, asked, message)
        if tells:
            self._flush(process, self._patience())
        with process.lock:
            if tells and view.epoch == epoch:
                jitter = micros(random.uniform(0, policy.recovery_timeout / 10))
                events = view.trip_on_own_evidence(policy, now, own, jitter)
                # What one process has seen may be enough for the store, which will tell of it.
                if not self.available or policy.quorum > 1 or policy.has_rates:
                    self._keep_own(view, events)
            if view.tally is not None:
                view.tally.wait(now, suspect=view.is_suspect(policy, now))

    @operation
    def admit(self, view: View, policy: Policy, name: str | None) -> Admission | CircuitOpenError:
        """Let a call pass, or not: the slow half of admission.

        Returns:
            The epoch of a closed circuit, a trial, ``None`` for a call inside of a trial, or
            the error to raise, when the call is rejected.
        """
        self.sync()
        process = self._here()
        patient_until = time.monotonic() + PERMIT_PATIENCE
        for _ in range(2):  # once more when the store knew of a newer epoch
            with process.lock:
                now = self.clock()
                view.open_gate(self.bell, policy, now)
                mode = core.mode_of(view.circuit, policy)
                share = core.share(view.circuit, policy, now)
                if mode is Mode.DISABLED:
                    return None
                if view.epoch and (share == 1 or self.chance() < share):
                    return view.epoch
                look = core.effective if mode is Mode.FORCED_OPEN else core.automatic
                seen = look(view.circuit, policy, now)
                if seen.state is CircuitState.HALF_OPEN and rides_on_a_trial(view, now):
                    return None
                paused = now < view.pause_until
                paper = core.paper(view.circuit)
            if seen.state is not CircuitState.HALF_OPEN:
                break
            trial = None if paused else self._try(process, view, policy, patient_until)
            if trial is not None:
                return trial
        if mode is Mode.METRICS_ONLY:
            self._spare(process, view, policy, now, paper)
            return None
        if seen.state is CircuitState.OPEN:
            wait = None if seen.wait is None else seconds(seen.wait)
        else:
            wait = min(PAUSE, seconds(max(0, view.pause_until - now)) or PAUSE)
        error = CircuitOpenError(name, seen.state, wait)
        self._tell(view, error)
        return error

    async def ask_ahead(self, view: View, policy: Policy) -> None:
        """Ask for what :meth:`admit` may need and an event loop must not wait for."""

    @operation
    def finish(
        self,
        trial: Trial,
        policy: Policy,
        outcome: Outcome,
        error: str = "",
        retry_after: float = 0,
        message: str = "",
    ) -> None:
        """A trial has ended; ``retry_after`` is what its failing answer asks for, in seconds."""
        if not trial.live:
            return
        trial.live = False
        process = self._here()
        if trial.pid != process.pid:
            return  # a fork inside of the trial: it is the parent's to report
        view = trial.view
        asked = micros(retry_after)
        if trial.local:
            self._finish_local(process, trial, policy, outcome, error, asked, message)
            return
        with process.lock:
            view.pause_until = 0
            self._pending.add_report(
                Report(
                    view.name,
                    trial.fence,
                    trial.token,
                    policy,
                    outcome,
                    error,
                    self.clock() + asked,
                    message,
                )
            )
        self._flush(process, self._patience())

    @operation
    def order(self, orders: Mapping[str, Order]) -> Mapping[str, Circuit]:
        """Apply an operator's commands, by name of circuit: all of them or none.

        Raises:
            CircuitConflictError: a circuit is not at the epoch that its command expects.
            CircuitBackendError: the store could not confirm them.
        """
        deadline = time.monotonic() + COMMAND_PATIENCE
        self.sync()
        process = self._here()
        try:
            with process.writing.taken(COMMAND_PATIENCE) as mine:
                if not mine:
                    raise StoreBusy("another thread of this process is writing")
                changes = self._command(process, orders, max(0.0, deadline - time.monotonic()))
                for name, (command, policy) in orders.items():
                    circuit, now = changes.circuits[name], self.clock()
                    keep(command_applied(self.registry, name, command, policy, circuit, now))
                self._adopt(process, changes)
        except StoreUnsure as error:
            raise OrderUnsure(f"it may have been applied, or not: {error}") from error
        except (StoreBusy, StoreLost) as error:
            raise CircuitBackendError(f"nothing was applied: {error}") from error
        self._flush(process, self._patience())
        return changes.circuits

    @property
    def problem(self) -> str | None:
        """Why the store cannot be used, if it cannot."""
        return None

    def describe(self) -> str:
        """Where the circuits are, in words for people; never with a password."""
        return "the memory of this process"

    def advice(self) -> list[str]:
        """What only the store can tell, and operators should know of."""
        return []

    def open(self, *, create: bool) -> Overview:
        """Open the store for an operator and see everything, or say why that cannot be.

        Raises:
            NoStore: there is none, and ``create`` is false.
            CircuitBackendError: it cannot be used.
        """
        return self.overview()

    def declare(self, declaration: Declaration) -> None:
        """Let operators know of a breaker."""

    def touch(self) -> None:
        """Called now and then, at the start of a request: a chance for what is overdue."""

    def publish(self) -> None:
        """Tell operators of this process and of what it has counted, now. Never raises."""

    def close(self) -> None:
        """Let go of everything that this process holds; the next use takes it up again."""
        self._shut_gates()

    def _shut_gates(self) -> None:
        """Make every breaker look again at its next call."""
        with self._here().lock:
            for views in self._views.values():
                for view in views:
                    view.shut()

    # -- this process's part ----------------------------------------------------------------

    @property
    def available(self) -> bool:
        """Whether the store could be used when it was last tried."""
        return True

    def _new_process(self) -> Process:
        return Process()

    def _here(self) -> Process:
        """This process's locks and files; compared by pid, for at-fork hooks do not always run."""
        process = self._process
        if process.pid != os.getpid():
            fresh = self._new_process()
            heir = process.heirs.setdefault(fresh.pid, fresh)  # the first thread to come makes it
            if heir is fresh:  # what is pending is the parent's to deliver
                self._pending, self._unannounced = Pending(), []
            self._process = process = heir
            if heir is fresh:  # and what is counted the parent's to tell of
                self._take_traffic()
        return process

    def _row(self, name: str) -> Circuit:
        return self._rows.get(name) or Circuit(epoch=self._floor)

    def _keep_row(self, name: str, circuit: Circuit) -> None:
        """Keep what the store says, unless something newer is known already."""
        known = self._rows.get(name)
        if known is None or circuit.epoch >= known.epoch:
            self._rows[name] = circuit

    def _keep(
        self,
        view: View,
        policy: Policy,
        now: int,
        times: tuple[int, ...] = (),
        error: str = "",
        retry_at: int = 0,
        spared: int = 0,
        paper: int = 0,
        message: str = "",
    ) -> None:
        """Keep for the store what it has not been told of."""
        tally = view.tally
        evidence = Evidence(
            fence=(view.incarnation, view.shared_epoch),
            policy=policy,
            times=times,
            last_error=error,
            slices=() if tally is None else tally.untold(now),
            streak=0 if tally is None else tally.streak,
            retry_at=retry_at,
            spared=spared,
            paper=paper,
            last_message=message,
        )
        self._pending.add(view.name, evidence, now)

    def _keep_contributions(self) -> None:
        """Keep what the others wait for: the calls of circuits that somebody has failed on."""
        now = self.clock()
        with self._here().lock:
            for views in self._views.values():
                for view in views:
                    policy = view.policy
                    if view.is_suspect(policy, now) or (view.is_open_alone and policy.has_rates):
                        self._keep(view, policy, now)

    @contextmanager
    def _telling(self, due: bool = True) -> Iterator[tuple[dict[str, Counts], int]]:
        """What was counted of calls and not told, for a block that takes it to the store (rule 23).

        It counts as told, at most once, unless the block says that nothing was applied. A block
        that tells it in parts takes out what was told.

        Args:
            due: whether it is time to; otherwise there is nothing.

        Yields:
            The counts by name of circuit, and the microseconds in which they were counted.
        """
        with self._here().lock:
            self._uncounted.telling += 1
            taken, age = self._take_traffic() if due else ({}, 0)
        try:
            yield taken, age
        except StoreUnsure:
            raise
        except (StoreBusy, StoreLost):
            with self._here().lock:
                self._uncounted.put_back(taken, age)
            raise
        finally:
            with self._here().lock:
                self._uncounted.end_telling()

    def _take_traffic(self) -> tuple[dict[str, Counts], int]:
        with self._here().lock:
            for views in self._views.values():
                for view in views:
                    self._uncounted.add(view.name, view.untold())
            return self._uncounted.take(self.clock())

    def _open_alone(self) -> tuple[str, ...]:
        """The circuits that are open in this process alone, while the store says otherwise."""
        now = self.clock()
        with self._here().lock:
            return tuple(
                name
                for name, views in self._views.items()
                if any(view.is_open_alone and view.rejects(now) for view in views)
            )

    def _spare(self, process: Process, view: View, policy: Policy, now: int, paper: int) -> None:
        """Count a call that would have been rejected."""
        with process.lock:
            self._keep(view, policy, now, spared=1, paper=paper)
        if self.queues:  # elsewhere there are better moments to write
            self._flush(process, self._patience())

    def _flush(self, process: Process, patience: float, *, insist: bool = False) -> None:
        """Bring to the store what is pending, if it is this thread's turn.

        A thread that does not get its turn leaves its part to the one that has it, which
        looks again after it has let go of the turn: so nothing is left behind (rule 27).

        Args:
            process: this process.
            patience: seconds to wait for other processes.
            insist: also when the store was busy a moment ago; not for callers.
        """
        while self._pending and (insist or self._may_write(process)):
            with process.writing.taken(inf if self.queues else 0) as mine:
                if not mine:
                    return
                changes = self._flush_once(process, patience)
                if changes is None:
                    return
                self._adopt(process, changes)

    def _may_write(self, process: Process) -> bool:
        """Whether a caller may try the store, or has to spare himself the wait."""
        return True

    def _flush_once(self, process: Process, patience: float) -> Changes | None:
        with process.lock:
            evidence, reports = self._pending.take(self.batch)
        try:
            return self._deliver(process, evidence, reports, patience)
        except (StoreBusy, StoreLost) as error:
            if isinstance(error, StoreUnsure):
                evidence = {}  # to count it twice would be worse; reports count once anyway
            with process.lock:
                self._pending.put_back(evidence, reports, self.clock())
            return None

    def _patience(self) -> float:
        """Seconds that a failing caller may wait for the store."""
        return 0.0

    def _adopt(self, process: Process, changes: Changes) -> None:
        """Believe what a visit to the store has brought about, in the same turn as the visit.

        Before that turn is over nobody can tell this process's own changes from the others'.
        """
        now = self.clock()
        with process.lock:
            if changes.incarnation == self._incarnation:
                for name, circuit in changes.circuits.items():
                    self._keep_row(name, circuit)
                    self._believe(name, circuit, changes.incarnation)
            for name, event in changes.events:
                circuit = changes.circuits[name]
                for view in self._views.get(name, ()):
                    view.announced = circuit
                keep(state_changed(self.registry, name, event, circuit, now, origin=True))

    def _believe(self, name: str, circuit: Circuit, incarnation: int) -> None:
        """Let every view have what the store says; under the process's lock.

        What that changes is told by the next :meth:`announce`, as others have brought it about.
        """
        for view in self._views.get(name, ()):
            if view.adopt(circuit, incarnation):
                self._unannounced.append(name)

    def _believe_quietly(self) -> None:
        """What this process finds when it comes is no news; under its lock."""
        for views in self._views.values():
            for view in views:
                view.announced = view.circuit

    def _keep_own(self, view: View, events: tuple[Event, ...]) -> None:
        """Keep what this process has brought about for itself alone."""
        now = self.clock()
        for event in events:
            # Epochs of its own say nothing of what is newer in the store.
            view.announced = replace(view.circuit, epoch=view.shared_epoch)
            keep(state_changed(self.registry, view.name, event, view.circuit, now, alone=True))

    def announce(self) -> None:
        """Tell the listeners what has happened, unless this thread still holds a lock."""
        process = self._here()
        if process.has_a_lock():
            return
        if self._unannounced:
            with process.lock:
                # While a thread visits the store, some may be its own; it comes here afterwards.
                if not process.is_visiting():
                    self._keep_seen()
        tell()

    def _keep_seen(self) -> None:
        """Keep what others have brought about."""
        now = self.clock()
        names, self._unannounced = self._unannounced, []
        for name in dict.fromkeys(names):  # there is one for each view
            views = self._views.get(name, [])
            events = [view.take_change(now) for view in views]
            if events and events[0] is not None:  # once, however many views there are
                keep(state_changed(self.registry, name, events[0], views[0].circuit, now))

    def _tell(self, view: View, error: CircuitOpenError) -> None:
        """Tell of a process's first rejection by an opening."""
        epoch = view.circuit.epoch
        if self.on_first_rejection is None or self._told.get(view.name) == epoch:
            return
        self._told[view.name] = epoch
        try:
            self.on_first_rejection(error)
        except Exception:
            logger.exception("the first rejection by circuit %r could not be told", view.name)

    def _try(
        self, process: Process, view: View, policy: Policy, patient_until: float
    ) -> Trial | None:
        """Ask the store for a permit, one thread at a time, each with a bound (rule 13).

        Args:
            process: this process.
            view: the breaker's.
            policy: the breaker's.
            patient_until: by ``time.monotonic()``; no call waits any longer.
        """
        if not self.available or view.local:
            return self._local_trial(process, view, policy)
        if not self._may_write(process):
            return None
        token = secrets.token_hex(8)
        try:
            with process.writing.taken(patience_left(patient_until)) as mine:
                now = self.clock()
                if not mine or view.epoch or now < view.pause_until:  # settled while it waited
                    return None
                fence = (view.incarnation, view.shared_epoch)
                patience = patience_left(patient_until)
                grant, changes = self._acquire(process, view.name, fence, token, policy, patience)
                self._adopt(process, changes)
        except StoreBusy:
            return None
        except StoreLost:
            return self._local_trial(process, view, policy)
        self._flush(process, self._patience())
        if grant.granted:
            return Trial(view, fence, token, now + micros(policy.trial_timeout), local=False)
        self._pause(view, grant)
        return None

    def _local_trial(self, process: Process, view: View, policy: Policy) -> Trial | None:
        """A process without its store runs at most one trial of its own, jittered (rule 14)."""
        token = secrets.token_hex(8)
        with process.lock:
            now = self.clock()
            if not view.local:
                view.go_local(now + micros(random.uniform(0, policy.recovery_timeout / 10)))
            epoch = view.circuit.epoch
            alone = replace(policy, half_open_max_calls=1)
            view.circuit, grant, events = core.acquire(view.circuit, epoch, token, alone, now)
            self._keep_own(view, events)
            if grant.granted:
                expires = now + micros(policy.trial_timeout)
                return Trial(view, (view.incarnation, epoch), token, expires, local=True)
            self._pause(view, grant)
        return None

    def _pause(self, view: View, denied: Grant) -> None:
        """Spare the next calls a question whose answer is known."""
        view.pause_until = self.clock() + min(denied.wait or 0, micros(PAUSE))

    def _finish_local(
        self,
        process: Process,
        trial: Trial,
        policy: Policy,
        outcome: Outcome,
        error: str,
        asked: int,
        message: str,
    ) -> None:
        view = trial.view
        incarnation, epoch = trial.fence
        with process.lock:
            view.pause_until = 0
            if view.local and view.incarnation == incarnation:
                circuit, events = core.report(
                    view.circuit,
                    epoch,
                    trial.token,
                    outcome,
                    policy,
                    self.clock(),
                    error,
                    asked,
                    message,
                )
                view.go_on(circuit)
                self._keep_own(view, events)

    # -- what a store must be able to do; each raises StoreBusy or StoreLost ------------------

    @abc.abstractmethod
    def _deliver(
        self,
        process: Process,
        evidence: Mapping[str, Evidence],
        reports: list[Report],
        patience: float,
    ) -> Changes:
        """Count calls and take reports, all or nothing."""

    @abc.abstractmethod
    def _acquire(
        self,
        process: Process,
        name: str,
        fence: Fence,
        token: str,
        policy: Policy,
        patience: float,
    ) -> tuple[Grant, Changes]:
        """Ask for a trial permit."""

    @abc.abstractmethod
    def _command(self, process: Process, orders: Mapping[str, Order], patience: float) -> Changes:
        """Apply commands, all or none; raises ``CircuitConflictError`` too."""

    @abc.abstractmethod
    def overview(self) -> Overview:
        """Everything, for operators."""

    @abc.abstractmethod
    def stats(
        self,
        names: Collection[str] | None = None,
        *,
        minutes: int = KEPT[MINUTE],
        day: bool = False,
    ) -> Mapping[str, Stats]:
        """The calls of breakers over time, of all processes, in one look.

        Args:
            names: of the breakers; by default all.
            minutes: how many of the last ones are asked for.
            day: whether the quarters of the last day are asked for, too.

        Returns:
            By name; those that nobody has called for so long are left out.
        """

    @abc.abstractmethod
    def events(
        self, limit: int = 100, names: Collection[str] | None = None
    ) -> list[tuple[str, Event]]:
        """The newest events of those breakers, or of any, newest first."""
