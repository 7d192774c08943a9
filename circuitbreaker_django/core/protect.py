"""Wrapping a function: the closed path as cheap as it gets, and the whole path beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

from circuitbreaker_django.core.call import RULES, Call, Rules, reject, reject_async
from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.gate import Gate
from circuitbreaker_django.core.iterate import protect_async_generator, protect_generator
from circuitbreaker_django.core.kinds import Kind, is_awaitable, kind_of, refuse
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.core.tally import Tally
from circuitbreaker_django.core.trial import Trial, go_inside

if TYPE_CHECKING:
    from circuitbreaker_django.core.breaker import CircuitBreaker

#: Finds the breaker; gets the arguments of the call.
Resolve = Callable[..., "CircuitBreaker"]


#: Lets nobody pass: a call that comes to it has to find the breaker.
_UNBOUND = Gate(cast("CircuitBreaker", None))


def protect(
    func: Callable[..., Any], resolve: Resolve, rules: Rules = RULES, *, each: bool = False
) -> Callable[..., Any]:
    """The function, protected by the breaker that ``resolve`` gives at the time of the call.

    Args:
        func: of any kind: sync or async, a generator function or an async one.
        resolve: gets the arguments of the call.
        rules: what the end of a call means.
        each: whether each call may have another breaker.

    Raises:
        TypeError: a class, a descriptor, nothing that can be called, or a fallback of ``rules``
            that cannot answer for this function.
    """
    refuse(func)
    kind = kind_of(func)
    if rules.fallback is not None:
        rules.fallback.check(func, kind)
    wrap = (_PROTECT_EACH if each else _PROTECT)[kind]
    return functools.wraps(func)(wrap(func, resolve, rules))


def call_any(
    breaker: CircuitBreaker,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Call a function of any kind.

    Raises:
        TypeError: a class, a descriptor, or nothing that can be called.
    """
    refuse(func)
    return _PROTECT_EACH[kind_of(func)](func, lambda *_, **__: breaker, RULES)(*args, **kwargs)


def _protect_sync(func: Callable[..., Any], resolve: Resolve, rules: Rules) -> Callable[..., Any]:
    bound = _UNBOUND
    harmless = harmless_too = type(None)
    judged = rules.judged

    def protected(*args: Any, **kwargs: Any) -> Any:
        nonlocal bound, harmless, harmless_too
        gate = bound
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
                    gate.calls += 1.0
                    call = Call(gate.breaker, gate.epoch, args, kwargs, rules, started)
                    if call.failed(error):
                        return call.instead.give(args, kwargs)
                    raise
                ended = seconds()
                if ended < tally.due and ended - started < tally.limit and type(result) is harmless:
                    tally.calls += 1.0
                    return result
                gate.calls += 1.0
                if not is_awaitable(type(result)) and not issubclass(type(result), judged):
                    harmless = type(result)
                return Call(gate.breaker, gate.epoch, args, kwargs, rules, started).finish(result)
            rejection = gate.rejection()
            if rejection is not None:
                if rules is RULES:  # raised here, for each frame on its way costs 100 ns
                    raise rejection
                return reject(rejection, args, kwargs, rules)
            breaker = resolve(*args, **kwargs)
            try:
                return run(breaker, func, args, kwargs, rules)
            finally:
                bound = _gate_of(breaker)
        gate.calls += 1.0
        try:
            # Without keywords to merge the call is cheaper by 0.2 to 0.35 of an empty wrapper.
            result = func(*args, **kwargs) if kwargs else func(*args)
        except Exception as error:
            call = Call(gate.breaker, gate.epoch, args, kwargs, rules)
            if call.failed(error):
                return call.instead.give(args, kwargs)
            raise
        # Comparisons with the two types that were last found harmless, instead of tests of two
        # empty wrappers' cost. No set of types: a metaclass may have made them unhashable.
        if type(result) is not harmless and type(result) is not harmless_too:
            if is_awaitable(type(result)) or issubclass(type(result), judged):
                return Call(gate.breaker, gate.epoch, args, kwargs, rules).finish(result)
            harmless, harmless_too = type(result), harmless
        return result

    return protected


