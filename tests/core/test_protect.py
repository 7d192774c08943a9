from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.core.protect import Rules, is_async, protect
from circuitbreaker_django.core.states import Outcome
from tests.core.calls import Down, afail, aok, fail, failing, ok

OPEN, CLOSED, HALF_OPEN = CircuitState.OPEN, CircuitState.CLOSED, CircuitState.HALF_OPEN


class Adder:
    """A callable object."""

    def __init__(self) -> None:
        self.tag = "adder"

    def __call__(self, a: int, b: int = 1) -> int:
        return a + b


class AsyncAdder:
    async def __call__(self, a: int) -> int:
        await asyncio.sleep(0)
        return a + 1


class Generates:
    def __call__(self) -> Iterator[int]:
        yield 1


class AsyncGenerates:
    async def __call__(self) -> AsyncIterator[int]:
        yield 1


def generates() -> Iterator[int]:
    yield 1


async def async_generates() -> AsyncIterator[int]:
    yield 1


class Methods:
    def generates(self) -> Iterator[int]:
        yield 1

    def plain(self, value: int) -> int:
        return value

    @classmethod
    def of_class(cls) -> None: ...

    @staticmethod
    def of_nobody() -> None: ...


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (generates, "generates"),
        (async_generates, "async_generates"),
        (Methods().generates, "Methods.generates"),
        (Generates(), "<tests.core.test_protect.Generates object at .*>"),
        (AsyncGenerates(), "<tests.core.test_protect.AsyncGenerates object at .*>"),
        (functools.partial(generates), "generates"),
        (functools.partial(functools.partial(async_generates)), "async_generates"),
        (functools.partial(Generates()), "<tests.core.test_protect.Generates object at .*>"),
    ],
)
@pytest.mark.parametrize("how", ["decorator", "call"])
def test_generator_functions_are_refused_by_name(make, func, name, how):
    breaker = make()
    with pytest.raises(TypeError, match=f"^{name} is a generator function: its body runs after"):
        breaker(func) if how == "decorator" else breaker.call(func)


@pytest.mark.parametrize("how", ["decorator", "call"])
def test_classes_are_refused_and_told_of_method_decorator(make, how):
    breaker = make()
    with pytest.raises(TypeError, match=r'^Adder is a class: .*method_decorator.*"dispatch"'):
        breaker(Adder) if how == "decorator" else breaker.call(Adder)


@pytest.mark.parametrize(
    ("descriptor", "name"),
    [
        (Methods.__dict__["of_class"], "classmethod"),
        (Methods.__dict__["of_nobody"], "staticmethod"),
        (property(ok), "property"),
        (functools.cached_property(ok), "cached_property"),
    ],
)
def test_descriptors_are_told_to_go_above_the_breaker(make, descriptor, name):
    with pytest.raises(TypeError, match=f"^a {name} is no function yet: .*below @{name}$"):
        make()(descriptor)


@pytest.mark.parametrize("thing", [5, None, "payments"])
def test_what_cannot_be_called_is_refused(make, thing):
    with pytest.raises(TypeError, match="cannot be called, so it cannot be protected"):
        make()(thing)


def test_below_classmethod_and_staticmethod_it_works(make):
    breaker = make()

    class Service:
        @classmethod
        @breaker
        def name(cls) -> str:
            return cls.__name__

        @staticmethod
        @breaker
        def one() -> int:
            return 1

        @breaker
        def fail(self) -> None:
            raise Down(self)

    assert (Service.name(), Service().name(), Service.one()) == ("Service", "Service", 1)
    service = Service()
    with pytest.raises(Down) as caught:
        service.fail()
    assert caught.value.args == (service,)
    with pytest.raises(CircuitOpenError):
        Service.name()


# -- what is kept -----------------------------------------------------------------------------


def test_name_doc_signature_and_attributes_are_kept(make):
    def pay(amount: int, *, currency: str = "EUR") -> str:
        """Pay."""
        return f"{amount} {currency}"

    pay.csrf_exempt = True  # type: ignore[attr-defined]
    protected = make()(pay)
    assert protected.__name__ == "pay"
    assert protected.__doc__ == "Pay."
    assert protected.__wrapped__ is pay
    assert protected.csrf_exempt is True
    assert inspect.signature(protected) == inspect.signature(pay)
    assert not inspect.iscoroutinefunction(protected)
    for _ in range(2):
        assert protected(3, currency="CHF") == "3 CHF"
        assert protected(3) == "3 EUR"


