"""Wrapping a function: the closed path as cheap as it gets, and the whole path beside it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine
from math import inf
from typing import TYPE_CHECKING, Any, cast

from circuitbreaker_django.core.call import RULES, Call, Rules, reject, reject_async
from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.gate import Gate
from circuitbreaker_django.core.iterate import protect_async_generator, protect_generator
from circuitbreaker_django.core.kinds import Kind, is_awaitable, kind_of, refuse
from circuitbreaker_django.core.states import Outcome
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
    seconds = time.monotonic
    harmless = harmless_too = type(None)

    def protected(*args: Any, **kwargs: Any) -> Any:
        nonlocal bound, harmless, harmless_too
        gate = bound
        word = gate.word
        if word is not None:
            if word[()] != gate.admit:
                rejection = gate.rejection()
                if rejection is None:
                    return whole(args, kwargs)
                if rules is RULES:  # raised here, for each frame on its way costs 100 ns
                    raise rejection
                return reject(rejection, args, kwargs, rules)
            tally = gate.tally
            if tally is not None:
                # Successes matter too, and are counted by the tally. In place, for a call would
                # cost 1.3 empty wrappers; a look at the clock costs 0.8, or 0.9 as an attribute.
                limit = tally.limit
                started = inf if limit is None else seconds()
                try:
                    result = func(*args, **kwargs) if kwargs else func(*args)
                except BaseException as error:
                    gate.calls += 1.0
                    call = _call(gate, args, kwargs, rules, started)
                    if call.failed(error):
                        return call.instead.give(args, kwargs)
                    raise
                if type(result) is harmless or type(result) is harmless_too:
                    ended = seconds()
                    if ended < tally.due and (limit is None or ended - started < limit):
                        tally.calls += 1.0
                        return result
                elif not _is_looked_at(type(result), rules):
                    harmless, harmless_too = type(result), harmless
                gate.calls += 1.0
                return _call(gate, args, kwargs, rules, started).finish(result)
        gate.calls += 1.0
        try:
            # Without keywords to merge the call is cheaper by 0.2 to 0.35 of an empty wrapper.
            result = func(*args, **kwargs) if kwargs else func(*args)
        except BaseException as error:
            call = _call(gate, args, kwargs, rules)
            if call.failed(error):
                return call.instead.give(args, kwargs)
            raise
        # Comparisons with the two types that were last found harmless, instead of tests of two
        # empty wrappers' cost. No set of types: a metaclass may have made them unhashable.
        if type(result) is not harmless and type(result) is not harmless_too:
            if _is_looked_at(type(result), rules):
                return _call(gate, args, kwargs, rules).finish(result)
            harmless, harmless_too = type(result), harmless
        return result

    def whole(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal bound, seconds
        breaker = resolve(*args, **kwargs)
        try:
            return run(breaker, func, args, kwargs, rules)
        finally:
            bound, seconds = _gate_of(breaker), breaker.backend.seconds

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
        if word is not None:
            if word[()] != gate.admit:
                breaker = resolve(*args, **kwargs)
                try:
                    return await run_async(breaker, func, args, kwargs, rules)
                finally:
                    bound = _gate_of(breaker)
            tally = gate.tally
            if tally is not None:
                seconds = tally.seconds
                limit = tally.limit
                started = inf if limit is None else seconds()
                try:
                    result = await func(*args, **kwargs)
                except BaseException as error:
                    gate.calls += 1.0
                    call = _call(gate, args, kwargs, rules, started)
                    if call.failed(error):
                        return await call.instead.give_async(args, kwargs)
                    raise
                ended = seconds()
                if (
                    ended < tally.due
                    and (limit is None or ended - started < limit)
                    and not (judged and issubclass(type(result), judged))
                ):
                    tally.calls += 1.0
                    return result
                gate.calls += 1.0
                return await _call(gate, args, kwargs, rules, started).finish_async(result)
        gate.calls += 1.0
        try:
            result = await func(*args, **kwargs)
        except BaseException as error:
            call = _call(gate, args, kwargs, rules)
            if call.failed(error):
                return await call.instead.give_async(args, kwargs)
            raise
        if judged and issubclass(type(result), judged):
            return await _call(gate, args, kwargs, rules).finish_async(result)
        return result

    return protected


def _call(
    gate: Gate,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    rules: Rules,
    started: float | None = None,
) -> Call:
    """A call that this gate has let through."""
    return Call(gate.breaker, gate.epoch, args, kwargs, rules, gate.since, started)


def _is_looked_at(kind: type, rules: Rules) -> bool:
    """Whether a result of this class is more than the end of a call that has succeeded."""
    return is_awaitable(kind) or issubclass(kind, rules.judged)


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
    since, started = breaker.view.gate.since, breaker.backend.seconds()
    try:
        result = func(*args, **kwargs)
    except BaseException as error:
        call = Call(breaker, admission, args, kwargs, rules, since, started)
        if call.failed(error):
            return call.instead.give(args, kwargs)
        raise
    # What Call.finish() would find out, without making one.
    kind = type(result)
    if is_awaitable(kind) or issubclass(kind, rules.judged) or breaker.classifier.judges_results:
        return Call(breaker, admission, args, kwargs, rules, since, started).finish(result)
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
    admission = await breaker.enter_async()
    if isinstance(admission, CircuitOpenError):
        return await reject_async(admission, args, kwargs, rules)
    since, started = breaker.view.gate.since, breaker.backend.seconds()
    call = Call(breaker, admission, args, kwargs, rules, since, started)
    return await call.follow(functools.partial(func, *args, **kwargs))
