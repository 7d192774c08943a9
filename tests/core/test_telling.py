from __future__ import annotations

import logging
import os
import threading
from typing import Any

import pytest

from circuitbreaker_django import CircuitOpenError
from circuitbreaker_django.core import telling
from circuitbreaker_django.core.announce import log_news
from circuitbreaker_django.core.news import BackendRecovered, CallRejected, StateChanged
from circuitbreaker_django.core.telling import MAX_CHAIN, keep, tell
from tests.core.calls import failing, ok


@pytest.fixture
def listen(monkeypatch):
    """Makes listeners, also of rejections, for one test."""
    monkeypatch.setattr(telling, "listeners", [log_news])
    added = []

    def listen(listener, *, rejections=False):
        if rejections:
            telling.rejection_listeners.append(listener)
            added.append(listener)
        else:
            telling.listeners.append(listener)

    yield listen
    for listener in added:
        telling.rejection_listeners.remove(listener)


@pytest.fixture
def heard(listen):
    """The news so far."""
    heard: list[Any] = []
    listen(heard.append)
    return heard


def news(number: int) -> BackendRecovered:
    return BackendRecovered(None, str(number))


def test_news_is_told_in_its_order_and_once(heard):
    keep(news(1))
    keep(news(2))
    assert heard == []
    tell()
    tell()
    assert heard == [news(1), news(2)]


def test_a_listener_that_raises_hurts_neither_the_call_nor_the_next_listener(make, listen, caplog):
    heard: list[Any] = []

    def fails(news):
        raise RuntimeError("no")

    for listener in (fails, heard.append):
        listen(listener)
    failing(make())
    assert len(heard) == 1
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == f"the listener {fails!r} failed"


def test_what_stops_a_listener_leaves_the_rest_for_later(listen, heard):
    def stop(news):
        telling.listeners.remove(stop)
        raise KeyboardInterrupt

    telling.listeners.insert(0, stop)
    keep(news(1))
    keep(news(2))
    with pytest.raises(KeyboardInterrupt):
        tell()
    keep(news(3))
    tell()
    assert heard == [news(2), news(3)]


def test_a_listener_that_leaves_takes_nobody_s_news_along(listen):
    heard: list[Any] = []

    def leave(news):
        telling.listeners.remove(leave)

    for listener in (leave, heard.append):
        listen(listener)
    keep(news(1))
    tell()
    assert heard == [news(1)]


def test_a_listener_hears_of_what_it_does_when_it_has_returned(make, listen):
    payments, refunds = make(), make("refunds")
    steps = []

    def listener(news):
        if not isinstance(news, StateChanged):
            return
        steps.append(f"{news.name} begins")
        if news.name == "payments":
            refunds.trip()
        steps.append(f"{news.name} ends")

    listen(listener)
    payments.trip()
    assert steps == ["payments begins", "payments ends", "refunds begins", "refunds ends"]


@pytest.mark.parametrize("act", ["call", "trip", "reset"])
def test_a_listener_may_use_the_breaker_that_it_hears_of(make, listen, act, caplog):
    breaker = make()
    times = []

    def listener(news):
        times.append(news)
        if act == "call":
            with pytest.raises(CircuitOpenError):
                breaker.call(ok)
        else:
            getattr(breaker, act)()

    listen(listener)
    failing(breaker)
    if act == "call":
        assert len(times) == 1
        return
    # Each of its commands is two pieces of news, to each of which it answers by another command.
    assert "answer each other without an end" in caplog.text
    assert len(times) == sum(2**chain for chain in range(MAX_CHAIN))
    times.clear()
    telling.listeners.remove(listener)
    breaker.reset()
    assert breaker.call(ok) == "ok"


def test_what_listeners_lead_to_is_told_ten_times_in_a_row(listen, heard, caplog):
    listen(lambda said: keep(news(int(said.place) + 1)))
    keep(news(1))
    tell()
    assert heard == [news(number) for number in range(1, MAX_CHAIN + 1)]
    assert caplog.messages == [
        f"listeners answer each other without an end; not told: {news(MAX_CHAIN + 1)!r}"
    ]
    keep(news(1))  # and the next is told again
    tell()
    assert heard[MAX_CHAIN] == news(1)


def test_a_handler_of_the_log_that_answers_comes_to_an_end_too(listen, heard, caplog):
    class Answers(logging.Handler):
        def emit(self, record):
            keep(news(0))

    listen(lambda said: keep(news(0)))
    handler = Answers()
    telling.logger.addHandler(handler)
    try:
        keep(news(0))
        tell()
    finally:
        telling.logger.removeHandler(handler)
    assert not telling._outbox.kept
    assert "without an end" in caplog.text


def test_each_thread_tells_what_is_its_own(heard):
    keep(news(1))

    def other():
        keep(news(2))
        tell()

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert heard == [news(2)]
    tell()
    assert heard == [news(2), news(1)]


def test_a_fork_tells_nothing_of_its_parent_and_all_of_its_own(heard, listen, monkeypatch):
    def fork(said):
        monkeypatch.setattr(os, "getpid", lambda: -1)
        keep(news(3))
        tell()

    telling.listeners.insert(0, fork)
    keep(news(1))
    keep(news(2))
    tell()
    monkeypatch.undo()
    assert news(2) not in heard
    assert news(3) in heard


def test_nothing_is_made_for_a_rejection_that_nobody_wants_to_hear_of(make, monkeypatch):
    breaker = make()
    breaker.trip()
    monkeypatch.setattr(telling, "CallRejected", None)
    for _ in range(2):
        with pytest.raises(CircuitOpenError):
            breaker.call(ok)


def test_each_rejection_is_told_on_both_ways(make, listen):
    heard: list[Any] = []
    listen(heard.append, rejections=True)
    breaker = make()
    breaker.backend.registry = "default"
    breaker.trip()
    for _ in range(3):  # the first by the backend, those after it by the gate
        with pytest.raises(CircuitOpenError):
            breaker.call(ok)
    assert heard == [CallRejected("default", "payments", breaker.state, 30.0)] * 3


@pytest.mark.parametrize("way", ["gate", "backend"])
def test_a_rejection_while_its_thread_has_a_lock_is_told_later(make, listen, way):
    """As that of a call which a signal handler makes in between."""
    heard: list[Any] = []
    listen(heard.append, rejections=True)
    breaker = make()
    breaker.trip()
    if way == "gate":
        breaker.view.open_gate(breaker.backend.bell, breaker.policy, breaker.backend.clock())
    with breaker.backend._here().lock:
        with pytest.raises(CircuitOpenError):
            breaker.call(ok)
        assert heard == []
    breaker.backend.announce()
    assert len(heard) == 1


def test_a_breaker_without_a_name_has_an_empty_one(make, listen):
    heard: list[Any] = []
    listen(heard.append, rejections=True)
    breaker = make()
    breaker.name = None
    breaker.trip()
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)
    assert heard[0].name == ""


def test_calls_that_a_listener_makes_are_not_told_when_rejected(make, listen):
    breaker = make()
    heard = []

    def listener(news):
        heard.append(news)
        with pytest.raises(CircuitOpenError):
            breaker.call(ok)

    listen(listener, rejections=True)
    breaker.trip()
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)
    assert len(heard) == 1