async def test_a_coroutine_function_stays_one(make):
    protected = make()(aok)
    assert inspect.iscoroutinefunction(protected)
    assert inspect.signature(protected) == inspect.signature(aok)
    for _ in range(2):
        assert await protected("paid") == "paid"
        assert await protected(value="paid") == "paid"


async def test_callable_objects_and_partials_are_protected(make):
    breaker = make()
    for _ in range(2):
        assert breaker(Adder())(1, b=2) == 3
        assert breaker(functools.partial(Adder(), 5))() == 6
        assert await breaker(AsyncAdder())(1) == 2
        assert await breaker(functools.partial(AsyncAdder(), 1))() == 2
        assert await breaker(functools.partial(aok, 1))() == 1
    assert breaker(Adder()).tag == "adder"
    assert is_async(AsyncAdder())
    assert not is_async(Adder())
    with pytest.raises(Down):
        breaker(functools.partial(fail, Down))()
    assert breaker.state is OPEN


async def test_a_plain_function_that_is_marked_as_async_is_awaited(make):
    breaker = make()

    def marked() -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(Down())
        return future

    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(marked)
    else:
        vars(marked)["_is_coroutine"] = vars(asyncio.coroutines)["_is_coroutine"]
    with pytest.raises(Down):
        await breaker.call(marked)
    assert breaker.state is OPEN


def test_methods_are_called_with_what_they_are_bound_to(make):
    breaker = make()
    assert breaker.call([3, 1].count, 3) == 1
    assert breaker.call(Methods().of_nobody) is None
    assert breaker.call(Methods().plain, 5) == 5


async def test_the_call_s_own_exception_is_raised_as_it_is(make):
    breaker = make(failure_threshold=9)
    error = Down("the very one")
    protected, protected_async = breaker(fail), breaker(afail)
    for _ in range(3):  # the first call goes another way than the next
        with pytest.raises(Down) as caught:
            protected(error)
        assert caught.value is error
        with pytest.raises(Down) as caught:
            await protected_async(error)
        assert caught.value is error
        assert error.__context__ is error.__cause__ is None


def test_an_argument_error_of_the_caller_is_his(make):
    breaker = make(exceptions=Down)
    with pytest.raises(TypeError, match="unexpected keyword"):
        breaker(ok)(wrong=1)


async def test_wrong_arguments_of_an_async_trial_give_its_permit_back(half_open):
    breaker = half_open(exceptions=Down)
    with pytest.raises(TypeError, match="unexpected keyword"):
        await breaker(aok)(wrong=1)
    assert await breaker(aok)() == "ok"
    assert breaker.state is CLOSED


# -- what counts ------------------------------------------------------------------------------


async def test_failures_of_async_functions_count(make):
    breaker = make(failure_threshold=3)
    protected = breaker(afail)
    for _ in range(3):
        with pytest.raises(Down):
            await protected()
    assert breaker.state is OPEN
    with pytest.raises(CircuitOpenError):
        await protected()


async def test_a_sync_function_that_returns_a_coroutine_is_protected_to_its_end(make):
    breaker = make(failure_threshold=2)

    @breaker
    def dispatch(error: type[Exception] | None = None) -> Any:
        return afail(error) if error else aok()

    assert not inspect.iscoroutinefunction(dispatch)
    for _ in range(2):
        assert await dispatch() == "ok"
    for _ in range(2):
        coroutine = dispatch(Down)
        assert breaker.state is CLOSED
        with pytest.raises(Down):
            await coroutine
    assert breaker.state is OPEN
    with pytest.raises(CircuitOpenError):
        dispatch()


async def test_a_trial_that_returns_a_coroutine_lasts_until_its_end(half_open):
    breaker = half_open()

    @breaker
    def dispatch() -> Any:
        return inner()

    async def inner() -> CircuitState:
        assert breaker.call(ok) == "ok"  # rides on the trial
        state: CircuitState = breaker.state
        return state

    coroutine = dispatch()
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)  # not inside of the trial
    assert await coroutine == HALF_OPEN
    assert breaker.state is CLOSED


async def test_a_trial_s_coroutine_that_nobody_awaits_costs_its_lease_only(half_open, clock):
    breaker = half_open(trial_timeout=5)
    unawaited = aok()
    breaker(lambda: unawaited)().close()
    unawaited.close()
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)
    clock.advance(5)
    assert breaker.call(ok) == "ok"


