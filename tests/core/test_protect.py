from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from math import inf
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.core import protect as protect_module
from circuitbreaker_django.core.call import Rules
from circuitbreaker_django.core.fallback import Fallback
from circuitbreaker_django.core.protect import protect
from circuitbreaker_django.core.states import Outcome
from tests.core.calls import Down, afail, aok, fail, failing, ok
from tests.core.layers import ASYNC, SYNC, by_generator, every

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


class Methods:
    def plain(self, value: int) -> int:
        return value

    @classmethod
    def of_class(cls) -> None: ...

    @staticmethod
    def of_nobody() -> None: ...


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["decorator", "call"])
def test_classes_are_refused_and_told_of_method_decorator(make, how):
    breaker = make()
    with pytest.raises(TypeError) as raised:
        breaker(Adder) if how == "decorator" else breaker.call(Adder)
    assert str(raised.value) == (
        "Adder is a class: decorate its methods, or a view class with "
        '@method_decorator(..., name="dispatch")'
    )


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


class Answer:
    """Something of somebody's that can be awaited."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self.error = error

    def __await__(self) -> Generator[Any, Any, Any]:
        if self.error:
            yield from afail(self.error).__await__()
        return (yield from aok().__await__())


class Request(Answer):
    """As the requests of some clients: to be awaited, or to be entered."""

    async def __aenter__(self) -> str:
        return "entered"

    async def __aexit__(self, *exc_info: Any) -> None: ...


class Query(Answer):
    async def __aiter__(self) -> AsyncIterator[int]:
        yield 1


async def test_an_awaitable_that_a_sync_function_returns_is_followed(make):
    breaker = make(failure_threshold=2)
    protected = breaker(answer)
    for _ in range(2):
        assert await protected() == "ok"
        assert await breaker.call(answer) == "ok"
    for call in (protected, answering(breaker)):
        awaitable = call(Down)
        assert breaker.state is CLOSED
        with pytest.raises(Down):
            await awaitable
    assert breaker.state is OPEN


def answer(error: type[BaseException] | None = None) -> Answer:
    return Answer(error)


def answering(breaker: CircuitBreaker) -> Callable[..., Any]:
    return functools.partial(breaker.call, answer)


@pytest.mark.parametrize("kind", [Request, Query])
async def test_what_can_also_be_entered_or_iterated_over_is_handed_on(make, half_open, kind):
    result = kind()
    for breaker in (make("one"), half_open("two")):
        protected = breaker(lambda: result)
        for _ in range(2):
            assert protected() is result
        assert breaker.state is CLOSED


def future(
    error: BaseException | type[BaseException] | None = None,
) -> asyncio.Future[str]:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    if isinstance(error, asyncio.CancelledError):
        future.cancel()
    elif error is not None:
        future.set_exception(error)
    else:
        future.set_result("ok")
    return future


def task(error: BaseException | None = None) -> asyncio.Task[Any]:
    return asyncio.ensure_future(aok() if error is None else afail(error))


@pytest.mark.parametrize("start", [future, task])
async def test_a_future_is_handed_on_as_it_is_and_its_end_counts(half_open, start):
    breaker = half_open()
    results: list[Any] = []

    @breaker
    def protected(error: BaseException | None = None) -> Any:
        results.append(start(error))
        return results[-1]

    assert protected() is results[-1]
    assert breaker.state is HALF_OPEN
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)
    assert await results[-1] == "ok"
    await asyncio.sleep(0)
    assert breaker.state is CLOSED
    for error in (asyncio.CancelledError(), Down()):
        assert breaker.state is CLOSED
        assert protected(error) is results[-1]
        with pytest.raises(type(error)):
            await results[-1]
        await asyncio.sleep(0)
    assert breaker.state is OPEN


async def test_a_cancelled_future_gives_the_permit_back(half_open):
    breaker = half_open()
    waiting = asyncio.get_running_loop().create_future()
    breaker.call(lambda: waiting)
    waiting.cancel()
    await asyncio.sleep(0)
    assert breaker.state is HALF_OPEN
    assert breaker.call(ok) == "ok"


async def test_calls_within_the_task_of_a_trial_ride_on_it(half_open):
    breaker = half_open()

    async def nesting() -> Any:
        return breaker.call(ok)

    assert await breaker.call(lambda: asyncio.ensure_future(nesting())) == "ok"


async def test_asyncio_still_reports_the_error_of_a_future_that_nobody_awaits(make):
    reports: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, report: reports.append(report))
    breaker = make()
    breaker.call(future, Down("nobody knows"))
    await asyncio.sleep(0)
    assert breaker.state is OPEN
    gc.collect()
    (report,) = reports
    assert str(report["exception"]) == "nobody knows"


# -- results that are failures ----------------------------------------------------------------


@pytest.fixture
def judging(make):
    """Makes a breaker for which ``"bad"`` is a failure."""
    return functools.partial(make, result_predicate=lambda result: result == "bad")


async def test_results_are_judged_wherever_they_come_from(judging):
    for func in (ok, aok, lambda value: aok(value), lambda value: finished(value)):
        breaker = judging(f"{func}"[:200], failure_threshold=4)
        protected = breaker(func)
        for value in ("bad", "good", "bad", "good", "bad"):
            assert await end_of(protected(value)) == value
        assert breaker.state is CLOSED
        assert await end_of(breaker.call(func, "bad")) == "bad"
        await asyncio.sleep(0)
        assert breaker.state is OPEN


def finished(value: Any) -> asyncio.Future[Any]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


async def test_a_function_learns_that_results_are_judged_from_now_on(make, judging):
    breaker, other = make(), judging("other")
    protected, aprotected = breaker(ok), breaker(aok)
    for _ in range(3):
        protected("bad")
        await aprotected("bad")
    breaker.classifier = other.classifier
    breaker.view.shut()
    breaker.call(ok)  # somebody else opens the gate
    await aprotected("bad")
    assert breaker.state is OPEN
    breaker.reset()
    protected("bad")
    assert breaker.state is OPEN


def test_a_trial_whose_result_is_judged_and_good_closes_it(half_open):
    breaker = half_open(result_predicate=lambda result: result == "bad")
    assert breaker.call(ok, "good") == "good"
    assert breaker.state is CLOSED


def test_a_result_that_is_judged_may_come_late(judging, clock):
    breaker = judging(failure_threshold=9, slow_call_duration=10)
    breaker.call(clock.advance, 10)
    assert (breaker.view.slow, breaker.view.failures) == (1, 0)


def test_a_result_that_is_a_failure_is_asked_how_long_to_wait(judging):
    asked: list[Any] = []
    breaker = judging(failure_threshold=9, retry_after=asked.append)
    for value in ("bad", "good"):
        breaker.call(ok, value)
    assert asked == ["bad"]


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

    assert protect(lambda: 5, always(breaker), Judging())() == 5
    sync = protect(lambda: lazy, always(breaker), Judging())
    asynchronous = protect(give, always(breaker), Judging())
    for _ in range(3):
        assert sync() is lazy
        assert await asynchronous() is lazy
    assert breaker.state is CLOSED


# -- rules ------------------------------------------------------------------------------------


def always(breaker: CircuitBreaker) -> Callable[..., CircuitBreaker]:
    return lambda *args, **kwargs: breaker


class Answers(Rules):
    """Numbers of 500 and above are failures, and a rejected call gets 503."""

    judged = (int,)

    def result(self, breaker: Any, result: Any, args: tuple[Any, ...]) -> Outcome:
        return Outcome.FAILURE if result >= 500 else Outcome.SUCCESS

    def rejected(self, error: CircuitOpenError, args: tuple[Any, ...]) -> Any:
        return (503, args)


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
            assert await end_of(protected(200)) == (503, (200,))


async def end_of(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def test_a_function_is_judged_anew_whatever_it_returned_before(make):
    breaker = make(failure_threshold=3)
    results = iter(["text", 500, "text", 500, 500])
    protected = protect(lambda: next(results), always(breaker), Answers())
    for _ in range(4):
        protected()
    assert breaker.state is CLOSED
    protected()
    assert breaker.state is OPEN


class Broken(Rules):
    judged = (int,)

    def error(self, breaker: Any, error: BaseException, args: tuple[Any, ...]) -> Outcome:
        raise RuntimeError

    def result(self, breaker: Any, result: Any, args: tuple[Any, ...]) -> Outcome:
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
            what = (
                f"an exception of circuit {breaker.name!r}"
                if gives is Down
                else "a result of type int"
            )
            assert record.getMessage() == f"{what} could not be judged"
            assert breaker.state is state
        assert breaker.call(ok) == "ok"  # the permit has come back


class Echo(Rules):
    """Answers with the arguments for all that is rejected or fails, as numbers of 500 do."""

    judged = (int,)

    def __init__(self) -> None:
        super().__init__(Fallback(lambda *args, **kwargs: (args, kwargs), on_failure=True))
        self.seen: list[tuple[Any, ...]] = []

    def error(self, breaker: Any, error: BaseException, args: tuple[Any, ...]) -> Outcome:
        self.seen.append(args)
        return Outcome.FAILURE

    def result(self, breaker: Any, result: Any, args: tuple[Any, ...]) -> Outcome:
        self.seen.append(args)
        return Outcome.FAILURE if result >= 500 else Outcome.SUCCESS


def gives(number: int, *, value: Any = "text") -> Any:
    if value is Down:
        raise Down
    return value


async def agives(number: int, *, value: Any = "text") -> Any:
    return gives(number, value=value)


@pytest.mark.parametrize("options", [{}, {"failure_rate_threshold": 1, "slow_call_duration": 10}])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("func", [gives, agives])
async def test_whatever_way_it_goes_a_call_s_arguments_reach_all_who_ask(make, options, each, func):
    breaker: CircuitBreaker = make(**{"failure_threshold": 99, **options})
    found, rules = [], Echo()

    def resolve(*args: Any, **kwargs: Any) -> CircuitBreaker:
        found.append((args, kwargs))
        return breaker

    protected = protect(func, resolve, rules, each=each)
    calls = 0
    for value in ("text", 404, Down, 500):
        for opened in (False, True):
            if opened:  # by a call that has succeeded
                await end_of(protected(1))
            else:
                breaker.view.shut()
            found.clear()
            rules.seen.clear()
            given = await end_of(protected(7, value=value))
            calls += 1 + opened
            failed = value in (Down, 500)
            assert given == (((7,), {"value": value}) if failed else value)
            assert rules.seen == ([] if value == "text" else [(7,)])
            assert found == ([((7,), {"value": value})] if each or not opened else [])
    assert breaker.view.failures == 4
    assert breaker.view.all_calls == calls
    breaker.trip()
    for _ in range(2):
        assert await end_of(protected(7, value="text")) == ((7,), {"value": "text"})
    breaker.passive = True
    breaker.view.shut()
    assert await end_of(protected(7, value="word")) == "word"


class TakesOver(Rules):
    judged = (int,)
    taken: tuple[Any, Any] | None = None

    def result(self, breaker: Any, result: Any, args: tuple[Any, ...]) -> Outcome:
        return Outcome.FAILURE if result >= 500 else Outcome.SUCCESS

    def takes_over(self, call: Any, result: Any) -> bool:
        self.taken = (call, result)
        return True


@pytest.mark.parametrize("func", [ok, aok])
async def test_a_result_that_was_taken_over_has_not_ended_its_trial_yet(half_open, func):
    breaker, rules = half_open(), TakesOver()
    protected = protect(func, always(breaker), rules)
    assert await end_of(protected(5)) == 5
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)  # nor is anybody inside of it
    assert rules.taken is not None
    call, result = rules.taken
    assert result == 5
    call.end(Outcome.SUCCESS)
    assert breaker.state is CLOSED


@pytest.mark.parametrize("func", [ok, aok])
async def test_a_result_that_is_a_failure_is_not_taken_over(half_open, func):
    breaker, rules = half_open(), TakesOver()
    assert await end_of(protect(func, always(breaker), rules)(500)) == 500
    assert breaker.state is OPEN
    assert rules.taken is None


async def test_call_hands_on_the_arguments_to_a_function_of_any_kind(make):
    breaker = make()

    def items(number: int, *, value: Any) -> Iterator[Any]:
        yield gives(number, value=value)

    for func in (gives, agives, items, functools.partial(gives)):
        assert await item_of(breaker.call(func, 7, value=8)) == 8


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


async def test_the_breaker_of_each_call_is_found_by_its_arguments(make):
    breakers: dict[str, CircuitBreaker] = {name: make(name) for name in ("one", "two")}

    def find(name: str, *args: Any) -> CircuitBreaker:
        return breakers[name]

    def func(name: str, error: type[BaseException] | None = None) -> str:
        if error:
            raise error
        return name

    async def afunc(name: str, error: type[BaseException] | None = None) -> str:
        return func(name, error)

    def generates(name: str, error: type[BaseException] | None = None) -> Iterator[str]:
        yield func(name, error)

    async def agenerates(name: str, error: type[BaseException] | None = None) -> AsyncIterator[str]:
        yield func(name, error)

    for kind in (func, afunc, generates, agenerates):
        protected = protect(kind, find, each=True)
        for _ in range(2):
            assert await item_of(protected("one")) == "one"
        with pytest.raises(Down):
            await item_of(protected("one", Down))
        for _ in range(2):
            with pytest.raises(CircuitOpenError):
                await item_of(protected("one"))
            assert await item_of(protected("two")) == "two"
        breakers["one"].reset()


async def item_of(result: Any) -> Any:
    if inspect.isgenerator(result):
        return next(result)
    return await (anext(result) if inspect.isasyncgen(result) else end_of(result))


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


# -- successes of a rate ----------------------------------------------------------------------


@pytest.fixture
def rate(make):
    """A breaker for which successes matter too."""
    return make(
        failure_threshold=None,
        failure_rate_threshold=0.5,
        slow_call_duration=10,
        failure_window=600,
    )


@every("layer", SYNC)
def test_successes_of_a_rate_pass_by_and_count_once(rate, monkeypatch, layer):
    run = layer(rate, ok)
    run()
    monkeypatch.setattr(rate.backend, "count", lambda *args, **kwargs: pytest.fail("the long way"))
    for _ in range(4):
        run()
    assert [one.calls for one in rate.view.tally.slices(rate.backend.clock())] == [5]
    assert rate.view.untold().calls == 5


@every("layer", ASYNC)
async def test_successes_of_an_async_rate_pass_by_and_count_once(rate, monkeypatch, layer):
    run = layer(rate, aok)
    await run()
    monkeypatch.setattr(rate.backend, "count", lambda *args, **kwargs: pytest.fail("the long way"))
    for _ in range(4):
        await run()
    assert [one.calls for one in rate.view.tally.slices(rate.backend.clock())] == [5]
    assert rate.view.untold().calls == 5


@every("layer", [layer for layer in SYNC if layer is not by_generator])
def test_slow_calls_do_not_pass_by(rate, clock, layer):
    run = layer(rate, lambda: clock.advance(1))
    slow = layer(rate, lambda: clock.advance(10))
    for _ in range(2):
        run()
        slow()
    assert sum(one.slow for one in rate.view.tally.slices(clock.now)) == rate.view.slow == 2


@pytest.mark.parametrize("func", [ok, aok])
async def test_a_call_that_ends_when_something_is_due_does_not_pass_by(rate, monkeypatch, func):
    protected = rate(func)
    for _ in range(2):
        await end_of(protected())
    counted: list[Any] = []
    monkeypatch.setattr(rate.backend, "count", lambda *args, **kwargs: counted.append(args))
    monkeypatch.setattr(rate.view.tally, "due", rate.backend.seconds())
    await end_of(protected())
    assert len(counted) == 1
    assert rate.view.untold().calls == 3


@pytest.mark.parametrize("func", [ok, aok])
@pytest.mark.parametrize(("seconds", "slow"), [(9.999_999, 0), (10, 1)])
async def test_a_call_is_slow_from_the_limit_on_also_where_it_would_pass_by(
    rate, monkeypatch, clock, func, seconds, slow
):
    def after(seconds: float) -> Any:
        clock.advance(seconds)
        return func()

    async def aafter(seconds: float) -> Any:
        return await after(seconds)

    protected = rate(after if func is ok else aafter)
    for _ in range(2):
        await end_of(protected(0))
    monkeypatch.setattr(rate.view.tally, "due", inf)
    await end_of(protected(seconds))
    assert rate.view.slow == slow


@pytest.mark.parametrize("func", [gives, agives])
async def test_a_failure_that_a_rate_has_let_pass_by_is_judged(rate, func):
    protected = rate(func)
    await end_of(protected(1))
    with pytest.raises(Down):
        await end_of(protected(1, value=Down))
    assert rate.view.failures == 1


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_slow_failures_are_slow_too(rate, clock, asynchronous):
    def work(value: Any) -> Any:
        clock.advance(0 if value == "text" else 10)
        return gives(1, value=value)

    async def awork(value: Any) -> Any:
        return work(value)

    protected = protect(awork if asynchronous else work, always(rate), Echo())
    for number in (1, 2, 3):
        await end_of(protected(Down if number < 3 else 500))
        assert rate.view.slow == rate.view.failures == number
        await end_of(protected("text"))  # the next one passes by the gate


def test_a_success_from_before_a_reset_does_not_pass_by(rate):
    def reset() -> None:
        rate.reset()
        rate.call(ok)

    rate.call(reset)
    assert [one.calls for one in rate.view.tally.slices(rate.backend.clock())] == [1]


def test_results_that_alternate_between_two_types_pass_by(rate, monkeypatch):
    protected = rate(ok)
    for value in ("one", 1, "one"):
        protected(value)
    monkeypatch.setattr(protect_module, "_call", lambda *args: pytest.fail("the long way"))
    for value in (1, "one", 1, "one"):
        assert protected(value) == value


async def test_results_that_are_looked_at_do_not_pass_by_and_others_do(rate, monkeypatch):
    protected = protect(aok, always(rate), Answers())
    await protected("one")
    await protected(500)
    assert rate.view.failures == 1
    await protected("one")
    monkeypatch.setattr(protect_module, "_call", lambda *args: pytest.fail("the long way"))
    monkeypatch.setattr(rate.view.tally, "due", inf)
    await protected("one")


@pytest.mark.parametrize(("options", "looks"), [({}, 1), ({"slow_call_duration": 10}, 2)])
async def test_a_call_looks_at_the_clock_no_more_often_than_it_matters(clock, options, looks):
    looked: list[int] = []

    def looking() -> int:
        looked.append(clock())
        return looked[-1]

    backend = MemoryBackend(clock=looking)
    breaker = CircuitBreaker("rate", backend=backend, failure_rate_threshold=0.5, **options)
    protected, aprotected = breaker(ok), breaker(aok)
    for _ in range(3):
        looked.clear()
        protected()
        looked_sync, looked[:] = len(looked), []
        await aprotected()
    assert (looked_sync, len(looked)) == (looks, looks)
