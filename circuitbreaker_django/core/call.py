"""A call from its admission to its end, and what its end means."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.fallback import Fallback
from circuitbreaker_django.core.kinds import is_awaitable
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.core.trial import Admission, Trial, go_inside, step_out

if TYPE_CHECKING:
    from circuitbreaker_django.core.breaker import CircuitBreaker

logger = logging.getLogger("circuitbreaker_django")


class Rules:
    """What the end of a call means. Whoever wraps more than plain functions refines it.

    Args:
        fallback: answers for rejected calls, and if it says so for those that have failed.
    """

    #: Classes of results that are looked at each time, be they awaitable or not. All other
    #: results are, unless the breaker judges results, successes.
    judged: tuple[type, ...] = ()

    def __init__(self, fallback: Fallback | None = None) -> None:
        self.fallback = fallback
        #: Answers for calls that have failed.
        self.instead = fallback if fallback is not None and fallback.on_failure else None

    def error(
        self, breaker: CircuitBreaker, error: BaseException, args: tuple[Any, ...]
    ) -> Outcome:
        """The outcome of a call that raised."""
        return breaker.classifier.classify(error)

    def result(self, breaker: CircuitBreaker, result: Any, args: tuple[Any, ...]) -> Outcome:
        """The outcome of a call that returned what is to be looked at."""
        classifier = breaker.classifier
        return classifier.judge(result) if classifier.judges_results else Outcome.SUCCESS

    def rejected(self, error: CircuitOpenError, args: tuple[Any, ...]) -> Any:
        """What the caller gets where no fallback answers: raises, or returns an answer."""
        raise error

    def takes_over(self, call: Call, result: Any) -> bool:
        """Whether the result of one of the ``judged`` classes has not ended the call yet.

        Then it is told to the call when it has.
        """
        return False


RULES = Rules()


class Call:
    """A call that was let through; its end is told to the breaker, once.

    Args:
        breaker: that has let it through.
        admission: what it was let through under.
        args, kwargs: its arguments.
        rules: say what its end means.
        since: when it began, as a number of ``nesting.moments``.
        started: the same by ``backend.seconds``; ``None`` where nobody asks.
    """

    __slots__ = ("admission", "args", "breaker", "kwargs", "rules", "since", "started")

    def __init__(
        self,
        breaker: CircuitBreaker,
        admission: Admission,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        rules: Rules,
        since: int,
        started: float | None = None,
    ) -> None:
        self.breaker = breaker
        self.admission = admission
        self.args = args
        self.kwargs = kwargs
        self.rules = rules
        self.since = since
        self.started = started

    # -- being inside of it -----------------------------------------------------------------

    def go_inside(self) -> None:
        """What the current thread or task calls from now on is called by this call."""
        if isinstance(self.admission, Trial):
            go_inside(self.admission)

    def step_out(self) -> None:
        """The call goes on elsewhere, or later."""
        if isinstance(self.admission, Trial):
            step_out(self.admission)

    # -- its end ----------------------------------------------------------------------------

    def end(self, outcome: Outcome, answer: object = None) -> None:
        """Tell how it ended."""
        self.breaker.leave(self.admission, outcome, answer, self.started, self.since)

    def failed(self, error: BaseException) -> bool:
        """Tell that it raised. Whether the fallback answers for it."""
        if self.admission is None and self.breaker.passive:
            return False
        try:
            outcome = self.rules.error(self.breaker, error, self.args)
        except Exception:  # of whoever refined the rules; the caller is to see his own
            logger.exception("an exception of circuit %r could not be judged", self.breaker.name)
            outcome = Outcome.IGNORED
        self.end(outcome, error)
        return outcome is Outcome.FAILURE and self.rules.instead is not None

    def finish(self, result: Any) -> Any:
        """Tell that the function returned, now or when what it returned has ended."""
        kind = type(result)
        if not _is_followed(kind, self.rules):
            if self._returned(result):
                return self.instead.give(self.args, self.kwargs)
            return result
        self.step_out()
        if issubclass(kind, asyncio.Future) and self.rules.instead is None:
            result.add_done_callback(self._done)
            return result
        return self.follow(lambda: result)

    async def follow(self, start: Callable[[], Awaitable[Any]]) -> Any:
        """Await what it starts, to its end."""
        self.go_inside()
        try:
            result = await start()
        except BaseException as error:
            if self.failed(error):
                return await self.instead.give_async(self.args, self.kwargs)
            raise
        return await self.finish_async(result)

    async def finish_async(self, result: Any) -> Any:
        """Tell that the async function returned."""
        if self._returned(result):
            return await self.instead.give_async(self.args, self.kwargs)
        return result

    @property
    def instead(self) -> Fallback:
        """What answers for it, where its end has said that the fallback does."""
        return cast(Fallback, self.rules.instead)

    def _returned(self, result: Any) -> bool:
        """Tell that it returned. Whether the fallback answers for it."""
        outcome = Outcome.SUCCESS
        judges_all = self.breaker.classifier.judges_results
        if judges_all or issubclass(type(result), self.rules.judged):
            try:
                outcome = self.rules.result(self.breaker, result, self.args)
                if outcome is Outcome.SUCCESS and self.rules.takes_over(self, result):
                    self.step_out()
                    return False
            except Exception:
                name = type(result).__name__
                logger.exception("a result of type %s could not be judged", name)
                outcome = Outcome.IGNORED
        self.end(outcome, result)
        return outcome is Outcome.FAILURE and self.rules.instead is not None

    def _done(self, future: asyncio.Future[Any]) -> None:
        # Not exception(): asyncio would no longer report an error that nobody fetches.
        error = asyncio.CancelledError() if future.cancelled() else future._exception
        if error is None:
            self._returned(future.result())
        else:
            self.failed(error)


def _is_followed(kind: type, rules: Rules) -> bool:
    """Whether the end of a result of this class is the end of the call.

    What can be awaited but also be entered or iterated over, as the requests of some clients
    can, is handed on as it is: nobody knows yet how it will be used.
    """
    return (
        is_awaitable(kind)
        and not issubclass(kind, rules.judged)
        and not hasattr(kind, "__aenter__")
        and not hasattr(kind, "__aiter__")
    )


def reject(
    error: CircuitOpenError, args: tuple[Any, ...], kwargs: dict[str, Any], rules: Rules
) -> Any:
    """What the caller of a sync function gets: raises, or returns an answer."""
    if rules.fallback is None:
        return rules.rejected(error, args)
    try:
        raise error  # so that it is the context of what the fallback raises
    except CircuitOpenError:
        return rules.fallback.give(args, kwargs)


async def reject_async(
    error: CircuitOpenError, args: tuple[Any, ...], kwargs: dict[str, Any], rules: Rules
) -> Any:
    """What the caller of an async function gets: raises, or returns an answer."""
    if rules.fallback is None:
        return rules.rejected(error, args)
    try:
        raise error
    except CircuitOpenError:
        return await rules.fallback.give_async(args, kwargs)