def _protect_async(
    func: Callable[..., Coroutine[Any, Any, Any]], resolve: Resolve, rules: Rules
) -> Callable[..., Any]:
    # The lines of _protect_sync again: a call for them would cost as much as an empty wrapper.
    bound = _UNBOUND
    judged = rules.judged

    async def protected(*args: Any, **kwargs: Any) -> Any:
        nonlocal bound
        gate = bound
        word = gate.word
        if word is not None and word[()] != gate.admit:
            tally = gate.tally
            if tally is not None and word[()] == gate.tally_admit:
                return await _run_async_counted(gate, tally, func, args, kwargs, rules)
            breaker = resolve(*args, **kwargs)
            try:
                return await run_async(breaker, func, args, kwargs, rules)
            finally:
                bound = _gate_of(breaker)
        gate.calls += 1.0
        try:
            result = await func(*args, **kwargs)
        except Exception as error:
            call = Call(gate.breaker, gate.epoch, args, kwargs, rules)
            if call.failed(error):
                return await call.instead.give_async(args, kwargs)
            raise
        if judged and issubclass(type(result), judged):
            return await Call(gate.breaker, gate.epoch, args, kwargs, rules).finish_async(result)
        return result

    return protected


async def _run_async_counted(
    gate: Gate,
    tally: Tally,
    func: Callable[..., Coroutine[Any, Any, Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    rules: Rules,
) -> Any:
    """The short path of an async call where successes matter too."""
    started = tally.seconds()
    try:
        result = await func(*args, **kwargs)
    except Exception as error:
        gate.calls += 1.0
        call = Call(gate.breaker, gate.epoch, args, kwargs, rules, started)
        if call.failed(error):
            return await call.instead.give_async(args, kwargs)
        raise
    ended = tally.seconds()
    if ended < tally.due and ended - started < tally.limit and not rules.judged:
        tally.calls += 1.0
        return result
    gate.calls += 1.0
    return await Call(gate.breaker, gate.epoch, args, kwargs, rules, started).finish_async(result)


def _gate_of(breaker: CircuitBreaker) -> Gate:
    """The gate that the next call may pass by; none where each result is to be judged."""
    gate = breaker.view.gate
    # Asked after the gate was taken: who changes it shuts that gate afterwards.
    return _UNBOUND if breaker.classifier.judges_results else gate


def _protect_each_sync(
    func: Callable[..., Any], resolve: Resolve, rules: Rules
) -> Callable[..., Any]:
    def protected(*args: Any, **kwargs: Any) -> Any:
        return run(resolve(*args, **kwargs), func, args, kwargs, rules)

    return protected


def _protect_each_async(
    func: Callable[..., Coroutine[Any, Any, Any]], resolve: Resolve, rules: Rules
) -> Callable[..., Any]:
    async def protected(*args: Any, **kwargs: Any) -> Any:
        return await run_async(resolve(*args, **kwargs), func, args, kwargs, rules)

    return protected


_Wrap = Callable[[Callable[..., Any], Resolve, Rules], Callable[..., Any]]
_PROTECT: dict[Kind, _Wrap] = {
    Kind.SYNC: _protect_sync,
    Kind.ASYNC: _protect_async,
    Kind.GENERATOR: protect_generator,
    Kind.ASYNC_GENERATOR: protect_async_generator,
}
_PROTECT_EACH: dict[Kind, _Wrap] = {
    **_PROTECT,
    Kind.SYNC: _protect_each_sync,
    Kind.ASYNC: _protect_each_async,
}


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
        return reject(admission, args, kwargs, rules)
    if isinstance(admission, Trial):
        go_inside(admission)
    started = breaker.backend.seconds()
    try:
        result = func(*args, **kwargs)
    except BaseException as error:
        call = Call(breaker, admission, args, kwargs, rules, started)
        if call.failed(error):
            return call.instead.give(args, kwargs)
        raise
    # What Call.finish() would find out, without making one.
    kind = type(result)
    if is_awaitable(kind) or issubclass(kind, rules.judged) or breaker.classifier.judges_results:
        return Call(breaker, admission, args, kwargs, rules, started).finish(result)
    breaker.leave(admission, Outcome.SUCCESS, None, started)
    return result


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
        return await reject_async(admission, args, kwargs, rules)
    call = Call(breaker, admission, args, kwargs, rules, breaker.backend.seconds())
    return await call.follow(functools.partial(func, *args, **kwargs))
