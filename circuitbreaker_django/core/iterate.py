"""Generators and async generators, protected from their first step to their end.

Exhausted is a success, an exception is what it is for any call, and closed before the end is
neutral. The fallback answers for a failure only while no item was given, since what was given
cannot be taken back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from circuitbreaker_django.core.call import Call, Rules
from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.core.trial import Trial

if TYPE_CHECKING:
    from circuitbreaker_django.core.breaker import CircuitBreaker

Resolve = Callable[..., "CircuitBreaker"]


class Iteration(Call):
    """A call that goes on as long as somebody iterates.

    Attributes:
        given: whether an item was given; kept only where it is asked for.
    """

    __slots__ = ("given",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.given = False

    def failed(self, error: BaseException) -> bool:
        """Tell that it raised. Whether the fallback answers for it."""
        return super().failed(error) and not self.given

    def steps(self, source: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """``yield from source``, where who iterates is inside of the call only while it runs."""
        step: Callable[[], Any] = partial(next, source)
        while True:
            self.go_inside()
            try:
                item = step()
            except StopIteration as end:
                return end.value
            finally:
                self.step_out()
            self.given = True
            try:
                step = partial(source.send, (yield item))
            except GeneratorExit:
                self.go_inside()
                try:
                    source.close()
                finally:
                    self.step_out()
                raise
            except BaseException as error:
                step = partial(source.throw, error)


def protect_generator(
    func: Callable[..., Generator[Any, Any, Any]], resolve: Resolve, rules: Rules
) -> Callable[..., Generator[Any, Any, Any]]:
    """A generator function, whose generators ask the breaker at their first step."""

    def protected(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        breaker = resolve(*args, **kwargs)
        admission = breaker.enter()
        if isinstance(admission, CircuitOpenError):
            try:
                raise admission  # so that it is the context of what the fallback raises
            except CircuitOpenError:
                if rules.fallback is None:
                    raise
                return (yield from rules.fallback.iterate(args, kwargs))
        call = Iteration(breaker, admission, args, kwargs, rules, breaker.view.gate.since)
        try:
            source = func(*args, **kwargs)
            if isinstance(admission, Trial) or rules.instead is not None:
                source = call.steps(source)
            result = yield from source
        except BaseException as error:
            if call.failed(error):
                return (yield from call.instead.iterate(args, kwargs))
            raise
        call.end(Outcome.SUCCESS)
        return result

    return protected


def protect_async_generator(
    func: Callable[..., AsyncGenerator[Any, Any]], resolve: Resolve, rules: Rules
) -> Callable[..., AsyncGenerator[Any, Any]]:
    """An async generator function, whose generators ask the breaker at their first step."""

    async def protected(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        breaker = resolve(*args, **kwargs)
        admission = await breaker.enter_async()
        if isinstance(admission, CircuitOpenError):
            try:
                raise admission
            except CircuitOpenError:
                if rules.fallback is None:
                    raise
                async with aclosing(rules.fallback.iterate_async(args, kwargs)) as items:
                    async for item in items:
                        yield item
                return
        call = Iteration(breaker, admission, args, kwargs, rules, breaker.view.gate.since)
        try:
            # There is no `yield from` that would pass on what is sent and thrown (PEP 525).
            source = func(*args, **kwargs)
            step: Callable[[], Any] = source.__anext__
            while True:
                call.go_inside()
                try:
                    item = await step()
                except StopAsyncIteration:
                    break
                finally:
                    call.step_out()
                call.given = True
                try:
                    step = partial(source.asend, (yield item))
                except GeneratorExit:
                    call.go_inside()
                    try:
                        await source.aclose()
                    finally:
                        call.step_out()
                    raise
                except BaseException as error:
                    step = partial(source.athrow, error)
        except BaseException as error:
            if not call.failed(error):
                raise
            async with aclosing(call.instead.iterate_async(args, kwargs)) as items:
                async for item in items:
                    yield item
        else:
            call.end(Outcome.SUCCESS)

    return protected
