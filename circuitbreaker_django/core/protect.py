"""Wrapping a function: the closed path as cheap as it gets, and the whole path beside it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, cast

from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.gate import Gate
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.core.tally import Tally
from circuitbreaker_django.core.trial import Admission, Trial, go_inside, step_out

if TYPE_CHECKING:
    from circuitbreaker_django.core.breaker import CircuitBreaker

logger = logging.getLogger("circuitbreaker_django")

Resolve = Callable[[], "CircuitBreaker"]

#: Before 3.12 asgiref marks functions for asyncio's test, since then for that of inspect.
iscoroutinefunction = (inspect if sys.version_info >= (3, 12) else asyncio).iscoroutinefunction

_NOT_PLAIN = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Rules:
    """What the end of a call means. Whoever wraps more than plain functions refines it."""

    #: Classes of results that are looked at each time; all other results are successes.
    judged: tuple[type, ...] = ()

    def error(
        self, breaker: CircuitBreaker, error: BaseException, args: tuple[Any, ...]
    ) -> Outcome:
        """The outcome of a call that raised."""
        return breaker.classifier.classify(error)

    def result(self, result: Any, args: tuple[Any, ...]) -> Outcome:
        """The outcome of a call that returned an instance of one of the ``judged`` classes."""
        return Outcome.SUCCESS

    def rejected(
        self, error: CircuitOpenError, func: Callable[..., Any], args: tuple[Any, ...]
    ) -> Any:
        """What the caller gets instead of the call: raises, or returns an answer."""
        raise error


RULES = Rules()


class _Unbound:
    """Stands for the view until the first call has found the breaker."""

    gate = Gate(cast("CircuitBreaker", None))


_UNBOUND = _Unbound()


def protect(func: Callable[..., Any], resolve: Resolve, rules: Rules = RULES) -> Callable[..., Any]:
    """The function, protected by the breaker that ``resolve`` gives at the time of the call.

    Raises:
        TypeError: a class, a generator function, or nothing that can be called.
    """
    refuse(func)
    wrap = _protect_async if is_async(func) else _protect_sync
    return functools.wraps(func)(wrap(func, resolve, rules))


def is_async(func: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine, as far as can be told before the call."""
    return bool(iscoroutinefunction(func) or iscoroutinefunction(getattr(func, "__call__", None)))  # noqa: B004


def is_plain(func: object) -> bool:
    """Whether it is surely a sync function or method (a tenth of the cost of finding out more)."""
    if type(func) is MethodType:
        func = func.__func__
    return (
        type(func) is FunctionType
        and not func.__code__.co_flags & _NOT_PLAIN
        and not func.__dict__  # where functions are marked as async
    )


def refuse(func: object) -> None:
    """Refuse what would be left unprotected without anybody noticing."""
    if isinstance(func, type):
        raise TypeError(
            f"{func.__name__} is a class: decorate its methods, or a view class with "
            '@method_decorator(..., name="dispatch")'
        )
    kind = type(func).__name__
    if isinstance(func, staticmethod) or (not callable(func) and hasattr(func, "__get__")):
        raise TypeError(f"a {kind} is no function yet: put the breaker's decorator below @{kind}")
    if not callable(func):
        raise TypeError(f"{func!r} cannot be called, so it cannot be protected")
    called: Any = func
    while isinstance(called, functools.partial):
        called = called.func
    for candidate in (called, getattr(called, "__call__", None)):  # noqa: B004
        if inspect.isgeneratorfunction(candidate) or inspect.isasyncgenfunction(candidate):
            name = getattr(called, "__qualname__", None) or repr(called)
            raise TypeError(
                f"{name} is a generator function: its body runs after the call, where the breaker "
                "would not see it fail; protect the calls inside of it, or use `with breaker:`"
            )


def _protect_sync(func: Callable[..., Any], resolve: Resolve, rules: Rules) -> Callable[..., Any]:
    view: Any = _UNBOUND
    harmless: type = type(None)
    watched: tuple[type, ...] = ()

    def protected(*args: Any, **kwargs: Any) -> Any:
        nonlocal view, harmless, watched
        gate = view.gate
        word = gate.word
        if word is not None and word[()] != gate.admit:
            tally = gate.tally
            if tally is not None and word[()] == gate.tally_admit:
                # Successes matter too. In place, for a call would cost 1.3 empty wrappers.
                seconds = tally.seconds
                started = seconds()
                try:
                    result = func(*args, **kwargs) if kwargs else func(*args)
                except Exception as error:
                    _failed(gate.breaker, gate.epoch, error, args, rules, started)
                    raise
                ended = seconds()
                if ended < tally.due and ended - started < tally.limit and type(result) is harmless:
                    tally.calls += 1.0
                    return result
                if not issubclass(type(result), watched):
                    harmless = type(result)
                return _finish(gate.breaker, gate.epoch, result, args, rules, started)
            rejection = gate.rejection()
            if rejection is not None:
                if rules is RULES:  # raised here, for each frame on its way costs 100 ns
                    raise rejection
                return rules.rejected(rejection, func, args)
            breaker = resolve()
            # What is looked at is known only now, for options may come from settings.
            judges = breaker.classifier.judges_results
            watched = (object,) if judges else (CoroutineType, *rules.judged)
            harmless = _Unbound if judges else type(None)
            view = breaker.view
            return run(breaker, func, args, kwargs, rules)
        gate.calls += 1.0
        try:
            # Without keywords to merge the call is cheaper by 0.2 to 0.35 of an empty wrapper.
            result = func(*args, **kwargs) if kwargs else func(*args)
        except Exception as error:
            _failed(gate.breaker, gate.epoch, error, args, rules)
            raise
        # One comparison with the type that was last found harmless, instead of two tests.
        if type(result) is not harmless:
            # By type: isinstance would ask a lazy object for its __class__, and so wake it up.
            if issubclass(type(result), watched):
                return _finish(gate.breaker, gate.epoch, result, args, rules)
            harmless = type(result)
        return result

    return protected


