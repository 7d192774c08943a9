"""Which kind of callable it is."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from circuitbreaker_django.core.kinds import Kind, is_awaitable, is_plain, kind_of
from tests.core.calls import aok, ok

SYNC, ASYNC = Kind.SYNC, Kind.ASYNC
GENERATOR, ASYNC_GENERATOR = Kind.GENERATOR, Kind.ASYNC_GENERATOR


def generates() -> Iterator[int]:
    yield 1


async def agenerates() -> AsyncIterator[int]:
    yield 1


class Sync:
    def __call__(self) -> None: ...

    def method(self) -> None: ...


class Async:
    async def __call__(self) -> None: ...

    async def method(self) -> None: ...


class Generates:
    def __call__(self) -> Iterator[int]:
        yield 1


class AsyncGenerates:
    async def __call__(self) -> AsyncIterator[int]:
        yield 1


def marked() -> Any:
    return aok()


if sys.version_info >= (3, 12):
    inspect.markcoroutinefunction(marked)
else:
    vars(marked)["_is_coroutine"] = vars(asyncio.coroutines)["_is_coroutine"]


@pytest.mark.parametrize(
    ("func", "kind"),
    [
        (ok, SYNC),
        (len, SYNC),
        (Sync(), SYNC),
        (Sync().method, SYNC),
        (aok, ASYNC),
        (marked, ASYNC),
        (Async(), ASYNC),
        (Async().method, ASYNC),
        (generates, GENERATOR),
        (Generates(), GENERATOR),
        (agenerates, ASYNC_GENERATOR),
        (AsyncGenerates(), ASYNC_GENERATOR),
    ],
)
@pytest.mark.parametrize("partials", [0, 1, 2])
def test_the_kind_is_seen_through_objects_methods_and_partials(func, kind, partials):
    for _ in range(partials):
        func = functools.partial(func)
    assert kind_of(func) is kind


@pytest.mark.parametrize("func", [ok, Sync().method])
def test_plain_functions_and_methods(func):
    assert is_plain(func)


@pytest.mark.parametrize("func", [aok, generates, agenerates, marked, len, Sync(), Async().method])
def test_what_is_not_surely_plain(func):
    assert not is_plain(func)


def test_what_can_be_awaited():
    for _ in range(2):
        assert is_awaitable(asyncio.Future)
        assert not is_awaitable(dict)
        assert not is_awaitable(list)
