from __future__ import annotations

import asyncio
import copy
import functools
import gc
import pickle
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitState
from circuitbreaker_django.backends.store import StoreBusy
from circuitbreaker_django.core import nesting
from circuitbreaker_django.core.states import Outcome
from tests.core.calls import Down, afail, aok, fail, failing, ok
from tests.core.layers import (
    ASYNC,
    SYNC,
    Run,
    by_decorator,
    by_error_that_is_recorded,
    by_hand,
    by_sync_layer,
    by_with,
    every,
    raises,
)

CLOSED, OPEN = CircuitState.CLOSED, CircuitState.OPEN

RATE: dict[str, Any] = {
    "failure_threshold": None,
    "failure_rate_threshold": 1.0,
    "minimum_calls": 3,
}


@pytest.fixture(params=["plain", "rate", "slow", "streak"])
def breaker(request, make):
    """Opens at the third failure, by each kind of rule; each kind has a path of its own."""
    options: dict[str, Any] = {
        "plain": {"failure_threshold": 3},
        "rate": RATE,
        "slow": {**RATE, "slow_call_duration": 10},
        "streak": {"failure_threshold": None, "consecutive_failures": 3},
    }[request.param]
    return make(**options)


def failures(breaker: CircuitBreaker) -> int:
    """That were counted; a third one opens it."""
    assert (breaker.state is OPEN) is (breaker.view.failures >= 3)
    return breaker.view.failures


# -- once -------------------------------------------------------------------------------------


@every("inner", [*SYNC, by_hand])
@every("outer", SYNC)
def test_a_failure_that_passes_two_layers_counts_once(breaker, outer, inner):
    run = outer(breaker, inner(breaker, fail))
    for number in (1, 2, 3):
        failing(breaker, GeneratorExit)  # counts as nothing, but opens the gate
        raises(Down, run)
        assert failures(breaker) == number


@every("inner", [*ASYNC, by_sync_layer])
@every("outer", ASYNC)
async def test_a_failure_that_passes_two_layers_of_a_task_counts_once(breaker, outer, inner):
    run = outer(breaker, inner(breaker, afail))
    for number in (1, 2, 3):
        failing(breaker, GeneratorExit)
        with pytest.raises(Down):
            await run()
        assert failures(breaker) == number


def test_a_function_that_calls_itself_counts_once(breaker):
    @breaker
    def recursive(depth: int) -> None:
        if depth:
            recursive(depth - 1)
        raise Down

    for number in (1, 2, 3):
        raises(Down, lambda: recursive(20))
        assert failures(breaker) == number


def test_a_failure_that_was_recorded_inside_of_a_call_counts_once(breaker):
    run = by_decorator(breaker, by_error_that_is_recorded(breaker, fail))
    for number in (1, 2, 3):
        raises(Down, run)
        assert failures(breaker) == number


@pytest.mark.parametrize("how", ["cause", "context", "hidden", "group", "group in group"])
def test_what_came_of_a_counted_failure_counts_no_more(breaker, how):
    inner = breaker(fail)

    def translating() -> None:
        try:
            inner()
        except Down as error:
            cause = error
            if how == "context":
                raise KeyError  # noqa: B904 - the context is what this is about
            if how == "hidden":
                raise KeyError from None
        if how == "cause":
            raise KeyError from cause
        group = ExceptionGroup("several", [ValueError(), cause])
        raise group if how == "group" else ExceptionGroup("more", [group])

    run = by_with(breaker, by_decorator(breaker, translating))
    for number in (1, 2, 3):
        raises(Exception, run)
        assert failures(breaker) == number


@pytest.mark.parametrize(("later", "failed"), [(99, 1), (100, 2)])
def test_of_all_that_a_failure_came_of_a_hundred_exceptions_are_looked_at(make, later, failed):
    breaker = make(failure_threshold=9)
    inner = breaker(fail)

    def translating() -> None:
        try:
            inner()
        except Down as down:
            error: Exception = down
        for _ in range(later):
            outer = KeyError()
            outer.__cause__ = error
            error = outer
        raise error

    raises(KeyError, breaker(translating))
    assert breaker.view.failures == failed


def test_each_attempt_inside_of_a_call_counts_and_the_call_itself_no_more(breaker):
    inner = breaker(fail)

    def trying_twice() -> None:
        try:
            inner()
        except Down:
            inner()

    raises(Down, breaker(trying_twice))
    assert failures(breaker) == 2


