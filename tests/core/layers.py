"""The breaker around a call, in every way.

Each takes what is inside of it, and gives the same with the breaker around it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker
from tests.core.calls import fail

Run = Callable[[], Any]


def by_decorator(breaker: CircuitBreaker, inner: Run) -> Run:
    return breaker(lambda: inner())


def by_call(breaker: CircuitBreaker, inner: Run) -> Run:
    return lambda: breaker.call(inner)


def by_with(breaker: CircuitBreaker, inner: Run) -> Run:
    def run() -> Any:
        with breaker:
            return inner()

    return run


def by_stack(breaker: CircuitBreaker, inner: Run) -> Run:
    def run() -> Any:
        with ExitStack() as stack:
            stack.enter_context(breaker)
            return inner()

    return run


def by_hand(breaker: CircuitBreaker, inner: Run) -> Run:
    def run() -> Any:
        breaker.__enter__()
        try:
            result = inner()
        except BaseException as error:
            breaker.__exit__(type(error), error, error.__traceback__)
            raise
        breaker.__exit__(None, None, None)
        return result

    return run


def by_generator(breaker: CircuitBreaker, inner: Run) -> Run:
    @breaker
    def items() -> Any:
        yield 1
        yield inner()

    return lambda: list(items())


def by_context_manager(breaker: CircuitBreaker, inner: Run) -> Run:
    @contextmanager
    def session() -> Any:
        with breaker:
            yield

    def run() -> Any:
        with session():
            return inner()

    return run


def by_error_that_is_recorded(breaker: CircuitBreaker, inner: Run) -> Run:
    def run() -> Any:
        try:
            return inner()
        except BaseException as error:
            breaker.record_failure(error)
            raise

    return run


SYNC = [by_decorator, by_call, by_with, by_stack, by_generator, by_context_manager]


def by_async_decorator(breaker: CircuitBreaker, inner: Run) -> Run:
    async def run() -> Any:
        return await inner()

    return breaker(run)


def by_async_with(breaker: CircuitBreaker, inner: Run) -> Run:
    async def run() -> Any:
        async with breaker:
            return await inner()

    return run


def by_awaitable(breaker: CircuitBreaker, inner: Run) -> Run:
    async def run() -> Any:
        return await inner()

    return lambda: breaker.call(lambda: run())


def by_async_generator(breaker: CircuitBreaker, inner: Run) -> Run:
    @breaker
    async def items() -> Any:
        yield 1
        yield await inner()

    async def run() -> Any:
        return [item async for item in items()]

    return run


ASYNC = [by_async_decorator, by_async_with, by_awaitable, by_async_generator]


def by_sync_layer(breaker: CircuitBreaker, inner: Run) -> Run:
    """Its failure is a coroutine's."""

    async def run() -> Any:
        return breaker(fail)()

    return run


def every(name: str, layers: list[Any]) -> Any:
    """Run a test with each of the layers."""
    return pytest.mark.parametrize(name, layers, ids=lambda layer: layer.__name__)


def raises(error: type[BaseException], run: Run) -> None:
    """Run to the error that is expected."""
    with pytest.raises(error):
        run()
