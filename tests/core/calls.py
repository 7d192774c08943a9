"""Functions to protect."""

from __future__ import annotations

from typing import Any

from circuitbreaker_django import CircuitBreaker


class Down(Exception):
    """The dependency's failure."""


def ok(value: Any = "ok") -> Any:
    return value


def fail(error: BaseException | type[BaseException] = Down) -> None:
    raise error


async def aok(value: Any = "ok") -> Any:
    return value


async def afail(error: BaseException | type[BaseException] = Down) -> None:
    raise error


def failing(breaker: CircuitBreaker, error: BaseException | type[BaseException] = Down) -> None:
    """One call that fails and is let through."""
    kind = error if isinstance(error, type) else type(error)
    try:
        breaker.call(fail, error)
    except kind:
        return
    raise AssertionError("the call has not failed")
