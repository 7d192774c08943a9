"""What callers get instead of the answer."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.core.fallback import NOTHING, Fallback
from tests.core.calls import Down, afail, aok, fail, ok

OPEN, CLOSED, HALF_OPEN = CircuitState.OPEN, CircuitState.CLOSED, CircuitState.HALF_OPEN


def cached(*args: Any, **kwargs: Any) -> Any:
    return "cached", args, kwargs


async def acached(*args: Any, **kwargs: Any) -> Any:
    await asyncio.sleep(0)
    return "cached", args, kwargs


class Cached:
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return "cached", args, kwargs


class AsyncCached:
    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return "cached", args, kwargs


def worse(*args: Any) -> Any:
    raise LookupError


async def aworse(*args: Any) -> Any:
    raise LookupError


def generates(*args: Any) -> Generator[int, None, None]:
    yield 1


async def agenerates(*args: Any) -> AsyncGenerator[int, None]:
    yield 1


CALLABLE = [cached, Cached(), functools.partial(cached)]
ASYNC_CALLABLE = [
    *CALLABLE,
    acached,
    AsyncCached(),
    functools.partial(acached),
    lambda *args, **kwargs: acached(*args, **kwargs),
]
VALUES: list[Any] = [None, 0, "nothing", [], {"a": 1}]


@pytest.fixture
def tripped(make):
    breaker = make()
    breaker.trip()
    return breaker


# -- rejections -------------------------------------------------------------------------------


@pytest.mark.parametrize("fallback", CALLABLE)
def test_a_callable_gets_the_arguments_of_the_rejected_call(tripped, fallback):
    protected = tripped.protect(fallback=fallback)(lambda *args, **kwargs: None)
    for _ in range(3):  # the first call goes another way than the next
        assert protected(1, a=2) == ("cached", (1,), {"a": 2})


@pytest.mark.parametrize("fallback", ASYNC_CALLABLE)
async def test_a_callable_gets_the_arguments_of_the_rejected_async_call(tripped, fallback):
    protected = tripped.protect(fallback=fallback)(aok)
    for _ in range(3):
        assert await protected(1, a=2) == ("cached", (1,), {"a": 2})


@pytest.mark.parametrize("value", VALUES)
async def test_any_other_value_is_the_answer_itself(tripped, value):
    protected = tripped.protect(fallback=value)(ok)
    aprotected = tripped.protect(fallback=value)(aok)
    for _ in range(2):
        assert protected() is value
        assert await aprotected() is value


async def test_calls_that_pass_get_their_own_answer(make):
    protected = make().protect(fallback="cached")(ok)
    aprotected = make().protect(fallback="cached")(aok)
    for _ in range(3):
        assert protected() == "ok"
        assert await aprotected() == "ok"


async def test_what_it_raises_has_the_rejection_as_its_context(tripped):
    for _ in range(2):
        with pytest.raises(LookupError) as caught:
            tripped.protect(fallback=worse)(ok)()
        assert isinstance(caught.value.__context__, CircuitOpenError)
        for fallback in (worse, aworse):
            with pytest.raises(LookupError) as caught:
                await tripped.protect(fallback=fallback)(aok)()
            assert isinstance(caught.value.__context__, CircuitOpenError)


def test_without_a_fallback_protect_is_the_bare_decorator(tripped):
    for protected in (tripped.protect(ok), tripped.protect()(ok)):
        for _ in range(2):
            with pytest.raises(CircuitOpenError):
                protected()


async def test_failures_are_not_answered_unless_asked_for(make):
    breaker = make(failure_threshold=9)
    for _ in range(2):
        with pytest.raises(Down):
            breaker.protect(fallback="cached")(fail)()
        with pytest.raises(Down):
            await breaker.protect(fallback="cached")(afail)()


# -- failures ---------------------------------------------------------------------------------


def on_failure(breaker: CircuitBreaker, fallback: Any, func: Any) -> Any:
    return breaker.protect(fallback=fallback, fallback_on_failure=True)(func)


@pytest.mark.parametrize("state", [CLOSED, HALF_OPEN])
@pytest.mark.parametrize("fallback", [*CALLABLE, "value"])
def test_a_failure_counts_and_is_answered(make, half_open, state, fallback):
    breaker = half_open() if state is HALF_OPEN else make(failure_threshold=3)
    protected = on_failure(breaker, fallback, fail)
    answer: Any = "value" if fallback == "value" else ("cached", (Down,), {})
    for _ in range(3):
        assert protected(Down) == answer
    assert breaker.state is OPEN
    assert protected(Down) == answer


@pytest.mark.parametrize("state", [CLOSED, HALF_OPEN])
@pytest.mark.parametrize("fallback", [*ASYNC_CALLABLE, "value"])
async def test_an_async_failure_counts_and_is_answered(make, half_open, state, fallback):
    breaker = half_open() if state is HALF_OPEN else make(failure_threshold=3)
    protected = on_failure(breaker, fallback, afail)
    answer: Any = "value" if fallback == "value" else ("cached", (Down,), {})
    for _ in range(3):
        assert await protected(Down) == answer
    assert breaker.state is OPEN
    assert await protected(Down) == answer


async def test_a_failure_after_successes_is_answered(make):
    breaker = make(failure_threshold=3)
    protected = on_failure(breaker, "cached", lambda error: fail(error) if error else None)
    aprotected = on_failure(breaker, "cached", lambda error: afail(error) if error else aok())

    async def func(error: Any) -> Any:
        return await (afail(error) if error else aok())

    asynchronous = on_failure(breaker, acached, func)
    for _ in range(2):
        assert protected(None) is None
        assert await aprotected(None) == "ok"
        assert await asynchronous(None) == "ok"
    assert protected(Down) == "cached"
    assert await aprotected(Down) == "cached"
    assert protected(None) is None
    for _ in range(2):
        assert await asynchronous(None) == "ok"
    assert await asynchronous(Down) == ("cached", (Down,), {})
    assert breaker.state is OPEN


async def test_the_outcome_is_told_before_the_fallback_is_asked(make, half_open):
    seen = []

    def look(*args: Any) -> None:
        seen.append(breaker.state)

    for breaker in (make("one"), half_open("two")):
        on_failure(breaker, look, fail)()
        breaker.reset()
        await on_failure(breaker, look, afail)()
    assert seen == [OPEN] * 4


async def test_what_counts_as_nothing_reaches_the_caller(make):
    breaker = make(exceptions=Down)
    for _ in range(2):
        with pytest.raises(LookupError):
            on_failure(breaker, "cached", fail)(LookupError)
        with pytest.raises(LookupError):
            await on_failure(breaker, "cached", afail)(LookupError)
        with pytest.raises(asyncio.CancelledError):
            await on_failure(breaker, "cached", afail)(asyncio.CancelledError)


@pytest.mark.parametrize("asked", [True, False])
def test_the_rejection_by_an_inner_breaker_reaches_the_caller(make, tripped, asked):
    outer = make("outer")
    protected = outer.protect(fallback="cached", fallback_on_failure=asked)(tripped(ok))
    for _ in range(2):
        with pytest.raises(CircuitOpenError):
            protected()
    assert outer.state is CLOSED


async def test_what_it_raises_has_the_failure_as_its_context(make):
    breaker = make(failure_threshold=99)
    for _ in range(2):
        with pytest.raises(LookupError) as caught:
            on_failure(breaker, worse, fail)()
        assert type(caught.value.__context__) is Down
        for fallback in (worse, aworse):
            with pytest.raises(LookupError) as caught:
                await on_failure(breaker, fallback, afail)()
            assert type(caught.value.__context__) is Down


def test_the_error_of_a_fallback_does_not_count(make):
    breaker = make(failure_threshold=2)
    with pytest.raises(LookupError):
        on_failure(breaker, worse, fail)()
    assert breaker.state is CLOSED
    with pytest.raises(LookupError):
        on_failure(breaker, worse, fail)()
    assert breaker.state is OPEN


async def test_the_awaitable_of_a_sync_function_is_answered_too(make):
    breaker = make(failure_threshold=4)

    def task() -> Any:
        return asyncio.ensure_future(afail())

    for func in (lambda: afail(), task):
        protected = on_failure(breaker, "cached", func)
        for _ in range(2):
            assert await protected() == "cached"
    assert breaker.state is OPEN


async def test_a_result_that_is_a_failure_is_answered(make):
    breaker = make(result_predicate=lambda result: result == "bad", failure_threshold=6)
    for _ in range(3):
        assert on_failure(breaker, cached, ok)("good") == "good"
        assert on_failure(breaker, cached, ok)("bad") == ("cached", ("bad",), {})
        assert await on_failure(breaker, acached, aok)("bad") == ("cached", ("bad",), {})
    assert breaker.state is OPEN
    breaker = make("other", result_predicate=lambda result: result == "bad")
    assert breaker.protect(fallback="cached")(ok)("bad") == "bad"
    assert breaker.state is OPEN


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fallback", [acached, AsyncCached(), functools.partial(acached), agenerates]
)
@pytest.mark.parametrize("func", [ok, generates])
def test_a_sync_function_has_no_async_fallback(make, fallback, func):
    with pytest.raises(TypeError, match=f"^{func.__name__} is sync, .* plain function, or .*async"):
        make().protect(fallback=fallback)(func)


@pytest.mark.parametrize("func", [generates, agenerates])
def test_a_value_for_a_generator_function_must_be_iterable(make, func):
    with pytest.raises(TypeError, match=f"fallback of {func.__name__}, .* must be iterable.*None"):
        make().protect(fallback=None)(func)


def test_an_async_iterable_is_for_async_generator_functions(make):
    make().protect(fallback=agenerates())(agenerates)
    with pytest.raises(TypeError, match="must be iterable"):
        make().protect(fallback=agenerates())(generates)


def test_on_failure_needs_a_fallback(make):
    with pytest.raises(TypeError, match="fallback_on_failure needs a fallback"):
        make().protect(fallback_on_failure=True)
    make().protect(fallback=None, fallback_on_failure=True)


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_on_failure_is_true_or_false(make, value):
    with pytest.raises(TypeError, match="fallback_on_failure must be True or False, not"):
        make().protect(fallback="cached", fallback_on_failure=value)


def test_no_fallback_says_so_where_it_is_seen():
    assert repr(NOTHING) == "<no fallback>"


def test_what_is_wrong_with_a_fallback_is_told_in_full(make):
    with pytest.raises(TypeError) as caught:
        make().protect(fallback=acached)(ok)
    assert str(caught.value) == (
        "ok is sync, so nobody would await its fallback acached: make the fallback a plain "
        "function, or the function itself async"
    )
    with pytest.raises(TypeError) as caught:
        make().protect(fallback_on_failure=True)
    assert str(caught.value) == "fallback_on_failure needs a fallback: give fallback=..."


def test_a_callable_without_a_name_is_told_as_it_is_seen(make):
    fallback = functools.partial(acached)
    with pytest.raises(TypeError, match=r"its fallback functools\.partial"):
        make().protect(fallback=fallback)(ok)


def test_a_fallback_is_for_rejections_unless_it_says_so():
    assert Fallback("cached").on_failure is False
