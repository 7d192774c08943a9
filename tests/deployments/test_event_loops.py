"""Two event loops in one process, and loops that end, with circuits in every store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from tests.backends.waiting import until
from tests.deployments.conftest import STORES, make_store
from tests.deployments.services import Down, afail, aok, aslow, ok


@pytest.fixture(params=STORES)
def breaker(request: pytest.FixtureRequest) -> Iterator[CircuitBreaker]:
    """Three failures open it, three trials close it."""
    with make_store(request.param, request) as store:
        backend = store.join()
        before = set(threading.enumerate())
        breaker = CircuitBreaker(
            "payments",
            backend=backend,
            failure_threshold=3,
            recovery_timeout=0.2,
            success_threshold=3,
        )
        breaker.call(ok)
        until(lambda: backend.available)
        yield breaker
        backend.close()
        for thread in set(threading.enumerate()) - before:
            thread.join(10)


@contextmanager
def running_loop() -> Iterator[Callable[[Any], Any]]:
    """Runs what it is given on an event loop of its own, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)
    loop.close()


@pytest.fixture
def loops() -> Iterator[list[Callable[[Any], Any]]]:
    with running_loop() as one, running_loop() as other:
        yield [one, other]


async def call(breaker: CircuitBreaker, service: Callable[[], Any]) -> Any:
    return await breaker.call(service)


def test_failures_on_one_loop_open_the_circuit_on_the_other(breaker, loops):
    one, other = loops
    for _ in range(3):
        with pytest.raises(Down):
            one(call(breaker, afail))
    for run in (one, other):
        with pytest.raises(CircuitOpenError):
            run(call(breaker, aok))


def test_two_loops_have_one_trial_at_a_time(breaker, loops):
    spans: list[tuple[float, float]] = []

    async def visit() -> None:
        while len(spans) < 3:
            try:
                spans.append(await breaker.call(aslow))
            except CircuitOpenError:
                await asyncio.sleep(0.005)

    async def visit_often() -> None:
        await asyncio.wait_for(asyncio.gather(*(visit() for _ in range(4))), 20)

    breaker.trip()
    until(lambda: breaker.state is CircuitState.HALF_OPEN)
    threads = [threading.Thread(target=run, args=(visit_often(),)) for run in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    spans.sort()
    assert [end <= begin for (_, end), (begin, _) in pairwise(spans[:3])] == [True] * 2


def test_a_loop_that_ends_takes_no_permit_with_it(breaker):
    async def visit() -> str:
        try:
            await breaker.call(aok)
        except CircuitOpenError:
            return "rejected"
        return "ok"

    breaker.trip()
    until(lambda: breaker.state is CircuitState.HALF_OPEN)

    async def leave() -> None:
        visitor = asyncio.ensure_future(visit())
        await asyncio.sleep(0)
        visitor.cancel()  # with its permit perhaps on the way

    asyncio.run(leave())
    until(lambda: asyncio.run(visit()) == "ok" and breaker.state is CircuitState.CLOSED)