def test_each_of_two_breakers_around_another_one_counts_once(make):
    ours, theirs = make("ours", failure_threshold=9), make("theirs", failure_threshold=9)
    run = ours(by_with(theirs, ours(by_with(theirs, fail))))
    for number in (1, 2, 3):
        raises(Down, run)
        assert (ours.view.failures, theirs.view.failures) == (number, number)


def test_a_layer_that_changed_hands_while_the_call_ran_counts_once(make):
    breaker = make(failure_threshold=9)

    def moving() -> None:
        breaker.view.shut()  # as when another process has written
        breaker(fail)()

    for number in (1, 2):
        raises(Down, breaker(moving))
        raises(Down, by_with(breaker, moving))
        assert breaker.view.failures == 2 * number


def test_a_nested_failure_is_one_call_of_a_rate(make):
    breaker = make(**{**RATE, "minimum_calls": 3})
    run = breaker(breaker(fail))
    raises(Down, run)
    raises(Down, run)
    now = breaker.backend.clock()
    (counted,) = breaker.view.tally.slices(now)
    assert (counted.calls, counted.failures) == (2, 2)


def test_a_nested_success_is_as_many_calls_of_a_rate_as_it_passes_layers(make):
    breaker = make(**{**RATE, "minimum_calls": 3})
    breaker(breaker(ok))()
    (counted,) = breaker.view.tally.slices(breaker.backend.clock())
    assert (counted.calls, counted.failures) == (2, 0)


def test_the_fallback_of_an_outer_layer_answers_for_a_failure_that_counted_inside(breaker):
    outer = breaker.protect(fallback="instead", fallback_on_failure=True)(breaker(fail))
    for number in (1, 2, 3):
        assert outer() == "instead"
        assert failures(breaker) == number


def test_a_trial_reports_a_failure_that_was_counted_before(half_open, make):
    breaker = half_open()
    error = Down()
    failing(make("other", failure_threshold=9), error)
    failing(breaker, error)
    assert breaker.state is OPEN


# -- each -------------------------------------------------------------------------------------


@every("layer", [*SYNC, by_hand])
def test_one_exception_that_is_raised_by_each_call_counts_each_time(breaker, layer):
    error = Down()
    run = layer(breaker, lambda: fail(error))
    for number in (1, 2, 3):
        raises(Down, run)
        assert failures(breaker) == number


@every("layer", [*SYNC, by_hand])
def test_one_exception_counts_each_time_though_the_store_is_busy(make, monkeypatch, layer):
    breaker = make(failure_threshold=3)

    def busy(*args: Any) -> Any:
        raise StoreBusy

    monkeypatch.setattr(breaker.backend, "_deliver", busy)
    error = Down()
    run = layer(breaker, lambda: fail(error))
    for number in (1, 2, 3):
        raises(Down, run)
        assert failures(breaker) == number


@every("layer", ASYNC)
async def test_one_exception_that_is_raised_by_each_task_counts_each_time(breaker, layer):
    error = Down()
    run = layer(breaker, lambda: afail(error))
    for number in (1, 2, 3):
        with pytest.raises(Down):
            await run()
        assert failures(breaker) == number


def test_one_exception_counts_though_it_was_dropped_before(make):
    breaker = make(failure_threshold=9)
    error = Down()

    def fail_late() -> None:
        breaker.reset()
        breaker.call(ok)  # the gate that is now open is older than the failure
        raise error

    raises(Down, breaker(fail_late))
    assert breaker.backend.overview().circuits["payments"].failures == ()
    raises(Down, by_with(breaker, lambda: fail(error)))
    assert len(breaker.backend.overview().circuits["payments"].failures) == 1


def test_one_exception_that_is_raised_by_nested_calls_counts_once_for_each(breaker):
    error = Down()
    run = by_with(breaker, by_decorator(breaker, lambda: fail(error)))
    for number in (1, 2, 3):
        raises(Down, run)
        assert failures(breaker) == number


def test_a_failure_while_an_earlier_one_is_handled_counts(breaker):
    protected = breaker(fail)
    try:
        protected()
    except Down:
        raises(Down, protected)
        raises(Down, by_with(breaker, fail))
    assert failures(breaker) == 3


def test_another_failure_of_a_call_inside_of_which_one_was_handled_counts(breaker):
    def handling() -> None:
        raises(Down, breaker(fail))
        raise KeyError

    raises(KeyError, breaker(handling))
    assert failures(breaker) == 2


