"""Generators and async generators: what the whole iteration means."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from circuitbreaker_django import CircuitOpenError, CircuitState
from circuitbreaker_django.core.call import Rules
from circuitbreaker_django.core.protect import protect
from circuitbreaker_django.core.states import Outcome
from tests.core.calls import Down, ok

OPEN, CLOSED, HALF_OPEN = CircuitState.OPEN, CircuitState.CLOSED, CircuitState.HALF_OPEN


def echo(count: int = 3, error: Any = None) -> Generator[Any, Any, str]:
    """Gives what it was sent, or what was thrown into it."""
    given: Any = 0
    for number in range(1, count + 1):
        try:
            sent = yield given
        except LookupError as thrown:
            sent = thrown
        given = number if sent is None else sent
    if error is not None:
        raise error
    return "done"


async def aecho(count: int = 3, error: Any = None) -> AsyncGenerator[Any, Any]:
    given: Any = 0
    for number in range(1, count + 1):
        await asyncio.sleep(0)
        try:
            sent = yield given
        except LookupError as thrown:
            sent = thrown
        given = number if sent is None else sent
    if error is not None:
        raise error


class Echo:
    def __call__(self, count: int = 3, error: Any = None) -> Generator[Any, Any, str]:
        return (yield from echo(count, error))

    def method(self, count: int = 3, error: Any = None) -> Generator[Any, Any, str]:
        return (yield from echo(count, error))


class AsyncEcho:
    async def __call__(self, count: int = 3, error: Any = None) -> AsyncGenerator[Any, Any]:
        async for item in aecho(count, error):
            yield item


KINDS = [echo, Echo(), Echo().method, functools.partial(echo), functools.partial(Echo())]
ASYNC_KINDS = [aecho, AsyncEcho(), functools.partial(aecho), functools.partial(AsyncEcho())]


@pytest.fixture(params=["closed", "trial", "with a fallback"])
def breaker(request, make, half_open):
    """Each of the ways that a generator is driven."""
    if request.param == "trial":
        return half_open()
    breaker = make()
    if request.param == "with a fallback":
        breaker = WithFallback(breaker)
    return breaker


class WithFallback:
    """Its generators have a fallback for failures, which is not used once they have begun."""

    def __init__(self, breaker: Any) -> None:
        self.breaker = breaker

    def __call__(self, func: Any) -> Any:
        return self.breaker.protect(fallback=(), fallback_on_failure=True)(func)

    @property
    def state(self) -> CircuitState:
        state: CircuitState = self.breaker.state
        return state


def one(breaker: Any) -> None:
    """A call that ends well."""
    breaker.call(ok)


# -- what is kept -----------------------------------------------------------------------------


def test_it_stays_a_generator_function(make):
    protected = make()(echo)
    assert inspect.isgeneratorfunction(protected)
    assert inspect.signature(protected) == inspect.signature(echo)
    assert protected.__name__ == "echo"


def test_it_stays_an_async_generator_function(make):
    protected = make()(aecho)
    assert inspect.isasyncgenfunction(protected)
    assert inspect.signature(protected) == inspect.signature(aecho)


@pytest.mark.parametrize("func", KINDS)
def test_every_kind_of_generator_function(make, func):
    breaker = make(f"{func}"[:200])
    protected = breaker(func)
    assert list(protected(2)) == [0, 1]
    assert list(breaker.call(func, 2)) == [0, 1]
    with pytest.raises(Down):
        list(protected(error=Down))
    assert breaker.state is OPEN
    with pytest.raises(CircuitOpenError):
        next(protected())


@pytest.mark.parametrize("func", ASYNC_KINDS)
async def test_every_kind_of_async_generator_function(make, func):
    breaker = make(f"{func}"[:200])
    protected = breaker(func)
    assert [item async for item in protected(2)] == [0, 1]
    assert [item async for item in breaker.call(func, 2)] == [0, 1]
    with pytest.raises(Down):
        [item async for item in protected(error=Down)]
    assert breaker.state is OPEN
    with pytest.raises(CircuitOpenError):
        await anext(protected())


def test_send_throw_and_what_it_returns_are_those_of_the_bare_one(breaker):
    def delegating(generator: Generator[Any, Any, str]) -> str:
        result = ""

        def outer() -> Generator[Any, Any, None]:
            nonlocal result
            result = yield from generator

        list(outer())
        return result

    error = LookupError()
    protected = breaker(echo)()
    assert [next(protected), protected.send("a"), protected.throw(error)] == [0, "a", error]
    with pytest.raises(StopIteration) as caught:
        next(protected)
    assert caught.value.value == "done"
    assert breaker.state is CLOSED
    assert delegating(breaker(echo)()) == "done"


async def test_asend_and_athrow_are_those_of_the_bare_one(breaker):
    error = LookupError()
    protected = breaker(aecho)()
    assert await anext(protected) == 0
    assert await protected.asend("a") == "a"
    assert await protected.athrow(error) is error
    with pytest.raises(StopAsyncIteration):
        await anext(protected)
    assert breaker.state is CLOSED


def test_what_is_thrown_in_and_not_caught_is_raised_as_it_is(breaker):
    error = Down()
    protected = breaker(echo)()
    next(protected)
    with pytest.raises(Down) as caught:
        protected.throw(error)
    assert caught.value is error
    assert breaker.state is OPEN


async def test_what_is_thrown_into_an_async_one_is_raised_as_it_is(breaker):
    error = Down()
    protected = breaker(aecho)()
    await anext(protected)
    with pytest.raises(Down) as caught:
        await protected.athrow(error)
    assert caught.value is error
    assert breaker.state is OPEN


# -- the end ----------------------------------------------------------------------------------


def test_a_failure_underway_counts_when_it_happens(breaker):
    before = breaker.state
    protected = breaker(echo)(1, Down)
    next(protected)
    assert breaker.state is before
    with pytest.raises(Down):
        next(protected)
    assert breaker.state is OPEN


async def test_a_failure_underway_of_an_async_one_counts_when_it_happens(breaker):
    before = breaker.state
    protected = breaker(aecho)(1, Down)
    await anext(protected)
    assert breaker.state is before
    with pytest.raises(Down):
        await anext(protected)
    assert breaker.state is OPEN


def test_a_trial_closes_when_it_is_exhausted_and_not_before(half_open):
    breaker = half_open()
    protected = breaker(echo)(1)
    next(protected)
    assert breaker.state is HALF_OPEN
    assert list(protected) == []
    assert breaker.state is CLOSED


async def test_an_async_trial_closes_when_it_is_exhausted_and_not_before(half_open):
    breaker = half_open()
    protected = breaker(aecho)(1)
    await anext(protected)
    assert breaker.state is HALF_OPEN
    assert [item async for item in protected] == []
    assert breaker.state is CLOSED


def test_one_that_was_never_started_is_nothing(half_open):
    breaker = half_open()
    breaker(echo)().close()
    breaker(echo)()
    assert next(breaker(echo)()) == 0  # the permit is there
    assert breaker.state is HALF_OPEN


@pytest.mark.parametrize("left", ["closed", "collected", "collected in a cycle"])
def test_closed_early_is_neutral_and_gives_the_permit_back(half_open, left):
    breaker = half_open()
    protected = breaker(echo)()
    next(protected)
    with pytest.raises(CircuitOpenError):
        one(breaker)
    if left == "closed":
        protected.close()
    elif left == "collected in a cycle":
        cycle: list[Any] = [protected]
        cycle.append(cycle)
        del cycle
    del protected
    gc.collect()
    assert breaker.state is HALF_OPEN
    one(breaker)
    assert breaker.state is CLOSED


@pytest.mark.parametrize("left", ["closed", "collected"])
async def test_an_async_one_closed_early_is_neutral(half_open, left):
    breaker = half_open()
    protected = breaker(aecho)()
    await anext(protected)
    with pytest.raises(CircuitOpenError):
        one(breaker)
    if left == "closed":
        await protected.aclose()
    else:
        del protected
        gc.collect()
        for _ in range(5):  # the loop makes a task that closes it
            await asyncio.sleep(0)
    assert breaker.state is HALF_OPEN
    one(breaker)
    assert breaker.state is CLOSED


async def test_a_cancelled_step_is_neutral(half_open):
    breaker = half_open()
    reached = asyncio.Event()

    @breaker
    async def forever() -> AsyncGenerator[int, None]:
        reached.set()
        await asyncio.Event().wait()
        yield 1

    task = asyncio.ensure_future(anext(forever()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert breaker.state is HALF_OPEN
    one(breaker)
    assert breaker.state is CLOSED


def test_an_error_while_it_is_closed_counts(breaker):
    @breaker
    def unclean() -> Generator[int, None, None]:
        try:
            yield 1
        finally:
            raise Down

    protected = unclean()
    next(protected)
    with pytest.raises(Down):
        protected.close()
    assert breaker.state is OPEN


async def test_an_error_while_an_async_one_is_closed_counts(breaker):
    @breaker
    async def unclean() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            raise Down

    protected = unclean()
    await anext(protected)
    with pytest.raises(Down):
        await protected.aclose()
    assert breaker.state is OPEN


@pytest.mark.parametrize("func", [echo, aecho])
async def test_wrong_arguments_give_the_permit_back(half_open, func):
    breaker = half_open(exceptions=Down)
    with pytest.raises(TypeError, match="unexpected keyword"):
        await first(breaker(func)(wrong=1))
    one(breaker)
    assert breaker.state is CLOSED


async def first(items: Any) -> Any:
    return next(items) if inspect.isgenerator(items) else await anext(items)


@pytest.mark.parametrize("func", [echo, aecho])
async def test_a_rejected_one_raises_at_its_first_step(make, func):
    breaker = make()
    breaker.trip()
    items = breaker(func)()
    with pytest.raises(CircuitOpenError):
        await first(items)


@pytest.mark.parametrize("func", [echo, aecho])
async def test_a_passive_breaker_counts_nothing(make, func):
    breaker = make()
    breaker.passive = True
    with pytest.raises(Down):
        await first(breaker(func)(0, Down))
    assert breaker.state is CLOSED


@pytest.mark.parametrize("func", [echo, aecho])
async def test_a_passive_breaker_leaves_a_failure_as_it_is(make, func):
    breaker = make(failure_predicate=lambda error: pytest.fail("it was asked"))
    breaker.passive = True
    with pytest.raises(Down):
        await first(breaker.protect(fallback=[], fallback_on_failure=True)(func)(0, Down))


# -- who is inside of a trial -----------------------------------------------------------------


def test_nested_calls_ride_on_the_trial_and_the_consumer_does_not(half_open):
    breaker = half_open()

    @breaker
    def nesting() -> Generator[Any, Any, None]:
        yield breaker.call(ok, 1)
        try:
            yield breaker.call(ok, 2)
        except LookupError:
            pass
        try:
            yield breaker.call(ok, 3)
        finally:
            assert breaker.call(ok) == "ok"

    items = nesting()
    for step in (lambda: next(items), lambda: items.send(None), lambda: items.throw(LookupError)):
        assert step() in (1, 2, 3)
        with pytest.raises(CircuitOpenError):
            one(breaker)
    items.close()
    assert breaker.state is HALF_OPEN
    one(breaker)
    assert breaker.state is CLOSED


async def test_nested_calls_ride_on_the_async_trial_and_the_consumer_does_not(half_open):
    breaker = half_open()

    @breaker
    async def nesting() -> AsyncGenerator[Any, Any]:
        yield breaker.call(ok, 1)
        try:
            yield breaker.call(ok, 2)
        except LookupError:
            pass
        try:
            yield breaker.call(ok, 3)
        finally:
            assert breaker.call(ok) == "ok"

    items = nesting()
    for step in (items.__anext__, lambda: items.asend(None), lambda: items.athrow(LookupError)):
        assert await step() in (1, 2, 3)
        with pytest.raises(CircuitOpenError):
            one(breaker)
    await items.aclose()
    assert breaker.state is HALF_OPEN
    one(breaker)
    assert breaker.state is CLOSED


# -- fallbacks --------------------------------------------------------------------------------


def more(count: int = 3, error: Any = None) -> Generator[Any, Any, str]:
    yield f"more {count}"
    return "instead"


async def amore(count: int = 3, error: Any = None) -> AsyncGenerator[Any, Any]:
    yield f"more {count}"


class Pages:
    """Can be iterated over by ``async for``, and is no generator."""

    def __init__(self) -> None:
        self.left = ["more 5"]

    def __aiter__(self) -> Pages:
        return self

    async def __anext__(self) -> str:
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop()


async def later(count: int = 3, error: Any = None) -> list[str]:
    return [f"more {count}"]


def sooner(count: int = 3, error: Any = None) -> list[str]:
    return [f"more {count}"]


FALLBACKS = [more, sooner, ["more 5"]]
ASYNC_FALLBACKS = [*FALLBACKS, amore, later, lambda count: Pages()]


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_a_rejected_one_iterates_over_the_fallback(make, fallback):
    breaker = make()
    breaker.trip()
    assert list(breaker.protect(fallback=fallback)(echo)(5)) == ["more 5"]


@pytest.mark.parametrize("fallback", ASYNC_FALLBACKS)
async def test_a_rejected_async_one_iterates_over_the_fallback(make, fallback):
    breaker = make()
    breaker.trip()
    items = breaker.protect(fallback=fallback)(aecho)(5)
    assert [item async for item in items] == ["more 5"]


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_one_that_fails_at_once_iterates_over_the_fallback(make, fallback):
    breaker = make()
    protected = breaker.protect(fallback=fallback, fallback_on_failure=True)(failing_at_once)
    assert list(protected(5)) == ["more 5"]
    assert breaker.state is OPEN


def failing_at_once(count: int) -> Generator[int, None, None]:
    yield from echo(0, Down)


async def afailing_at_once(count: int) -> AsyncGenerator[int, None]:
    async for item in aecho(0, Down):
        yield item


@pytest.mark.parametrize("fallback", ASYNC_FALLBACKS)
async def test_an_async_one_that_fails_at_once_iterates_over_the_fallback(make, fallback):
    breaker = make()
    protected = breaker.protect(fallback=fallback, fallback_on_failure=True)(afailing_at_once)
    assert [item async for item in protected(5)] == ["more 5"]
    assert breaker.state is OPEN


def test_what_the_generator_of_a_fallback_returns_is_returned(make):
    breaker = make()
    breaker.trip()
    items = breaker.protect(fallback=more)(echo)()
    next(items)
    with pytest.raises(StopIteration) as caught:
        next(items)
    assert caught.value.value == "instead"


@pytest.mark.parametrize("on_failure", [True, False])
async def test_what_the_fallback_of_a_generator_raises_has_the_original_as_context(
    make, on_failure
):
    def worse(count: int) -> Generator[int, None, None]:
        yield from echo(0, LookupError)

    for func, fallback in ((failing_at_once, worse), (afailing_at_once, worse)):
        breaker = make(func.__name__)
        if not on_failure:
            breaker.trip()
        protect = breaker.protect(fallback=fallback, fallback_on_failure=on_failure)
        with pytest.raises(LookupError) as caught:
            await first(protect(func)(5))
        assert type(caught.value.__context__) is (Down if on_failure else CircuitOpenError)


async def test_the_async_generator_of_a_fallback_is_closed_with_its_consumer(make):
    breaker = make()
    breaker.trip()
    closed = []

    async def closing() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            closed.append(True)

    items = breaker.protect(fallback=closing)(aecho)()
    assert await anext(items) == 1
    await items.aclose()
    assert closed == [True]


@pytest.mark.parametrize("on_failure", [False, True])
def test_the_fallback_of_an_iteration_gets_all_its_arguments(make, on_failure):
    breaker = make()

    def instead(*args, **kwargs):
        return [args, kwargs]

    protected = breaker.protect(fallback=instead, fallback_on_failure=on_failure)(echo)
    if not on_failure:
        breaker.trip()
    assert list(protected(0, error=Down)) == [(0,), {"error": Down}]


@pytest.mark.parametrize("on_failure", [False, True])
async def test_the_fallback_of_an_async_iteration_gets_all_its_arguments(make, on_failure):
    breaker = make()

    def instead(*args, **kwargs):
        return [args, kwargs]

    protected = breaker.protect(fallback=instead, fallback_on_failure=on_failure)(aecho)
    if not on_failure:
        breaker.trip()
    items = [item async for item in protected(0, error=Down)]
    assert items == [(0,), {"error": Down}]


@pytest.mark.parametrize("generates", [echo, aecho])
async def test_the_breaker_of_an_iteration_is_found_by_all_its_arguments(make, generates):
    asked: list[Any] = []

    def resolve(*args, **kwargs):
        asked.append((args, kwargs))
        return make()

    items = protect(generates, resolve)(1, error=None)
    if generates is echo:
        list(items)
    else:
        [item async for item in items]
    assert asked == [((1,), {"error": None})]


@pytest.mark.parametrize("generates", [echo, aecho])
async def test_an_iteration_to_its_end_is_a_success_of_a_trial(half_open, generates):
    breaker = half_open()
    items = breaker(generates)(1)
    if generates is echo:
        list(items)
    else:
        [item async for item in items]
    assert breaker.state is CLOSED
    assert breaker.backend.events()[0][1].cause == "a trial succeeded"


class Seeing(Rules):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def error(self, breaker: Any, error: BaseException, args: tuple[Any, ...]) -> Outcome:
        self.seen.append(args)
        return Outcome.FAILURE


def test_who_judges_the_failure_of_an_iteration_gets_its_arguments(make):
    rules = Seeing()
    protected = protect(failing_at_once, lambda *args: make(), rules)
    with pytest.raises(Down):
        list(protected(5))
    assert rules.seen == [(5,)]


async def test_who_judges_the_failure_of_an_async_iteration_gets_its_arguments(make):
    rules = Seeing()
    protected = protect(afailing_at_once, lambda *args: make(), rules)
    with pytest.raises(Down):
        async for _ in protected(5):
            pass
    assert rules.seen == [(5,)]