class Lazy:
    """As Django's lazy objects: asking for the class does the work."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("woken up")


async def test_lazy_results_are_not_woken_up(make):
    breaker = make()
    lazy = Lazy()

    class Judging(Rules):
        judged = (int,)

    async def give() -> Lazy:
        return lazy

    assert protect(lambda: 5, lambda: breaker, Judging())() == 5
    sync = protect(lambda: lazy, lambda: breaker, Judging())
    asynchronous = protect(give, lambda: breaker, Judging())
    for _ in range(3):
        assert sync() is lazy
        assert await asynchronous() is lazy
    assert breaker.state is CLOSED


# -- rules ------------------------------------------------------------------------------------


def always(breaker: CircuitBreaker) -> Callable[[], CircuitBreaker]:
    return lambda: breaker


class Answers(Rules):
    """Numbers of 500 and above are failures, and a rejected call gets 503."""

    judged = (int,)

    def result(self, result: Any, args: tuple[Any, ...]) -> Outcome:
        return Outcome.FAILURE if result >= 500 else Outcome.SUCCESS

    def rejected(self, error: CircuitOpenError, func: Any, args: tuple[Any, ...]) -> Any:
        return (503, func, args)


async def test_rules_judge_results_and_answer_for_rejected_calls(make):
    async def a_ok(value: Any) -> Any:
        return value

    for func in (ok, a_ok, lambda value: a_ok(value)):
        breaker = make(f"{func}", failure_threshold=2)
        protected = protect(func, always(breaker), Answers())
        for value in (200, "text", 500, 404):
            assert await end_of(protected(value)) == value
        assert breaker.state is CLOSED
        assert await end_of(protected(502)) == 502
        assert breaker.state is OPEN
        for _ in range(2):
            assert await end_of(protected(200)) == (503, func, (200,))


async def end_of(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def test_a_function_is_judged_anew_whatever_it_returned_before(make):
    breaker = make(failure_threshold=3)
    results = iter(["text", 500, "text", 500, 500])
    protected = protect(lambda: next(results), lambda: breaker, Answers())
    for _ in range(4):
        protected()
    assert breaker.state is CLOSED
    protected()
    assert breaker.state is OPEN


class Broken(Rules):
    judged = (int,)

    def error(self, breaker: Any, error: BaseException, args: tuple[Any, ...]) -> Outcome:
        raise RuntimeError

    def result(self, result: Any, args: tuple[Any, ...]) -> Outcome:
        raise RuntimeError


@pytest.mark.parametrize("state", [CLOSED, HALF_OPEN])
async def test_rules_that_raise_never_hurt_the_call(make, clock, caplog, state):
    for func, gives in ((ok, 5), (aok, 5), (fail, Down), (afail, Down)):
        breaker = make(f"{func}")
        if state is HALF_OPEN:
            breaker.trip()
            clock.advance(30)
        protected = protect(func, always(breaker), Broken())
        for _ in range(2):
            caplog.clear()
            try:
                assert await end_of(protected(gives)) == 5
            except Down:
                assert gives is Down
            (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
            assert "could not be judged" in record.getMessage()
            assert breaker.state is state
        assert breaker.call(ok) == "ok"  # the permit has come back


def test_the_breaker_is_looked_up_at_the_first_call_and_again_when_its_gate_is_shut(make):
    breakers = [make("first"), make("second")]
    asked = []

    def resolve() -> Any:
        asked.append(1)
        return breakers[0]

    protected = protect(ok, resolve)
    assert asked == []
    for _ in range(3):
        protected()
    assert asked == [1]
    old = breakers.pop(0)
    old.view.shut()
    protected()
    protected()
    failing(breakers[0])
    with pytest.raises(CircuitOpenError) as caught:
        protected()
    assert caught.value.name == "second"


def test_an_unknown_breaker_is_the_caller_s_error():
    def resolve() -> Any:
        raise LookupError("no such breaker")

    with pytest.raises(LookupError, match="no such breaker"):
        protect(ok, resolve)()


async def test_a_passive_breaker_lets_all_pass_and_counts_nothing(make):
    breaker = make()
    breaker.passive = True
    for _ in range(3):
        with pytest.raises(Down):
            breaker(fail)()
        with pytest.raises(Down):
            await breaker(afail)()
        with pytest.raises(Down):
            breaker.call(fail)
        with pytest.raises(Down), breaker:
            fail()
        with pytest.raises(Down):
            async with breaker:
                fail()
    assert breaker.state is CLOSED
    assert breaker.mode == "auto"
    assert breaker.backend.overview().circuits == {}
