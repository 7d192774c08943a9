"""Permits that come when they come, on a server that does as it is told."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.backends import remote_permits, remote_process
from circuitbreaker_django.backends.redis import RedisBackend, RedisStore
from circuitbreaker_django.backends.remote_permits import _kept
from circuitbreaker_django.backends.remote_process import Asked
from circuitbreaker_django.backends.store import StoreBusy, StoreLost
from circuitbreaker_django.core.circuit import Grant
from circuitbreaker_django.core.states import Mode
from circuitbreaker_django.core.trial import Trial
from tests.backends.waiting import until
from tests.core.calls import ok


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A store that says nothing of a permit before the event."""
    acquire, answers = RedisStore.acquire, threading.Event()

    def late(*args: Any) -> Any:
        granted = acquire(*args)
        assert answers.wait(10)
        return granted

    monkeypatch.setattr(RedisStore, "acquire", late)
    yield answers
    answers.set()


@pytest.fixture
def asked(threaded: RedisBackend, half_open: CircuitBreaker) -> Callable[[], Asked | None]:
    """The permit that is on its way."""
    return lambda: threaded._here().asked.get(half_open.view)


def permits(backend: RedisBackend) -> tuple[Any, ...]:
    return backend.overview().circuits["payments"].permits


def test_a_permit_is_for_the_epoch_of_now(half_open, threaded, monkeypatch):
    """Also where the circuit has changed while a thread waited for the lock."""
    view, process = half_open.view, threaded._here()
    here, lock = threading.current_thread(), process.lock

    class Late:
        def __getattr__(self, name: str) -> Any:
            return getattr(lock, name)

        def __enter__(self) -> None:
            lock.acquire()
            if threading.current_thread() is here:
                view.shared_epoch += 1

        def __exit__(self, *args: object) -> None:
            lock.release()

    with monkeypatch.context() as patch:
        patch.setattr(process, "lock", Late())
        patch.setattr(process, "submit", lambda ask: Future())
        asked = threaded._ask_for_permit(process, view, half_open.policy)
    assert asked.report.fence == (view.incarnation, view.shared_epoch)


# -- late answers --------------------------------------------------------------------------------


def test_a_permit_that_comes_too_late_is_for_the_next_call(half_open, slow, asked):
    with pytest.raises(CircuitOpenError):
        half_open.call(ok)
    slow.set()
    until(lambda: asked().answer.done())
    assert half_open.call(ok) == "ok"
    assert asked() is None


def test_a_permit_that_nobody_takes_is_given_back_while_the_store_is_away(
    half_open, threaded, slow, asked
):
    with pytest.raises(CircuitOpenError):
        half_open.call(ok)
    slow.set()
    until(lambda: asked().answer.done())
    process = threaded._here()
    process.retry_at = inf

    def is_given_back() -> bool:
        process.attached = False
        return asked() is None

    until(is_given_back)


def test_where_calls_are_rare_a_late_permit_waits_for_the_next(half_open, slow, asked):
    """A call every 2.2 seconds, and answers that take longer than a caller waits."""
    assert isinstance(half_open.enter(), CircuitOpenError)
    slow.set()
    until(lambda: asked() is None)  # given back
    time.sleep(0.1)
    slow.clear()
    assert isinstance(half_open.enter(), CircuitOpenError)
    slow.set()
    time.sleep(2.2)
    assert half_open.call(ok) == "ok"


@pytest.mark.parametrize(
    ("since", "lease", "kept"),
    [(0.01, 60, 2), (5, 60, 10), (14.9, 60, 29.8), (15, 60, 2), (1e6, 60, 2), (0.2, 1, 0.5)],
)
def test_for_how_long_a_permit_waits(since, lease, kept):
    assert _kept(since, lease) == kept


def test_only_the_first_callers_wait_for_an_answer(half_open, slow, asked, monkeypatch):
    waits = []

    def patience_left(patient_until: float) -> float:
        waits.append(left := max(0.0, patient_until - time.monotonic()))
        return left

    monkeypatch.setattr(remote_permits, "patience_left", patience_left)
    for _ in range(3):
        assert isinstance(half_open.enter(), CircuitOpenError)
    assert waits[0] > 0
    assert sum(waits) < 0.0501  # of a host that paused, the second waits for the rest of it
    assert asked() is not None


async def test_only_the_first_tasks_wait_for_an_answer(threaded, half_open, slow, monkeypatch):
    waits, wait = [], asyncio.wait

    async def waited(futures: Any, *, timeout: float) -> Any:
        waits.append(timeout)
        return await wait(futures, timeout=timeout)

    monkeypatch.setattr(asyncio, "wait", waited)
    for _ in range(3):
        await threaded.ask_ahead(half_open.view, half_open.policy)
        assert isinstance(half_open.enter(), CircuitOpenError)
    (only,) = waits
    assert 0 < only <= 0.05


