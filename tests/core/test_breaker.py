from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from circuitbreaker_django import (
    CircuitBackendError,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Mode,
)
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.backends.process import Process
from circuitbreaker_django.backends.store import StoreBusy, StoreLost
from circuitbreaker_django.core.policy import POLICY_FIELDS, Numbers
from tests.clock import Clock
from tests.core.calls import Down, afail, aok, fail, failing, ok

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def by_call(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    return breaker.call(func)


#: One decorated function for each breaker, so that it has more calls than its first.
DECORATED: WeakKeyDictionary[CircuitBreaker, Any] = WeakKeyDictionary()
ASYNC_DECORATED: WeakKeyDictionary[CircuitBreaker, Any] = WeakKeyDictionary()


def by_decorator(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    if breaker not in DECORATED:

        def call(func: Callable[[], Any]) -> Any:
            return func()

        DECORATED[breaker] = breaker(call)
    return DECORATED[breaker](func)


def by_with(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    with breaker:
        return func()


def by_stack(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    with ExitStack() as stack:
        stack.enter_context(breaker)
        return func()


def by_hand(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    breaker.__enter__()
    try:
        result = func()
    except BaseException:
        breaker.__exit__(*sys.exc_info())
        raise
    breaker.__exit__(None, None, None)
    return result


def by_async(way: Callable[..., Any]) -> Callable[..., Any]:
    def run(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
        async def awaited() -> Any:
            return func()

        return asyncio.run(way(breaker, awaited))

    run.__name__ = way.__name__
    return run


async def by_async_call(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    return await breaker.call(func)


async def by_async_decorator(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    if breaker not in ASYNC_DECORATED:

        async def call(func: Callable[[], Any]) -> Any:
            return await func()

        ASYNC_DECORATED[breaker] = breaker(call)
    return await ASYNC_DECORATED[breaker](func)


async def by_async_with(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    async with breaker:
        return await func()


async def by_async_stack(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(breaker)
        return await func()


SYNC = [by_call, by_decorator, by_with, by_stack, by_hand]
ASYNC = [
    by_async(way) for way in (by_async_call, by_async_decorator, by_async_with, by_async_stack)
]
every_way = pytest.mark.parametrize("way", [*SYNC, *ASYNC], ids=lambda way: way.__name__)


def threads(*targets: Callable[[], Any]) -> list[threading.Thread]:
    started = [threading.Thread(target=target) for target in targets]
    for thread in started:
        thread.start()
    return started


def join(*started: threading.Thread) -> None:
    for thread in started:
        thread.join(timeout=30)
        assert not thread.is_alive()


# -- construction -----------------------------------------------------------------------------


def test_everything_has_a_default():
    breaker = CircuitBreaker()
    assert breaker.name is None
    assert breaker.state is CLOSED
    assert breaker.mode is Mode.AUTO
    assert repr(breaker) == "<CircuitBreaker None>"
    for _ in range(5):
        failing(breaker)
    with pytest.raises(CircuitOpenError, match=r"^this circuit is open; retry after 30 s$"):
        breaker.call(ok)


def test_breakers_made_by_hand_do_not_meet_though_they_have_one_name():
    one, other = CircuitBreaker("pay", failure_threshold=1), CircuitBreaker("pay")
    failing(one)
    assert (one.state, other.state) == (OPEN, CLOSED)


def test_breakers_of_one_name_on_one_backend_are_one_circuit(make):
    one, other, third = make(), make(), make("search")
    other.call(ok)
    failing(one)
    assert (other.state, third.state) == (OPEN, CLOSED)
    with pytest.raises(CircuitOpenError):
        other.call(ok)


@pytest.mark.parametrize("name", ["a", "p" * 200, "Zahlung: 支払い", "a b/c:d"])
def test_a_name_is_any_printable_text(name):
    assert CircuitBreaker(name).name == name


@pytest.mark.parametrize("name", ["", "p" * 201, "a\nb", "a\x00", "\ud800", "\u202e"])
def test_other_names_are_value_errors(name):
    with pytest.raises(ValueError, match=r"^name must be a string of 1 to 200 printable char"):
        CircuitBreaker(name)


@pytest.mark.parametrize("name", [5, b"pay", True, ["pay"]])
def test_a_name_that_is_no_string_is_a_type_error(name):
    with pytest.raises(TypeError, match=r"^name must be a string of 1 to 200 printable char"):
        CircuitBreaker(name)


def test_a_breaker_in_a_backend_needs_a_name(backend):
    with pytest.raises(ValueError, match=r"^name is needed for a breaker"):
        CircuitBreaker(backend=backend)


def test_options_are_given_by_name():
    with pytest.raises(TypeError):
        CircuitBreaker("pay", 5)  # type: ignore[call-arg, arg-type] # is wrong
    with pytest.raises(TypeError):
        CircuitBreaker("pay", failures=5)  # type: ignore[call-arg] # likewise


# -- closed -----------------------------------------------------------------------------------


@every_way
def test_it_opens_exactly_at_the_threshold(make, way):
    breaker = make(failure_threshold=3)
    for _ in range(3):
        assert breaker.state is CLOSED
        assert way(breaker, ok) == "ok"
        with pytest.raises(Down):
            way(breaker, fail)
    assert breaker.state is OPEN
    with pytest.raises(CircuitOpenError):
        way(breaker, ok)


@every_way
def test_successes_do_not_clear_failures(make, way):
    breaker = make(failure_threshold=2)
    failing(breaker)
    for _ in range(100):
        way(breaker, ok)
    failing(breaker)
    assert breaker.state is OPEN


def test_failures_at_the_edge_of_the_window(make, clock):
    breaker = make(failure_threshold=3, failure_window=10)
    failing(breaker)
    clock.advance(5)
    failing(breaker)
    clock.advance(5)
    failing(breaker)  # the first is as old as the window
    assert breaker.state is CLOSED
    clock.advance(4.999999)
    failing(breaker)
    assert breaker.state is OPEN


@every_way
@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        asyncio.CancelledError(),
        GeneratorExit(),
        CircuitOpenError("inner", OPEN, 1.0),
    ],
    ids=repr,
)
@pytest.mark.parametrize("open_gate", [False, True])
def test_neutral_outcomes_of_a_closed_circuit_count_as_nothing(make, way, error, open_gate):
    breaker = make(exceptions=Down)
    if open_gate:
        way(breaker, ok)
    with pytest.raises(type(error)):
        way(breaker, lambda: fail(error))
    assert breaker.state is CLOSED


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("way", SYNC, ids=lambda way: way.__name__)
def test_the_end_of_the_process_is_neutral(make, half_open, way, error):
    for breaker in (make("closed"), half_open()):
        state = breaker.state
        with pytest.raises(error):
            way(breaker, lambda: fail(error))
        assert breaker.state is state
        assert way(breaker, ok) == "ok"


# -- open -------------------------------------------------------------------------------------


@every_way
def test_each_rejection_is_a_new_error_with_the_rest_of_the_wait(make, clock, way):
    breaker = make(recovery_timeout=30)
    failing(breaker)
    errors = []
    for wait in (30.0, 18.0, 6.0):
        with pytest.raises(CircuitOpenError) as caught:
            way(breaker, lambda: pytest.fail("was called"))
        error = caught.value
        errors.append(error)
        assert (error.name, error.state, error.retry_after) == ("payments", OPEN, wait)
        assert error.__context__ is error.__cause__ is None
        clock.advance(12)
    assert len(set(map(id, errors))) == 3


def test_the_state_is_right_without_traffic_and_reading_it_changes_nothing(make, clock, backend):
    breaker = make()
    failing(breaker)
    before = dict(backend.overview().circuits)
    clock.advance(29.999999)
    assert breaker.state is OPEN
    clock.advance(0.000001)
    assert breaker.state is HALF_OPEN
    clock.advance(10**6)
    assert breaker.state is HALF_OPEN
    assert backend.overview().circuits == before


def test_a_rejection_is_told_at_debug_level_only(make, caplog):
    breaker = make()
    failing(breaker)
    caplog.clear()
    caplog.set_level(logging.DEBUG, "circuitbreaker_django")
    for _ in range(2):
        with pytest.raises(CircuitOpenError):
            breaker.call(ok)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert caplog.messages == ["circuit 'payments' is open; retry after 30 s"] * 2


def test_counters_count_calls_failures_neutral_ends_and_rejections(make, clock):
    breaker = make(failure_threshold=2, exceptions=Down)
    view = breaker.view
    breaker.call(ok)
    failing(breaker, ValueError)
    failing(breaker)
    failing(breaker)
    for _ in range(3):
        with pytest.raises(CircuitOpenError):
            breaker.call(ok)
    clock.advance(30)
    failing(breaker)
    calls = view.calls + view.gate.calls
    assert (calls, view.failures, view.ignored, view.rejected) == (5, 3, 1, 3)


async def test_a_backend_that_cannot_be_asked_ahead_costs_no_caller_an_error(
    half_open, monkeypatch, caplog
):
    async def broken(view, policy):
        raise RuntimeError("a fault of ours")

    breaker = half_open(failure_threshold=1)
    monkeypatch.setattr(breaker.backend, "ask_ahead", broken)
    assert await breaker(aok)() == "ok"
    assert breaker.state is CLOSED
    assert "a fault of ours" in caplog.text
    assert "a permit of circuit 'payments' could not be asked for ahead" in caplog.messages


async def test_a_permit_is_asked_for_ahead_only_where_no_gate_is_open(half_open, monkeypatch):
    asked: list[Any] = []

    async def ask(*args):
        asked.append(args)

    breaker = half_open()
    monkeypatch.setattr(breaker.backend, "ask_ahead", ask)
    await breaker(aok)()
    assert asked == [(breaker.view, breaker.policy)]
    breaker.call(ok)
    async with breaker:
        pass
    breaker.passive = True
    breaker.view.shut()
    async with breaker:
        pass
    assert len(asked) == 1


@pytest.mark.parametrize("rules", [{}, {"failure_rate_threshold": 1.0}], ids=["count", "rate"])
async def test_a_call_that_was_cut_off_is_a_call_and_neutral(make, rules):
    breaker = make(failure_threshold=9, **rules)
    cut, acut = breaker(fail), breaker(afail)
    with pytest.raises(Down):
        cut()  # what comes next has a gate to pass by
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            cut(KeyboardInterrupt)
        with pytest.raises(asyncio.CancelledError):
            await acut(asyncio.CancelledError)
    assert (breaker.view.all_calls, breaker.view.failures, breaker.view.ignored) == (5, 1, 4)


# -- half-open --------------------------------------------------------------------------------


@every_way
def test_a_successful_trial_closes_it(half_open, way):
    breaker = half_open()
    assert way(breaker, ok) == "ok"
    assert breaker.state is CLOSED
    assert way(breaker, ok) == "ok"


@every_way
def test_a_failed_trial_opens_it_for_the_whole_time_again(half_open, way, clock):
    breaker = half_open()
    with pytest.raises(Down):
        way(breaker, fail)
    assert breaker.state is OPEN
    with pytest.raises(CircuitOpenError) as caught:
        way(breaker, ok)
    assert caught.value.retry_after == 30.0


@every_way
def test_as_many_trials_as_the_success_threshold_must_succeed(half_open, way):
    breaker = half_open(success_threshold=3)
    for _ in range(3):
        assert breaker.state is HALF_OPEN
        way(breaker, ok)
    assert breaker.state is CLOSED


@every_way
@pytest.mark.parametrize(
    "error",
    [ValueError(), asyncio.CancelledError(), GeneratorExit(), CircuitOpenError("x", OPEN, 1.0)],
    ids=repr,
)
def test_a_neutral_trial_counts_as_nothing_and_gives_its_permit_back(half_open, way, error):
    breaker = half_open(exceptions=Down)
    for _ in range(3):
        with pytest.raises(type(error)):
            way(breaker, lambda: fail(error))
        assert breaker.state is HALF_OPEN
    assert way(breaker, ok) == "ok"


@every_way
@pytest.mark.parametrize("most", [1, 3])
def test_others_are_rejected_while_as_many_trials_run_as_may(half_open, way, most):
    breaker = half_open(half_open_max_calls=most, success_threshold=most)
    errors: list[CircuitOpenError] = []

    def trial(left: int) -> None:
        if left:
            join(*threads(lambda: way(breaker, lambda: trial(left - 1))))
            return
        with pytest.raises(CircuitOpenError) as caught:
            contextvars.Context().run(breaker.call, ok)  # not inside of a trial
        errors.append(caught.value)

    trial(most)
    (error,) = errors
    assert error.state is HALF_OPEN
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 1
    assert breaker.state is CLOSED


@pytest.mark.parametrize("most", [1, 3])
def test_at_the_edge_to_half_open_32_threads_run_exactly_the_trials_allowed(half_open, most):
    breaker = half_open(half_open_max_calls=most, success_threshold=most, trial_timeout=3600)
    start, done = threading.Barrier(32), threading.Event()
    ran, rejected, broken = [], [], []

    def trial() -> None:
        ran.append(1)
        assert done.wait(30)

    def worker(way: Callable[..., Any]) -> None:
        start.wait()
        try:
            way(breaker, trial)
        except CircuitOpenError as error:
            rejected.append(error)
            if len(rejected) == 32 - most:
                done.set()
        except BaseException as error:
            broken.append(error)

    ways = [*SYNC, *SYNC, *SYNC, by_with]
    join(*threads(*[lambda way=way: worker(way) for way in [*ways, *ways]]))
    assert (len(ran), len(rejected), broken) == (most, 32 - most, [])
    assert {error.state for error in rejected} == {HALF_OPEN}
    assert breaker.state is CLOSED


def test_8_slow_calls_run_in_parallel(make):
    breaker = make()
    together = threading.Barrier(8)
    ways = [*SYNC, *ASYNC][:8]
    join(*threads(*[lambda way=way: way(breaker, lambda: together.wait(30)) for way in ways]))
    assert not together.broken


@every_way
@pytest.mark.parametrize("state", [CLOSED, HALF_OPEN])
def test_no_lock_is_held_in_the_user_s_call(make, half_open, way, state):
    breaker = half_open(success_threshold=9) if state is HALF_OPEN else make()
    other = make("other")

    def call() -> None:
        # Each needs the locks that a call of another thread could hold.
        def work() -> None:
            failing(other)
            breaker.trip()
            breaker.reset()

        join(*threads(work))

    way(breaker, call)
    assert other.state is OPEN


# -- nested calls, child tasks ----------------------------------------------------------------


@every_way
@pytest.mark.parametrize("inner", SYNC, ids=lambda way: way.__name__)
def test_a_trial_that_calls_its_own_breaker_is_let_through_on_its_own_permit(half_open, way, inner):
    breaker = half_open(success_threshold=2)

    def trial() -> str:
        with pytest.raises(Down):
            inner(breaker, fail)  # counts as nothing: the trial's own end decides
        assert breaker.state is HALF_OPEN
        return str(inner(breaker, lambda: inner(breaker, ok)))

    assert way(breaker, trial) == "ok"
    assert breaker.state is HALF_OPEN
    way(breaker, ok)
    assert breaker.state is CLOSED


async def test_a_trial_that_awaits_its_own_breaker_is_let_through(half_open):
    breaker = half_open()

    @breaker
    async def inner() -> str:
        async with breaker, AsyncExitStack() as stack:
            await stack.enter_async_context(breaker)
            return "ok"

    @breaker
    async def outer() -> str:
        assert await asyncio.create_task(inner()) == "ok"
        assert await asyncio.to_thread(breaker.call, ok) == "ok"
        return str(await inner())

    assert await outer() == "ok"
    assert breaker.state is CLOSED


async def test_a_child_task_rides_no_more_when_the_trial_has_ended(half_open):
    breaker = half_open(success_threshold=2)
    ended = asyncio.Event()
    children = []

    async def child() -> str:
        await ended.wait()
        return str(await breaker.call(aok))

    async with breaker:
        children.append(asyncio.create_task(child()))
        await asyncio.sleep(0)
    blocker = breaker.backend.admit(breaker.view, breaker.policy, breaker.name)
    assert not isinstance(blocker, CircuitOpenError)  # another has the only permit
    ended.set()
    with pytest.raises(CircuitOpenError):
        await children[0]


async def test_a_trial_of_one_breaker_opens_no_other(half_open, make):
    breaker, other = half_open("first"), half_open("second")
    other.backend.admit(other.view, other.policy, other.name)
    async with breaker:
        with pytest.raises(CircuitOpenError):
            other.call(ok)
    assert breaker.state is CLOSED


def test_an_inner_circuit_that_is_open_is_neutral_for_the_outer(half_open, make):
    outer, inner = half_open("outer"), make("inner")
    inner.trip()
    with pytest.raises(CircuitOpenError) as caught, outer:
        inner.call(ok)
    assert caught.value.name == "inner"
    assert outer.state is HALF_OPEN
    outer.call(ok)
    assert outer.state is CLOSED


# -- leases -----------------------------------------------------------------------------------


def hang(breaker: CircuitBreaker) -> Callable[[], None]:
    """A trial in another thread that ends when the function returned is called."""
    begun, end = threading.Event(), threading.Event()

    def trial() -> None:
        begun.set()
        assert end.wait(30)

    (thread,) = threads(lambda: breaker.call(trial))
    assert begun.wait(30)

    def let_go() -> None:
        end.set()
        join(thread)

    return let_go


def test_a_trial_that_hangs_gives_way_when_its_lease_is_over(half_open, clock):
    breaker = half_open(trial_timeout=10, success_threshold=2)
    end = hang(breaker)
    clock.advance(9.999999)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(ok)
    assert caught.value.retry_after == pytest.approx(1e-6)
    clock.advance(0.000001)
    assert breaker.call(ok) == "ok"
    assert breaker.state is HALF_OPEN
    end()  # late, and in its epoch: counts
    assert breaker.state is CLOSED


def test_denied_attempts_do_not_prolong_a_lease(half_open, clock):
    breaker = half_open(trial_timeout=10)
    end = hang(breaker)
    for _ in range(10):
        with pytest.raises(CircuitOpenError):
            breaker.call(ok)
        clock.advance(1)
    assert breaker.call(ok) == "ok"
    end()


async def test_a_trial_that_is_cancelled_gives_its_permit_back_at_once(half_open):
    breaker = half_open()

    @breaker
    async def trial() -> None:
        await asyncio.Event().wait()

    async def block() -> None:
        async with breaker:
            await asyncio.Event().wait()

    for start in (trial, block):
        task = asyncio.create_task(start())
        await asyncio.sleep(0)
        with pytest.raises(CircuitOpenError):
            breaker.call(ok)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert breaker.state is HALF_OPEN
    assert breaker.call(ok) == "ok"


async def test_a_trial_whose_time_is_up_counts_where_time_outs_do(half_open):
    breaker = half_open()
    with pytest.raises(TimeoutError):
        async with breaker, asyncio.timeout(0):
            await asyncio.Event().wait()
    assert breaker.state is OPEN


def test_a_trial_that_is_garbage_gives_its_permit_back(half_open):
    breaker = half_open()

    class Never:
        def __await__(self):
            yield

    async def trial() -> None:
        async with breaker:
            await Never()

    coroutine = trial()
    contextvars.Context().run(coroutine.send, None)
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)
    del coroutine
    gc.collect()
    assert breaker.call(ok) == "ok"


def test_a_token_reports_once(half_open):
    breaker = half_open(success_threshold=2)
    trial = breaker.enter()
    assert not isinstance(trial, CircuitOpenError)
    breaker.leave(trial, outcome_of(True))
    breaker.leave(trial, outcome_of(True))
    assert breaker.state is HALF_OPEN
    breaker.leave(trial, outcome_of(False))
    assert breaker.state is HALF_OPEN


def outcome_of(success: bool) -> Any:
    from circuitbreaker_django.core.states import Outcome

    return Outcome.SUCCESS if success else Outcome.FAILURE


# -- late results -----------------------------------------------------------------------------


def trip_and_reset(breaker: CircuitBreaker) -> None:
    breaker.trip()
    breaker.reset()


def trip_and_wait(breaker: CircuitBreaker) -> None:
    breaker.trip()
    breaker.backend.clock.advance(30)  # type: ignore[attr-defined] # it is a test's


MOVES = [CircuitBreaker.reset, CircuitBreaker.trip, trip_and_reset, trip_and_wait]


# An exit called by hand cannot know when its block began, if a gate was open.
@pytest.mark.parametrize(
    "way", [way for way in (*SYNC, *ASYNC) if way is not by_hand], ids=lambda way: way.__name__
)
@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
@pytest.mark.parametrize("end", [ok, fail])
@pytest.mark.parametrize("open_gate", [False, True])
def test_late_results_of_a_closed_circuit_change_nothing(make, way, move, end, open_gate):
    breaker = make()
    if open_gate:
        breaker.call(ok)
    after = []

    def call() -> None:
        move(breaker)
        after.append((breaker.state, dict(breaker.backend.overview().circuits)))
        end()

    try:
        way(breaker, call)
    except Down:
        pass
    assert after == [(breaker.state, breaker.backend.overview().circuits)]


@pytest.mark.parametrize(
    "way", [way for way in (*SYNC, *ASYNC) if way is not by_hand], ids=lambda way: way.__name__
)
@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
@pytest.mark.parametrize("end", [ok, fail])
def test_late_results_of_trials_change_nothing(half_open, way, move, end):
    breaker = half_open()
    after = []

    def call() -> None:
        move(breaker)
        after.append((breaker.state, dict(breaker.backend.overview().circuits)))
        end()

    try:
        way(breaker, call)
    except Down:
        pass
    assert after == [(breaker.state, breaker.backend.overview().circuits)]


def test_failures_in_flight_when_it_opened_do_not_prolong_its_time(make, clock):
    breaker = make()

    def fail_late() -> None:
        failing(breaker)
        clock.advance(10)
        raise Down

    with pytest.raises(Down):
        by_with(breaker, fail_late)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(ok)
    assert caught.value.retry_after == 20.0


# -- with -------------------------------------------------------------------------------------


def test_a_block_gives_the_breaker_and_swallows_nothing(make):
    breaker = make()
    with breaker as same:
        assert same is breaker
    with pytest.raises(Down), breaker:
        raise Down


@pytest.mark.parametrize("state", ["passive", "disabled"])
def test_a_block_that_is_not_counted_is_not_judged(make, state):
    breaker = make(failure_predicate=lambda error: pytest.fail("it was asked"))
    if state == "passive":
        breaker.passive = True
    else:
        breaker.disable()
    breaker.view.shut()
    with pytest.raises(ConnectionError), breaker:
        raise ConnectionError


async def test_an_async_block_gives_the_breaker(make):
    breaker = make()
    for _ in range(2):
        async with breaker as same:
            assert same is breaker


def test_many_threads_in_one_with_keep_their_permits_apart(half_open):
    breaker = half_open(half_open_max_calls=8, success_threshold=8)
    together = threading.Barrier(8)

    def work() -> None:
        with breaker:
            together.wait(30)
        together.wait(30)

    join(*threads(*[work] * 8))
    assert breaker.state is CLOSED


async def test_interleaved_tasks_in_one_async_with_keep_their_permits_apart(half_open):
    breaker = half_open(half_open_max_calls=3, success_threshold=2)
    events = [asyncio.Event() for _ in range(3)]

    async def work(number: int, error: type[BaseException] | None) -> None:
        async with breaker:
            await events[number].wait()
            if error:
                raise error

    errors = [None, asyncio.CancelledError, None]
    tasks = [asyncio.create_task(work(n, error)) for n, error in enumerate(errors)]
    await asyncio.sleep(0)
    states = []
    for number in (1, 2, 0):
        events[number].set()
        await asyncio.wait([tasks[number]])
        states.append(breaker.state)
    assert states == [HALF_OPEN, HALF_OPEN, CLOSED]


def exit_of(breaker: CircuitBreaker) -> Any:
    """What a ``with`` statement takes first, before it calls ``__enter__``."""
    return type(breaker).__dict__["__exit__"].__get__(breaker, type(breaker))


@pytest.mark.parametrize(("end", "state"), [(ok, CLOSED), (fail, OPEN)])
def test_another_thread_between_the_two_looks_of_a_with_statement_takes_no_trial(
    half_open, end, state
):
    breaker = half_open(half_open_max_calls=2)
    exit = exit_of(breaker)
    end_other = hang(breaker)
    breaker.__enter__()
    leave(exit, end)
    assert breaker.state is state
    end_other()


def leave(exit: Any, end: Callable[[], Any]) -> None:
    try:
        end()
    except Down:
        exit(*sys.exc_info())
    else:
        exit(None, None, None)


def test_a_circuit_that_opens_between_the_two_looks_rejects(make):
    breaker = make()
    breaker.call(ok)
    exit_of(breaker)
    failing(breaker)
    with pytest.raises(CircuitOpenError):
        breaker.__enter__()


@pytest.mark.parametrize("end", [ok, fail])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_circuit_that_is_half_open_between_the_two_looks_loses_no_permit(
    make, clock, end, replaced
):
    breaker = make()
    breaker.call(ok)
    exit = exit_of(breaker)
    if replaced:  # as by a bell that has rung for another circuit
        breaker.view.open_gate(breaker.backend.bell, breaker.policy, clock())
    failing(breaker)
    clock.advance(30)
    breaker.__enter__()
    leave(exit, end)
    assert breaker.state is (CLOSED if end is ok else OPEN)


@pytest.mark.parametrize(("end", "state"), [(ok, CLOSED), (fail, OPEN)])
def test_a_circuit_that_closes_between_the_two_looks_counts_nothing_of_before(
    make, clock, end, state
):
    breaker = make()
    exit = exit_of(breaker)
    breaker.call(ok)  # makes the gate: no other epoch
    breaker.__enter__()
    leave(exit, end)
    assert breaker.state is state


def test_blocks_that_end_out_of_order_report_their_own_ends(half_open):
    breaker = half_open(half_open_max_calls=1, success_threshold=1)

    @contextmanager
    def block():
        with breaker:
            yield

    trial, rider = block(), block()
    trial.__enter__()
    rider.__enter__()
    trial.__exit__(None, None, None)
    assert breaker.state is CLOSED
    assert not rider.__exit__(Down, Down(), None)
    assert breaker.state is CLOSED


def test_trials_of_two_breakers_that_end_out_of_order(half_open):
    first, second = half_open("first"), half_open("second")
    with ExitStack() as one, ExitStack() as two:
        one.enter_context(first)
        two.enter_context(second)
        one.close()
        assert (first.state, second.state) == (CLOSED, HALF_OPEN)
        two.close()
        assert second.state is CLOSED


def test_a_generator_suspended_inside_of_a_block_keeps_its_own_admission(make, clock):
    breaker = make(success_threshold=1)

    def rows():
        with breaker:
            yield 1
            raise Down

    breaker.call(ok)
    closed = rows()
    next(closed)
    breaker.trip()
    clock.advance(30)
    trial = rows()
    next(trial)  # a trial, suspended
    with pytest.raises(Down):
        next(closed)  # of a closed epoch: late
    assert breaker.state is HALF_OPEN
    with pytest.raises(Down):
        next(trial)
    assert breaker.state is OPEN


@pytest.mark.parametrize("how", ["with", "stack"])
def test_a_generator_that_goes_on_in_another_context_reports_its_trial(half_open, how):
    breaker = half_open()

    def rows():
        with ExitStack() as stack:
            if how == "stack":
                stack.enter_context(breaker)
                yield 1
            else:
                with breaker:
                    yield 1

    trial = rows()
    next(trial)
    (thread,) = threads(lambda: list(trial))
    join(thread)
    assert breaker.state is CLOSED
    breaker.trip()
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)  # nothing is left to ride on


def test_a_generator_that_is_closed_gives_its_permit_back(half_open):
    breaker = half_open()

    def rows():
        with breaker:
            yield 1

    trial = rows()
    next(trial)
    trial.close()
    assert breaker.state is HALF_OPEN
    assert breaker.call(ok) == "ok"


async def test_an_async_generator_suspended_inside_of_a_block_reports_its_trial(half_open):
    breaker = half_open()

    async def rows():
        async with breaker:
            yield 1

    trial = rows()
    await asyncio.create_task(anext(trial))
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)
    with pytest.raises(StopAsyncIteration):
        await asyncio.create_task(anext(trial))
    assert breaker.state is CLOSED


def test_a_stack_holds_several_blocks_of_one_breaker(half_open):
    breaker = half_open(success_threshold=2)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(breaker)
    assert breaker.state is HALF_OPEN  # one trial, with two that rode on it
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(breaker)
        stack.callback(fail)  # runs first
        with pytest.raises(Down):
            stack.close()
    assert breaker.state is OPEN


def test_a_stack_s_block_inside_of_a_trial_leaves_the_trial_alone(half_open):
    breaker = half_open()
    with breaker:
        with ExitStack() as stack:
            stack.enter_context(breaker)
        assert breaker.state is HALF_OPEN
    assert breaker.state is CLOSED


def test_a_stack_that_was_left_open_takes_no_other_s_trial(make, clock):
    breaker = make()
    breaker.call(ok)
    with ExitStack() as stack:
        stack.enter_context(breaker)  # by an open gate
        breaker.trip()
        clock.advance(30)
        by_hand(breaker, ok)
    assert breaker.state is CLOSED
    breaker.trip()
    clock.advance(30)
    by_hand(breaker, ok)
    assert breaker.state is CLOSED


def test_a_stack_for_another_breaker_does_not_count(half_open, make):
    other, breaker = make("other"), half_open()
    other.call(ok)
    with ExitStack() as stack:
        stack.enter_context(other)
        with pytest.raises(Down), breaker:
            raise Down
    assert (other.state, breaker.state) == (CLOSED, OPEN)


class Delegate:
    """A context manager that passes both ends on, as many clients do."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.breaker = breaker

    def __enter__(self) -> Delegate:
        self.breaker.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.breaker.__exit__(*exc_info)


def test_both_ends_called_by_hand_report_a_trial_once_and_at_its_end(half_open):
    breaker = half_open(success_threshold=2)
    with Delegate(breaker):
        with Delegate(breaker):
            pass
        with pytest.raises(Down), Delegate(breaker):
            raise Down
        assert breaker.state is HALF_OPEN
    with pytest.raises(Down), Delegate(breaker):
        raise Down
    assert breaker.state is OPEN


def test_an_end_called_by_hand_inside_of_a_function_s_trial_leaves_it_alone(half_open):
    breaker = half_open()

    def trial() -> None:
        with Delegate(breaker):
            pass
        assert breaker.state is HALF_OPEN

    breaker.call(trial)
    assert breaker.state is CLOSED


def test_an_exit_without_an_enter_ends_no_trial(half_open):
    breaker = half_open()
    breaker.__exit__(None, None, None)
    breaker.__exit__(Down, Down(), None)
    assert breaker.state is HALF_OPEN


def test_a_subclass_may_add_to_both_ends(make, backend):
    told = []

    class Telling(CircuitBreaker):
        __slots__ = ()

        def __enter__(self):
            told.append("enter")
            return super().__enter__()

        def __exit__(self, *exc_info):
            told.append("exit")
            return super().__exit__(*exc_info)

    breaker = Telling("telling", failure_threshold=1, backend=backend)
    with pytest.raises(Down), breaker:
        raise Down
    assert told == ["enter", "exit"]
    assert breaker.state is OPEN


# -- commands ---------------------------------------------------------------------------------


def test_trip_opens_as_a_failure_would(make, clock):
    breaker = make()
    breaker.trip(reason="upgrade", actor="ann")
    assert (breaker.state, breaker.mode) == (OPEN, Mode.AUTO)
    clock.advance(30)
    assert breaker.call(ok) == "ok"
    assert breaker.state is CLOSED


def test_trip_again_restarts_its_time(make, clock):
    breaker = make()
    breaker.trip()
    clock.advance(20)
    breaker.trip()
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(ok)
    assert caught.value.retry_after == 30.0


def test_a_hold_without_an_end_lasts_until_reset(make, clock):
    breaker = make()
    breaker.trip(hold=True)
    clock.advance(10**8)
    assert (breaker.state, breaker.mode) == (OPEN, Mode.FORCED_OPEN)
    assert breaker.mode == "forced_open"
    for _ in range(2):
        with pytest.raises(CircuitOpenError, match="held open") as caught:
            breaker.call(ok)
        assert (caught.value.state, caught.value.retry_after) == (OPEN, None)
    breaker.reset()
    assert (breaker.state, breaker.mode) == (CLOSED, Mode.AUTO)
    assert breaker.call(ok) == "ok"


def test_a_hold_with_an_end_is_half_open_then(make, clock):
    breaker = make()
    breaker.trip(duration=100)
    clock.advance(60)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(ok)
    assert caught.value.retry_after == 40.0
    assert breaker.mode is Mode.FORCED_OPEN
    clock.advance(40)
    assert (breaker.state, breaker.mode) == (HALF_OPEN, Mode.AUTO)
    assert breaker.call(ok) == "ok"
    assert breaker.state is CLOSED


def test_a_trial_under_way_does_not_close_a_circuit_that_is_held_meanwhile(half_open):
    breaker = half_open()
    with breaker:
        breaker.trip(hold=True)
    assert breaker.mode is Mode.FORCED_OPEN
    assert breaker.state is OPEN


def test_a_trip_of_a_held_circuit_leaves_it_held(make, clock):
    breaker = make()
    breaker.trip(hold=True)
    breaker.trip()
    clock.advance(1000)
    assert breaker.state is OPEN


def test_reset_clears_counters_and_hold(make):
    breaker = make(failure_threshold=2)
    failing(breaker)
    breaker.reset(reason="well", actor="ann")
    failing(breaker)
    assert breaker.state is CLOSED
    breaker.trip(hold=True)
    breaker.reset()
    failing(breaker)
    assert breaker.state is CLOSED


def test_reset_of_a_closed_circuit_is_a_transition(make, backend):
    breaker = make()
    breaker.call(ok)
    epoch = breaker.view.epoch
    breaker.reset()
    assert breaker.view.epoch > epoch
    assert [event.cause for _, event in backend.events()] == ["reset"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hold": 1}, TypeError, "hold must be True or False, not 1"),
        ({"hold": True, "duration": 5}, ValueError, "hold and duration: give one of them"),
        ({"duration": 0}, ValueError, "duration must be a number of seconds"),
        ({"duration": True}, TypeError, "duration must be a number of seconds"),
        ({"duration": float("nan")}, ValueError, "duration must be a number of seconds"),
        ({"duration": float("inf")}, ValueError, "duration must be a number of seconds"),
        ({"reason": 5}, TypeError, "reason must be a string, not 5"),
        ({"actor": None}, TypeError, "actor must be a string, not None"),
    ],
)
def test_arguments_of_trip_are_checked(make, options, error, message):
    breaker = make()
    with pytest.raises(error, match=f"^{message}"):
        breaker.trip(**options)
    assert breaker.state is CLOSED


@pytest.mark.parametrize("options", [{"reason": 5}, {"actor": b"ann"}])
def test_arguments_of_reset_are_checked(make, options):
    with pytest.raises(TypeError, match="must be a string"):
        make().reset(**options)


def test_commands_say_who_and_why(make, backend):
    breaker = make()
    breaker.trip(duration=5, reason="upgrade", actor="ann")
    breaker.reset(reason="well", actor="bob")
    reset, trip = [event for _, event in backend.events()]
    assert (trip.cause, trip.actor, trip.reason) == ("hold", "ann", "upgrade")
    assert (reset.cause, reset.actor, reset.reason) == ("reset", "bob", "well")


# -- backends that fail -----------------------------------------------------------------------


class Failing(MemoryBackend):
    """A store that can be taken away."""

    error: Exception | None = None

    def _transaction(self, process: Process, patience: float) -> Any:
        if self.error:
            raise self.error
        return super()._transaction(process, patience)


@pytest.mark.parametrize("error", [StoreBusy("busy"), StoreLost("gone")])
@pytest.mark.parametrize(
    "command",
    [CircuitBreaker.trip, CircuitBreaker.reset, lambda breaker: breaker.trip(hold=True)],
)
def test_a_command_that_the_store_cannot_confirm_is_an_error_and_applies_nothing(error, command):
    backend = Failing(clock=Clock())
    breaker = CircuitBreaker("payments", backend=backend)
    breaker.call(ok)
    before = breaker.view.circuit
    backend.error = error
    with pytest.raises(CircuitBackendError, match=f"applied: {error}"):
        command(breaker)
    assert breaker.state is CLOSED
    assert breaker.view.circuit == before
    assert breaker.call(ok) == "ok"


@every_way
def test_a_backend_that_raises_never_hurts_the_call(make, half_open, monkeypatch, caplog, way):
    for number, method in enumerate(["admit", "count", "finish"]):
        for breaker in (make(f"closed {number}"), half_open(f"half-open {number}")):
            with monkeypatch.context() as patch:
                patch.setattr(breaker.backend, method, lambda *args: fail(RuntimeError))
                assert way(breaker, ok) == "ok"
    for number, method in enumerate(["admit", "count", "finish"]):
        for breaker in (make(f"closed too {number}"), half_open(f"half-open too {number}")):
            with monkeypatch.context() as patch:
                patch.setattr(breaker.backend, method, lambda *args: fail(RuntimeError))
                with pytest.raises(Down):
                    way(breaker, fail)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert any("passes unprotected" in line for line in told)
    assert any("was lost" in line for line in told)


def test_a_trial_whose_report_was_lost_carries_nobody(half_open, monkeypatch):
    breaker = half_open()
    with monkeypatch.context() as patch:
        patch.setattr(breaker.backend, "finish", lambda *args: fail(RuntimeError))
        breaker.call(ok)
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)


# -- the package ------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["", "CircuitBreaker('x').call(lambda: 1)"])
def test_importing_and_using_the_core_imports_no_django(use):
    code = f"""
import sys
from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
{use}
assert not [name for name in sys.modules if name.split(".")[0] in ("django", "asgiref")]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_signatures_are_those_of_the_documentation():
    assert list(inspect.signature(CircuitBreaker).parameters) == [
        "name",
        "backend",
        "options",
    ]
    assert tuple(Numbers.__annotations__) == POLICY_FIELDS


async def test_call_takes_arguments_and_gives_an_awaitable_for_an_async_function(make):
    breaker = make(failure_threshold=2)
    assert breaker.call(ok, value=3) == 3
    awaitable = breaker.call(aok, 4)
    assert inspect.isawaitable(awaitable)
    assert await awaitable == 4
    for _ in range(2):
        with pytest.raises(Down):
            await breaker.call(afail)
    awaitable = breaker.call(aok)  # admission is at its beginning, not here
    with pytest.raises(CircuitOpenError):
        await awaitable


# -- what is told, and in which words ---------------------------------------------------------


@pytest.mark.parametrize("command", ["trip", "disable", "metrics_only", "enable", "reset"])
def test_a_command_that_is_told_nothing_tells_nothing(make, backend, monkeypatch, command):
    orders: list[Any] = []
    monkeypatch.setattr(backend, "order", orders.append)
    breaker = make()
    getattr(breaker, command)()
    (order,) = orders
    ordered, policy = order["payments"]
    assert (ordered.duration, ordered.actor, ordered.reason) == (None, "", "")
    assert policy is breaker.policy


def test_blocks_are_counted_however_they_pass(make):
    breaker = make(failure_threshold=99)
    for number in range(1, 6):
        with breaker:
            ok()
        assert breaker.view.all_calls == number


def test_each_rejection_while_a_trial_runs_is_counted(half_open):
    breaker = half_open()
    with breaker:
        for number in range(1, 4):
            contextvars.Context().run(pytest.raises, CircuitOpenError, breaker.call, ok)
            assert breaker.view.rejected == number


def test_each_neutral_end_is_counted(make):
    breaker = make(exceptions=ValueError)
    for number in range(1, 4):
        failing(breaker)
        assert breaker.view.ignored == number


def test_a_slow_trial_is_told_as_the_last_error(half_open, clock):
    breaker = half_open(slow_call_duration=10, slow_call_rate_threshold=1)
    breaker.call(clock.advance, 10)
    assert breaker.state is OPEN
    assert (breaker.view.circuit.last_error, breaker.view.circuit.last_message) == ("slow call", "")


def test_a_failure_without_an_exception_has_no_error_to_tell(make):
    breaker = make(result_predicate=lambda result: result == "bad")
    breaker.call(ok, "bad")
    assert (breaker.view.circuit.last_error, breaker.view.circuit.last_message) == ("", "")


def test_a_wait_may_be_shorter_than_a_second(make, clock):
    breaker = make(recovery_timeout=0.5)
    failing(breaker)
    clock.advance(0.5)
    assert breaker.call(ok) == "ok"


def test_a_call_that_passes_unprotected_is_logged_with_its_name(make, monkeypatch, caplog):
    breaker = make()

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(breaker.backend, "admit", broken)
    assert breaker.call(ok) == "ok"
    assert caplog.messages == ["the call of circuit 'payments' passes unprotected"]


def test_an_outcome_that_is_lost_is_logged_with_its_name(make, monkeypatch, caplog):
    breaker = make()

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(breaker.backend, "count", broken)
    failing(breaker)
    assert caplog.messages == ["an outcome of circuit 'payments' was lost"]


def test_a_call_would_pass_from_the_moment_on_at_which_the_pause_ends(half_open, clock):
    breaker = half_open()
    breaker.view.pause_until = clock.now + 1
    assert not breaker.allows()
    clock.now += 1
    assert breaker.allows()


def test_a_success_that_completes_a_rate_leaves_the_last_error_what_it_was(make):
    breaker = make(failure_threshold=9, failure_rate_threshold=0.5, minimum_calls=4, quorum=2)
    for _ in range(2):
        failing(breaker, Down("refused"))
    for _ in range(2):
        breaker.call(ok)
    assert breaker.state is OPEN
    known = breaker.view.circuit
    assert (known.last_error, known.last_message) == ("Down", "refused")


@pytest.mark.parametrize("state", [CLOSED, HALF_OPEN])
def test_what_an_error_said_is_told(make, half_open, state):
    breaker = make() if state is CLOSED else half_open()
    failing(breaker, Down("refused"))
    assert (breaker.view.circuit.last_error, breaker.view.circuit.last_message) == (
        "Down",
        "refused",
    )


def test_a_slow_trial_asks_for_no_wait_of_its_own(half_open, clock):
    breaker = half_open(recovery_timeout=0.5, slow_call_duration=10, slow_call_rate_threshold=1)
    breaker.call(clock.advance, 10)
    assert breaker.state is OPEN
    clock.advance(0.5)
    assert breaker.state is HALF_OPEN


def test_two_blocks_around_a_neutral_end_are_two_neutral_calls(make):
    breaker = make(exceptions=ValueError)
    breaker.view.shut()
    with pytest.raises(Down), breaker, breaker:
        fail()
    assert (breaker.view.all_calls, breaker.view.failures, breaker.view.ignored) == (2, 0, 2)


def test_a_breaker_without_a_name_has_a_circuit_without_one():
    assert CircuitBreaker().view.name == ""


def test_each_call_that_rides_on_a_trial_is_counted(half_open):
    breaker = half_open()
    with breaker:
        for number in range(2, 5):
            breaker.call(ok)
            assert breaker.view.all_calls == number


def test_each_call_that_is_let_through_and_gets_no_gate_is_counted(make, monkeypatch):
    breaker = make()
    monkeypatch.setattr(breaker.backend, "admit", lambda view, *args: view.epoch)
    for number in range(1, 4):
        breaker.call(ok)
        assert breaker.view.all_calls == number


def test_an_end_that_is_neither_slow_nor_a_failure_tells_no_error(make, monkeypatch):
    told: list[Any] = []
    breaker = make(failure_rate_threshold=0.5)
    monkeypatch.setattr(breaker.backend, "count", lambda *args, **kwargs: told.append(kwargs))
    breaker.call(ok)
    assert [(one["error"], one["message"]) for one in told] == [("", "")]


def test_the_fallback_answers_for_failures_also_while_the_circuit_is_disabled(make):
    breaker = make()
    breaker.disable()
    protected = breaker.protect(fallback="instead", fallback_on_failure=True)(fail)
    for _ in range(2):
        assert protected() == "instead"
