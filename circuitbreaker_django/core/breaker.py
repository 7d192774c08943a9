"""CircuitBreaker: what a developer holds in hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack, overload

from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.block import BlockExit, arriving
from circuitbreaker_django.core.call import RULES, Rules
from circuitbreaker_django.core.circuit import Command, CommandKind
from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.fallback import NOTHING, make_fallback
from circuitbreaker_django.core.kinds import is_plain
from circuitbreaker_django.core.nesting import remember, was_counted
from circuitbreaker_django.core.options import BreakerOptions, make
from circuitbreaker_django.core.policy import check_duration, micros
from circuitbreaker_django.core.protect import call_any, protect, run
from circuitbreaker_django.core.states import CircuitState, Mode, Outcome
from circuitbreaker_django.core.telling import rejection_listeners, tell_rejection
from circuitbreaker_django.core.trial import (
    Admission,
    ExcInfo,
    Trial,
    come_out,
    enter_by_hand,
    go_inside,
    rides_on_a_trial,
)
from circuitbreaker_django.core.view import View

if TYPE_CHECKING:
    from circuitbreaker_django.backends.base import Backend

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("circuitbreaker_django")

#: The longest name of a breaker, in characters.
MAX_NAME = 200


class CircuitBreaker:
    """Rejects calls of a dependency that fails, and lets trials find out when it is well again.

    Use it as a decorator, with :meth:`call`, or as a (sync or async) context manager. One
    breaker may be used by any number of threads and tasks at once; it holds no lock while
    the protected call runs.

    Args:
        name: at most 200 printable characters; optional for a breaker of its own.
        backend: where the circuit lives; by default in this object alone.
        **options: all of :class:`circuitbreaker_django.core.options.BreakerOptions`, such as
            ``failure_threshold``, ``recovery_timeout`` and ``exceptions``; each has a default.

    Raises:
        TypeError, ValueError: an argument is of a wrong type or out of range; the message
            names it and what is allowed.
    """

    __slots__ = ("__weakref__", "backend", "classifier", "name", "passive", "policy", "view")

    def __init__(
        self,
        name: str | None = None,
        *,
        backend: Backend | None = None,
        **options: Unpack[BreakerOptions],
    ) -> None:
        if name is not None:
            check_name(name)
        elif backend is not None:
            raise ValueError("name is needed for a breaker that lives in a backend")
        self.name = name
        self.policy, self.classifier = make(options)
        #: Whether calls pass without any protection or count.
        self.passive = False
        if backend is None:
            # The one look upwards: a breaker of its own needs somewhere to live.
            from circuitbreaker_django.backends.memory import MemoryBackend

            backend = MemoryBackend()
        self.backend: Backend = backend
        self.view: View = backend.new_view(self, name or "")

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r}>"

    # -- calling ----------------------------------------------------------------------------

    def call(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, protected.

        With an async function it returns an awaitable, with a generator function a generator,
        that are protected to their end.

        Raises:
            CircuitOpenError: the function was not called.
            TypeError: a class, or nothing that can be called.
        """
        result: R = (
            run(self, func, args, kwargs) if is_plain(func) else call_any(self, func, args, kwargs)
        )
        return result

    def __call__(self, func: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function, sync or async, or a generator function; its signature stays.

        Raises:
            TypeError: a class, or nothing that can be called.
        """
        return protect(func, lambda *args, **kwargs: self)

    @overload
    def protect(self, func: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def protect(
        self, func: None = None, /, *, fallback: Any = ..., fallback_on_failure: bool = False
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def protect(
        self,
        func: Callable[P, R] | None = None,
        /,
        *,
        fallback: Any = NOTHING,
        fallback_on_failure: bool = False,
    ) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorate a function, with something to give instead of its answer.

        Args:
            func: where it is used as ``@breaker.protect``.
            fallback: answers for calls that were rejected: a callable, which gets the call's
                arguments, or the answer itself. Of an async function it may be async. Of a
                generator function it is iterated over. What it raises reaches the caller.
            fallback_on_failure: whether it answers also for calls that have failed; of a
                generator only while it has given no item. Exceptions that are ignored, such as
                another breaker's rejection, reach the caller.

        Raises:
            TypeError: what cannot be decorated, an async fallback of a sync function, or
                ``fallback_on_failure`` without a fallback.
        """
        fallback = make_fallback(fallback, fallback_on_failure)
        rules = RULES if fallback is None else Rules(fallback)

        def decorate(func: Callable[P, R]) -> Callable[P, R]:
            return protect(func, lambda *args, **kwargs: self, rules)

        return decorate if func is None else decorate(func)

    def __enter__(self) -> Self:
        gate = self.view.gate
        word = gate.word
        if word is None or word[()] == gate.admit_blocks:
            gate.calls += 1.0
            return self
        block = arriving.get()
        arriving.set(None)
        admission = self.enter()
        if isinstance(admission, CircuitOpenError):
            raise admission
        if isinstance(admission, Trial):
            go_inside(admission)
        if block is not None and block.is_of(self):
            block.enter(admission, self.backend.seconds())
        else:
            enter_by_hand(self.view, admission)
        return self

    async def __aenter__(self) -> Self:
        await self._await_permit()
        return self.__enter__()

    if TYPE_CHECKING:

        def __exit__(self, *exc_info: *ExcInfo) -> None: ...

        async def __aexit__(self, *exc_info: *ExcInfo) -> None: ...

    else:
        __exit__ = BlockExit("__exit__")
        __aexit__ = BlockExit("__aexit__")

    # -- admission and outcome --------------------------------------------------------------

    def enter(self) -> Admission | CircuitOpenError:
        """Ask to call. The admission goes to :meth:`leave`, once; an error says that there is none.

        The error is returned and not raised, since raising it twice would cost the most.
        """
        if self.passive:
            return None
        view = self.view
        gate = view.gate
        if gate.is_open:
            gate.calls += 1.0
            return gate.epoch
        rejection = gate.rejection()
        if rejection is not None:
            return rejection
        try:
            answer = self.backend.admit(view, self.policy, self.name)
        except Exception:
            # A fault of ours or of a backend must not become the caller's.
            logger.exception("the call of circuit %r passes unprotected", self.name)
            return None
        view = self.view  # another one, where that has brought a breaker by key back
        if isinstance(answer, CircuitOpenError):
            view.rejected += 1
            logger.debug("%s", answer)
            if rejection_listeners:
                tell_rejection(self.backend, answer)
        else:
            view.gate.calls += 1.0
        return answer

    async def enter_async(self) -> Admission | CircuitOpenError:
        """:meth:`enter` on an event loop, which goes on while a permit is on its way."""
        await self._await_permit()
        return self.enter()

    async def _await_permit(self) -> None:
        if self.passive or self.view.gate.is_open:
            return
        try:
            await self.backend.ask_ahead(self.view, self.policy)
        except Exception:  # as in enter()
            logger.exception("a permit of circuit %r could not be asked for ahead", self.name)

    def leave(
        self,
        admission: Admission,
        outcome: Outcome,
        answer: object = None,
        started: float | None = None,
        since: float = inf,
    ) -> None:
        """Tell how the call ended. Never raises, so that the caller gets his own result.

        Args:
            admission: of :meth:`enter`.
            outcome: what the end means.
            answer: the exception, or a result that is a failure.
            started: when the call began, by ``backend.seconds``; ``None`` if nobody knows.
            since: the same as a number of ``nesting.moments``; infinite if nobody knows.
        """
        if not admission:
            return
        view = self.view
        if outcome is Outcome.SUCCESS and not isinstance(admission, Trial):
            tally = view.tally
            if tally is None:
                return
            if admission == view.epoch and tally.passes(started):
                view.gate.calls -= 1.0  # from now on the tally's to tell
                return
        try:
            self._count_end(view, admission, outcome, answer, started, since)
        except Exception:
            logger.exception("an outcome of circuit %r was lost", self.name)
        finally:
            if isinstance(admission, Trial):
                come_out(admission)

    def _count_end(
        self,
        view: View,
        admission: int | Trial,
        outcome: Outcome,
        answer: object,
        started: float | None,
        since: float,
    ) -> None:
        policy, backend = self.policy, self.backend
        if outcome is Outcome.FAILURE and isinstance(answer, BaseException):
            if was_counted(view, answer, since):
                return
            if admission == view.epoch:  # others are a trial's, or will be dropped
                remember(view, answer)
        slow = (
            started is not None
            and policy.slow_call_duration is not None
            and outcome is not Outcome.IGNORED
            and backend.seconds() - started >= policy.slow_call_duration
        )
        failed, ignored = outcome is Outcome.FAILURE, outcome is Outcome.IGNORED
        error, message = "slow call" if slow else "", ""
        wait = 0.0
        if failed:
            error = ""
            if isinstance(answer, BaseException):
                error, message = type(answer).__qualname__, backend.error_detail.of(answer)
            wait = self.classifier.retry_after(answer) or 0.0
        if isinstance(admission, Trial):
            if slow:  # what would open it again cannot close it
                outcome = Outcome.FAILURE
            backend.finish(admission, policy, outcome, error, wait, message)
        elif not ignored:
            backend.count(
                view,
                admission,
                policy,
                failed=failed,
                slow=slow,
                error=error,
                retry_after=wait,
                message=message,
            )
        view = self.view  # perhaps another one, as in enter()
        view.slow += slow
        view.failures += failed
        view.ignored += ignored

    def leave_block(
        self,
        admission: Admission,
        error: BaseException | None,
        started: float | None = None,
        since: float = inf,
    ) -> None:
        """Tell how a ``with`` block ended."""
        if admission:
            outcome = Outcome.SUCCESS if error is None else self.classifier.classify(error)
            self.leave(admission, outcome, error, started, since)

    def record_success(self) -> None:
        """Tell of a success of a call that was made elsewhere.

        It counts as an empty call would that succeeds: not at all while the circuit is open, as
        a trial while it is half-open. Never raises.
        """
        self._record(Outcome.SUCCESS, None)

    def record_failure(self, error: BaseException | None = None) -> None:
        """Tell of a failure of a call that was made elsewhere, or whose error was handled.

        It counts as an empty call would that fails: not at all while the circuit is open, as a
        trial while it is half-open. Inside of a trial that trial's own end decides. Never raises.

        Args:
            error: what went wrong; shown to operators, and asked by ``retry_after``.
        """
        self._record(Outcome.FAILURE, error)

    def _record(self, outcome: Outcome, error: BaseException | None) -> None:
        admission = self.enter()
        if not isinstance(admission, CircuitOpenError):
            self.leave(admission, outcome, error)

    # -- state and commands -----------------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """The effective state at this moment. Reading it changes nothing and needs no traffic."""
        return self._effective().state

    @property
    def mode(self) -> Mode:
        """Who decides: ``"auto"``, or an operator's ``"forced_open"``, ``"disabled"`` or
        ``"metrics_only"``.
        """
        return self._effective().mode

    def trip(
        self,
        *,
        hold: bool = False,
        duration: float | None = None,
        reason: str = "",
        actor: str = "",
    ) -> None:
        """Open the circuit, for everybody who shares it.

        Without ``hold`` or ``duration`` it opens as failures would: a trial follows after
        ``recovery_timeout`` and may close it. A circuit that is held stays held.

        Args:
            hold: keep it open until :meth:`enable` or :meth:`reset`.
            duration: keep it open for this many seconds; then trials decide.
            reason: why; at most 500 characters are kept.
            actor: who; at most 500 characters are kept.

        Raises:
            CircuitBackendError: the store could not confirm it; nothing was applied.
            TypeError, ValueError: an argument is of a wrong type or out of range.
        """
        if not isinstance(hold, bool):
            raise TypeError(f"hold must be True or False, not {hold!r}")
        if duration is not None:
            if hold:
                raise ValueError("hold and duration: give one of them")
            self._order(CommandKind.HOLD, _duration(duration), reason, actor)
        else:
            self._order(CommandKind.HOLD if hold else CommandKind.TRIP, None, reason, actor)

    def disable(self, *, duration: float | None = None, reason: str = "", actor: str = "") -> None:
        """Let all calls pass and count nothing, for everybody who shares the circuit.

        What was counted before stays, and counts again when the mode ends; but for what only one
        process knows of it, which are rows of failures and, for rates, calls not told of.

        Args:
            duration: seconds until the mode ends by itself; by default it ends with
                :meth:`enable` or :meth:`reset`.
            reason: why; at most 500 characters are kept.
            actor: who; at most 500 characters are kept.

        Raises:
            CircuitBackendError: the store could not confirm it; nothing was applied.
            TypeError, ValueError: an argument is of a wrong type or out of range.
        """
        self._order(CommandKind.DISABLE, _duration(duration), reason, actor)

    def metrics_only(
        self, *, duration: float | None = None, reason: str = "", actor: str = ""
    ) -> None:
        """Let all calls pass, and find out what would have been rejected, for everybody.

        A second circuit opens and recovers on paper meanwhile; it is thrown away when the mode
        ends. Arguments and errors are those of :meth:`disable`.
        """
        self._order(CommandKind.METRICS_ONLY, _duration(duration), reason, actor)

    def enable(self, *, reason: str = "", actor: str = "") -> None:
        """End a mode, for everybody, and keep what was counted before it.

        A circuit that was held open becomes half-open: a trial comes first.

        Raises:
            CircuitBackendError: the store could not confirm it; nothing was applied.
            TypeError: an argument is of a wrong type.
        """
        self._order(CommandKind.ENABLE, None, reason, actor)

    def reset(self, *, reason: str = "", actor: str = "") -> None:
        """Close the circuit for everybody; counters and any hold are cleared.

        Raises:
            CircuitBackendError: the store could not confirm it; nothing was applied.
            TypeError: an argument is of a wrong type.
        """
        self._order(CommandKind.RESET, None, reason, actor)

    def allows(self) -> bool:
        """Whether a call would pass now. Asking changes nothing and takes no permit.

        While the circuit ramps up this is ``True``, though only a share of the calls passes.
        """
        seen = self._effective()
        if seen.state is not CircuitState.HALF_OPEN:
            return seen.state is CircuitState.CLOSED
        view, now = self.view, self.backend.clock()
        if rides_on_a_trial(view, now):
            return True
        circuit = core.settle(view.circuit, now)  # a mode may be over that nobody has looked at
        # A process alone runs one trial at a time (rule 14).
        policy = replace(self.policy, half_open_max_calls=1) if view.local else self.policy
        token = ""  # of nobody
        grant = core.acquire(circuit, circuit.epoch, token, policy, now)[1]
        return grant.granted and now >= view.pause_until

    def _order(self, kind: CommandKind, duration: int | None, reason: str, actor: str) -> None:
        for argument, value in (("reason", reason), ("actor", actor)):
            if not isinstance(value, str):
                raise TypeError(f"{argument} must be a string, not {value!r}")
        command = Command(kind, duration, actor, reason)
        self.backend.order({self.view.name: (command, self.policy)})

    def _effective(self) -> core.Effective:
        if self.passive:
            return core.Effective(CircuitState.CLOSED, Mode.AUTO, 0)
        self.backend.sync()
        return core.effective(self.view.circuit, self.policy, self.backend.clock())


def _duration(duration: float | None) -> int | None:
    """In the microseconds of a command."""
    if duration is None:
        return None
    check_duration("duration", duration)
    return micros(duration)


def check_name(name: object) -> None:
    """Refuse what cannot be the name of a breaker.

    Raises:
        TypeError: not a string.
        ValueError: empty, longer than 200 characters, or with characters that do not print.
    """
    allowed = f"name must be a string of 1 to {MAX_NAME} printable characters"
    if not isinstance(name, str):
        raise TypeError(f"{allowed}, not {name!r}")
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"{allowed}, not {name[:MAX_NAME]!r}")