def test_a_permit_that_has_waited_for_half_of_its_lease_is_given_back(
    half_open, threaded, asked, monkeypatch
):
    """A trial may take as long as the rest, and nobody else may try meanwhile."""
    process, give_back = threaded._here(), threaded._give_back_permits
    monkeypatch.setattr(threaded, "_give_back_permits", lambda *args, **options: None)
    permit = threaded._ask_for_permit(process, half_open.view, half_open.policy)
    permit.answer.result(10)
    assert permit.expires - permit.good_until >= 30_000_000
    with monkeypatch.context() as patch:
        patch.setattr(threaded, "clock", lambda: permit.good_until)
        assert isinstance(half_open.enter(), CircuitOpenError)
        assert asked() is permit
        give_back(process)
    assert asked() is None
    until(lambda: not permits(threaded))


def test_a_process_that_ends_gives_back_what_nobody_has_taken(half_open, threaded, asked):
    threaded._ask_for_permit(threaded._here(), half_open.view, half_open.policy)
    until(lambda: asked().answer.done())
    assert permits(threaded)
    threaded.close()
    assert not permits(threaded)


def test_a_late_denial_says_nothing_of_a_later_call(half_open, threaded, slow, asked):
    """The others' permit may be back by then."""
    view, policy = half_open.view, half_open.policy
    fence = (view.incarnation, view.shared_epoch)
    slow.set()
    until(
        lambda: (
            threaded._acquire(threaded._here(), "payments", fence, "other", policy, 10)[0].granted
        )
    )
    until(lambda: threaded._rows["payments"].permits)  # which asks for no pause
    slow.clear()
    assert isinstance(half_open.enter(), CircuitOpenError)
    denied = asked()
    slow.set()
    assert not denied.answer.result(10).granted
    assert asked() is None
    assert view.pause_until > threaded.clock()
    assert not threaded._pending.reports


def test_a_denial_of_an_earlier_epoch_harms_no_later_permit(half_open, threaded, slow, asked):
    view, policy = half_open.view, half_open.policy
    first = threaded._ask_for_permit(threaded._here(), view, policy)
    view.shared_epoch += 1  # as after a trip
    second = threaded._ask_for_permit(threaded._here(), view, policy)
    threaded._rows.clear()
    slow.set()
    until(lambda: first.answer.done() and second.answer.done())
    assert not second.answer.result().granted
    assert asked() is None


def test_a_call_whose_store_is_closed_meanwhile_is_rejected(half_open, threaded, monkeypatch):
    closed: Future[Grant] = Future()
    closed.cancel()
    asked = threaded._ask_for_permit(threaded._here(), half_open.view, half_open.policy)
    gone = replace(asked, answer=closed)
    monkeypatch.setattr(threaded, "_ask_for_permit", lambda *args: gone)
    assert isinstance(half_open.enter(), CircuitOpenError)


async def test_a_task_whose_store_is_closed_meanwhile_leaves_nothing_to_say(threaded, half_open):
    asked: Future[Grant] = Future()
    asked.cancel()
    permit = replace(
        threaded._ask_for_permit(threaded._here(), half_open.view, half_open.policy), answer=asked
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threaded, "_ask_for_permit", lambda *args: permit)
        await threaded.ask_ahead(half_open.view, half_open.policy)