def _protect_async(
    func: Callable[..., Coroutine[Any, Any, Any]], resolve: Resolve, rules: Rules
) -> Callable[..., Any]:
    # The lines of _protect_sync again: a call for them would cost as much as an empty wrapper.
    view: Any = _UNBOUND
    judged: tuple[type, ...] = ()

    async def protected(*args: Any, **kwargs: Any) -> Any:
        nonlocal view, judged
        gate = view.gate
        word = gate.word
        if word is not None and word[()] != gate.admit:
            if gate.tally is None or word[()] != gate.tally_admit:
                breaker = resolve()
                judged = (object,) if breaker.classifier.judges_results else rules.judged
                view = breaker.view
                return await run_async(breaker, func, args, kwargs, rules)
            return await _run_async_counted(gate, gate.tally, func, args, kwargs, rules, judged)
        gate.calls += 1.0
        try:
            result = await func(*args, **kwargs)
        except Exception as error:
            _failed(gate.breaker, gate.epoch, error, args, rules)
            raise
        if judged and issubclass(type(result), judged):
            gate.breaker.leave(gate.epoch, _judge(gate.breaker, result, args, rules), result)
        return result

    return protected


async def _run_async_counted(
    gate: Gate,
    tally: Tally,
    func: Callable[..., Coroutine[Any, Any, Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    rules: Rules,
    judged: tuple[type, ...],
) -> Any:
    """The short path of an async call where successes matter too."""
    gate.calls += 1.0
    started = tally.seconds()
    try:
        result = await func(*args, **kwargs)
    except Exception as error:
        _failed(gate.breaker, gate.epoch, error, args, rules, started)
        raise
    ended = tally.seconds()
    if ended < tally.due and ended - started < tally.limit and not judged:
        tally.calls += 1.0
    else:
        gate.breaker.leave(gate.epoch, _judge(gate.breaker, result, args, rules), result, started)
    return result


def run(
    breaker: CircuitBreaker,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    rules: Rules = RULES,
) -> Any:
    """The whole path of a sync call."""
    if breaker.passive:
        return func(*args, **kwargs)
    admission = breaker.enter()
    if isinstance(admission, CircuitOpenError):
        return rules.rejected(admission, func, args)
    if isinstance(admission, Trial):
        go_inside(admission)
    started = breaker.backend.seconds()
    try:
        result = func(*args, **kwargs)
    except BaseException as error:
        _failed(breaker, admission, error, args, rules, started)
        raise
    return _finish(breaker, admission, result, args, rules, started)


async def run_async(
    breaker: CircuitBreaker,
    func: Callable[..., Coroutine[Any, Any, Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    rules: Rules = RULES,
) -> Any:
    """The whole path of an async call."""
    if breaker.passive:
        return await func(*args, **kwargs)
    admission = breaker.enter()
    if isinstance(admission, CircuitOpenError):
        return rules.rejected(admission, func, args)
    started = breaker.backend.seconds()
    start = functools.partial(func, *args, **kwargs)
    return await _follow(breaker, admission, start, args, rules, started)


def _finish(
    breaker: CircuitBreaker,
    admission: Admission,
    result: Any,
    args: tuple[Any, ...],
    rules: Rules,
    started: float | None = None,
) -> Any:
    if type(result) is CoroutineType:  # a sync function such as View.dispatch of an async view
        if isinstance(admission, Trial):
            step_out(admission)
        return _follow(breaker, admission, lambda: result, args, rules, started)
    breaker.leave(admission, _judge(breaker, result, args, rules), result, started)
    return result


async def _follow(
    breaker: CircuitBreaker,
    admission: Admission,
    start: Callable[[], Awaitable[Any]],
    args: tuple[Any, ...],
    rules: Rules,
    started: float | None,
) -> Any:
    if isinstance(admission, Trial):
        go_inside(admission)
    try:
        result = await start()
    except BaseException as error:
        _failed(breaker, admission, error, args, rules, started)
        raise
    breaker.leave(admission, _judge(breaker, result, args, rules), result, started)
    return result


def _failed(
    breaker: CircuitBreaker,
    admission: Admission,
    error: BaseException,
    args: tuple[Any, ...],
    rules: Rules,
    started: float | None = None,
) -> None:
    try:
        outcome = rules.error(breaker, error, args)
    except Exception:  # of whoever refined the rules; the caller is to see his own
        logger.exception("an exception of circuit %r could not be judged", breaker.name)
        outcome = Outcome.IGNORED
    breaker.leave(admission, outcome, error, started)


def _judge(breaker: CircuitBreaker, result: Any, args: tuple[Any, ...], rules: Rules) -> Outcome:
    outcome = Outcome.SUCCESS
    if issubclass(type(result), rules.judged):
        try:
            outcome = rules.result(result, args)
        except Exception:
            logger.exception("a result of type %s could not be judged", type(result).__name__)
            return Outcome.IGNORED
    if outcome is Outcome.SUCCESS and breaker.classifier.judges_results:
        return breaker.classifier.judge(result)
    return outcome
