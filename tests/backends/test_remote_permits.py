"""Permits that come when they come, on a server that does as it is told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.backends import remote_permits, remote_process
from circuitbreaker_django.backends.redis import RedisBackend, RedisStore
from circuitbreaker_django.backends.remote_permits import _kept
from circuitbreaker_django.backends.remote_process import Asked
from circuitbreaker_django.backends.store import StoreBusy
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


# -- late answers --------------------------------------------------------------------------------


def test_a_permit_that_comes_too_late_is_for_the_next_call(half_open, slow, asked):
    with pytest.raises(CircuitOpenError):
        half_open.call(ok)
    slow.set()
    until(lambda: asked().answer.done())
    assert half_open.call(ok) == "ok"
    assert asked() is None


def test_where_calls_are_rare_a_late_permit_waits_for_the_next(half_open, slow, asked):
    """A call every 1.2 seconds, and answers that take longer than a caller waits."""
    assert isinstance(half_open.enter(), CircuitOpenError)
    slow.set()
    until(lambda: asked() is None)  # given back
    time.sleep(0.1)
    slow.clear()
    assert isinstance(half_open.enter(), CircuitOpenError)
    slow.set()
    time.sleep(1.2)
    assert half_open.call(ok) == "ok"


@pytest.mark.parametrize(
    ("since", "lease", "kept"),
    [(0.01, 60, 1), (5, 60, 10), (14.9, 60, 29.8), (15, 60, 1), (1e6, 60, 1), (0.2, 1, 1)],
)
def test_for_how_long_a_permit_waits(since, lease, kept):
    assert _kept(since, lease) == kept


def test_only_the_first_callers_wait_for_an_answer(half_open, slow, asked, monkeypatch):
    waits = []

    def rest(patient_until: float) -> float:
        waits.append(left := max(0.0, patient_until - time.monotonic()))
        return left

    monkeypatch.setattr(remote_permits, "rest", rest)
    for _ in range(3):
        assert isinstance(half_open.enter(), CircuitOpenError)
    first, *others = waits
    assert 0 < first <= 0.05
    assert set(others) == {0.0}
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


def test_a_permit_whose_lease_is_over_is_taken_by_nobody(half_open, threaded, asked):
    threaded._ask_for_permit(threaded._here(), half_open.view, half_open.policy)
    until(lambda: asked().answer.done())
    over = asked().expires
    threaded.clock = lambda: over
    assert isinstance(half_open.enter(), CircuitOpenError)
    assert asked() is None


def test_a_process_that_ends_gives_back_what_nobody_has_taken(half_open, threaded, asked):
    threaded._ask_for_permit(threaded._here(), half_open.view, half_open.policy)
    until(lambda: asked().answer.done())
    assert permits(threaded)
    threaded.close()
    assert not permits(threaded)


def test_what_was_denied_is_not_given_back(half_open, threaded, asked):
    fence = (half_open.view.incarnation, half_open.view.shared_epoch)
    until(lambda: threaded._acquire("payments", fence, "other", half_open.policy, 10)[0].granted)
    process = threaded._here()
    threaded._ask_for_permit(process, half_open.view, half_open.policy)
    until(lambda: asked().answer.done())
    with process.lock:  # before the feed comes by
        threaded._give_back_permits(process, all=True)
        assert asked() is None
        assert not threaded._pending.reports


def test_a_call_whose_store_is_closed_meanwhile_is_rejected(half_open, threaded, monkeypatch):
    closed: Future[Grant] = Future()
    closed.set_exception(StoreBusy("the store was closed"))
    asked = threaded._ask_for_permit(threaded._here(), half_open.view, half_open.policy)
    gone = replace(asked, answer=closed)
    monkeypatch.setattr(threaded, "_ask_for_permit", lambda *args: gone)
    assert isinstance(half_open.enter(), CircuitOpenError)
    assert not gone.is_granted()


def test_a_permit_is_taken_once(half_open, threaded, asked, monkeypatch):
    view, process = half_open.view, threaded._here()
    late = time.monotonic() + 10
    assert isinstance(threaded._try(process, view, half_open.policy, late), Trial)
    taken = threaded._ask_for_permit(process, view, half_open.policy)
    until(lambda: taken.answer.done())
    del process.asked[view]
    newer = threaded._ask_for_permit(process, view, half_open.policy)
    monkeypatch.setattr(threaded, "_ask_for_permit", lambda *args: taken)
    assert threaded._try(process, view, half_open.policy, late) is None
    assert asked() is newer  # which is another thread's to take


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


async def test_a_permit_that_is_denied_is_not_asked_for_again_at_once(half_open, threaded):
    view = half_open.view
    fence = (view.incarnation, view.shared_epoch)
    until(lambda: threaded._acquire("payments", fence, "other", half_open.policy, 10)[0].granted)
    await threaded.ask_ahead(view, half_open.policy)
    assert isinstance(half_open.enter(), CircuitOpenError)
    assert view.pause_until > threaded.clock()
    await threaded.ask_ahead(view, half_open.policy)
    assert not threaded._here().asked


async def test_a_permit_that_cannot_be_asked_for_is_none(half_open, threaded, monkeypatch):
    monkeypatch.setattr(remote_process, "MAX_QUESTIONS", 0)
    await threaded.ask_ahead(half_open.view, half_open.policy)
    assert isinstance(half_open.enter(), CircuitOpenError)


async def test_a_permit_that_the_store_is_too_slow_for_is_none(half_open, threaded, monkeypatch):
    def acquire(*args: Any) -> Any:
        raise StoreBusy("slow")

    monkeypatch.setattr(RedisStore, "acquire", acquire)
    await threaded.ask_ahead(half_open.view, half_open.policy)
    until(lambda: all(one.answer.done() for one in threaded._here().asked.values()))
    assert isinstance(half_open.enter(), CircuitOpenError)


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