def test_a_permit_is_taken_once(half_open, threaded, asked, monkeypatch):
    view, process = half_open.view, threaded._here()
    taken = threaded._ask_for_permit(process, view, half_open.policy)
    taken.answer.result(10)
    del process.asked[view]
    newer = threaded._ask_for_permit(process, view, half_open.policy)
    monkeypatch.setattr(threaded, "_ask_for_permit", lambda *args: taken)
    assert threaded._try(process, view, half_open.policy, time.monotonic()) is None
    assert asked() in (None, newer)  # which is another thread's to take, or was denied


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_threads_that_come_at_once_get_all_permits_that_there_are(limit, threaded, make, patient):
    breaker = make(threaded, recovery_timeout=0.05, half_open_max_calls=limit)
    breaker.trip()
    until(lambda: breaker.state is CircuitState.HALF_OPEN)
    start, found = threading.Barrier(20), []

    def come() -> None:
        start.wait(10)
        found.append(breaker.enter())

    threads = [threading.Thread(target=come) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 20
    trials = [one for one in found if isinstance(one, Trial)]
    assert len(trials) == len({trial.token for trial in trials}) == limit


def test_one_slow_store_delays_a_request_once(threaded, make, slow, monkeypatch):
    """However many circuits of it are half-open."""
    breakers = [make(threaded, name=f"b{number}", recovery_timeout=0.05) for number in range(5)]
    for breaker in breakers:
        breaker.trip()
    until(lambda: all(one.state is CircuitState.HALF_OPEN for one in breakers))
    waits = []

    def patience_left(patient_until: float) -> float:
        waits.append(left := max(0.0, patient_until - time.monotonic()))
        return left

    monkeypatch.setattr(remote_permits, "patience_left", patience_left)
    for breaker in breakers:
        assert isinstance(breaker.enter(), CircuitOpenError)
    assert [wait > 0 for wait in waits][:2] == [True, False]
    assert not any(waits[1:])


def test_a_call_whose_store_comes_back_meanwhile_has_a_trial_of_its_own(half_open, monkeypatch):
    """A store that was away is not waited for."""
    answers = [False]
    available = property(lambda self: answers.pop() if answers else True)
    monkeypatch.setattr(RedisBackend, "available", available)
    monkeypatch.setattr(random, "uniform", lambda least, most: least)  # which puts it off
    admission = half_open.enter()
    assert isinstance(admission, Trial)
    assert admission.local


def test_a_call_whose_store_is_lost_meanwhile_may_be_a_trial_of_its_own(
    half_open, patient, monkeypatch
):
    def acquire(*args: Any) -> Any:
        raise StoreLost("gone")

    monkeypatch.setattr(RedisStore, "acquire", acquire)
    monkeypatch.setattr(random, "uniform", lambda least, most: least)  # which puts it off
    admission = half_open.enter()
    assert isinstance(admission, Trial)
    assert admission.local


def test_a_listener_of_the_stores_thread_may_call_a_breaker(threaded, half_open):
    found = []
    threaded._here().ask(lambda store: found.append(half_open.enter()), 10)
    assert isinstance(found[0], Trial)


# -- event loops ---------------------------------------------------------------------------------


async def test_many_tasks_ask_for_one_permit(half_open):
    entered = asyncio.Event()

    async def trial() -> str:
        entered.set()
        await asyncio.sleep(0.05)
        return "tried"

    async def call() -> object:
        try:
            return await half_open.call(trial)
        except CircuitOpenError:
            return "rejected"

    answers: list[object] = []
    while "tried" not in answers:
        answers += await asyncio.gather(*(call() for _ in range(10)))
    assert answers.count("tried") == 1 or half_open.state is CircuitState.CLOSED


async def test_a_permit_that_is_denied_is_not_asked_for_again_at_once(half_open, threaded, patient):
    view = half_open.view
    fence = (view.incarnation, view.shared_epoch)
    process, policy = threaded._here(), half_open.policy
    until(lambda: threaded._acquire(process, "payments", fence, "other", policy, 10)[0].granted)
    until(lambda: threaded._rows["payments"].permits)  # which asks for no pause
    await threaded.ask_ahead(view, policy)
    assert isinstance(half_open.enter(), CircuitOpenError)
    assert view.pause_until > threaded.clock()
    await threaded.ask_ahead(view, policy)
    assert not process.asked


async def test_a_permit_that_cannot_be_asked_for_is_none(half_open, threaded, monkeypatch):
    monkeypatch.setattr(remote_process, "MAX_QUESTIONS", 0)
    await threaded.ask_ahead(half_open.view, half_open.policy)
    assert isinstance(half_open.enter(), CircuitOpenError)


async def test_a_permit_that_the_store_is_too_slow_for_is_none(
    half_open, threaded, patient, monkeypatch
):
    def acquire(*args: Any) -> Any:
        raise StoreBusy("slow")

    monkeypatch.setattr(RedisStore, "acquire", acquire)
    await threaded.ask_ahead(half_open.view, half_open.policy)
    assert isinstance(half_open.enter(), CircuitOpenError)
    assert not threaded._here().asked


async def test_a_permit_of_an_earlier_epoch_is_taken_by_nobody(half_open, threaded):
    await threaded.ask_ahead(half_open.view, half_open.policy)
    (asked,) = threaded._here().asked.values()
    half_open.trip()
    until(lambda: half_open.state is CircuitState.HALF_OPEN)
    await threaded.ask_ahead(half_open.view, half_open.policy)
    (other,) = threaded._here().asked.values()
    assert other is not asked


async def test_a_mode_asks_for_no_permit(half_open, threaded):
    half_open.disable()
    await threaded.ask_ahead(half_open.view, half_open.policy)
    assert not threaded._here().asked
    assert half_open.mode is Mode.DISABLED