def test_one_exception_that_fails_many_tasks_counts_for_each(make):
    breaker = make(failure_threshold=99)

    async def run() -> None:
        shared = asyncio.get_running_loop().create_future()

        @breaker
        async def wait(rounds: int) -> None:
            for _ in range(rounds):
                await asyncio.sleep(0)
            await shared

        tasks = [asyncio.ensure_future(wait(rounds)) for rounds in (9, 1, 5, 0, 3)]
        for _ in range(5):
            await asyncio.sleep(0)
        shared.set_exception(Down())
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {Down}

    asyncio.run(run())
    assert breaker.view.failures == 5


def test_one_exception_that_fails_many_threads_counts_for_each(make):
    breaker = make(failure_threshold=99)
    shared: Future[Any] = Future()
    inside = threading.Barrier(5)

    @breaker
    def wait() -> None:
        inside.wait(timeout=30)
        shared.result(timeout=30)

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(wait) for _ in range(4)]
        inside.wait(timeout=30)
        shared.set_exception(Down())
        assert {type(one.exception(timeout=30)) for one in waiting} == {Down}
    assert breaker.view.failures == 4


def test_a_layer_of_another_task_counts_for_itself(make):
    breaker = make(failure_threshold=9)

    async def gathering() -> None:
        await asyncio.gather(breaker(afail)(), breaker(aok)())

    raises(Down, lambda: asyncio.run(breaker(gathering)()))
    assert breaker.view.failures == 2


def test_only_the_newest_failures_are_remembered(make):
    breaker = make(failure_threshold=99)
    inner = breaker(fail)

    def handling() -> None:
        for _ in range(20):
            raises(Down, inner)

    breaker(handling)()
    error = Down()
    for _ in range(20):
        failing(breaker, error)
    assert len(nesting._counted.get()) == len(vars(error)[nesting._KEY]) == 8


# -- exceptions of any kind -------------------------------------------------------------------


class Slotted(Down):
    __slots__ = ()


@dataclass(frozen=True)
class Frozen(Down):
    code: int = 5


class Refusing(Down):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class Hiding(Down):
    @property
    def __dict__(self) -> Any:  # type: ignore[override] # so hostile it is
        raise RuntimeError("nobody is to look at this")


class Endless(Down):
    kept: ClassVar[list[Any]] = []

    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        self.kept.append(Endless())
        return self.kept[-1]


@pytest.mark.parametrize("kind", [Slotted, Frozen, Refusing, Endless, KeyError])
def test_exceptions_of_any_kind_count_once(breaker, kind):
    run = breaker(breaker(lambda: fail(kind())))
    for number in (1, 2, 3):
        raises(kind, run)
        assert failures(breaker) == number


def test_an_exception_that_does_not_let_itself_be_looked_at_counts_at_each_layer(make):
    breaker = make(failure_threshold=9)
    raises(Hiding, breaker(breaker(lambda: fail(Hiding()))))
    assert breaker.view.failures == 2


def test_an_exception_with_numbers_of_somebody_else_counts(make):
    breaker = make(failure_threshold=9)
    error = Down()
    vars(error)[nesting._KEY] = 5
    raises(Down, breaker(breaker(lambda: fail(error))))
    assert breaker.view.failures == 1


def in_a_circle() -> Down:
    first, second = Down(), Down()
    first.__cause__, second.__cause__ = second, first
    return first


@pytest.mark.parametrize("kind", [in_a_circle, Endless])
def test_a_chain_of_exceptions_without_an_end_ends(make, kind):
    breaker = make(failure_threshold=9)

    def failing_twice() -> None:
        raises(Down, breaker(fail))
        raise kind()

    raises(Down, breaker(failing_twice))
    assert breaker.view.failures == 2


def test_an_exception_that_was_counted_can_be_pickled_and_copied(make):
    breaker = make(failure_threshold=9)
    error = Down("why")
    failing(breaker, error)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(twin), twin.args) == (Down, ("why",))


def test_nothing_is_kept_of_an_exception_that_was_counted(make):
    breaker = make(failure_threshold=9)

    class Request:
        pass

    def handle(request: Request) -> None:
        raise Down

    def run() -> weakref.ref[Request]:
        request = Request()
        raises_quietly(breaker(by_with(breaker, functools.partial(breaker(handle), request))))
        return weakref.ref(request)

    gc.disable()
    try:
        assert run()() is None
    finally:
        gc.enable()


def raises_quietly(run: Run) -> None:
    """As ``raises``, that keeps nothing of the exception."""
    try:
        run()
    except Down:
        return
    raise AssertionError("nothing was raised")


def test_a_breaker_that_is_told_of_an_outcome_by_hand_counts_it(make):
    breaker = make(failure_threshold=2)
    error = Down()
    for _ in range(2):
        breaker.leave(breaker.enter(), Outcome.FAILURE, error)
    assert breaker.state is OPEN
