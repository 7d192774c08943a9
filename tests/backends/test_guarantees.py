"""Faults that meet several processes at once, on real servers. Every wait is by looking again."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.backends.base import Backend, monotonic
from circuitbreaker_django.backends.database import DatabaseBackend
from circuitbreaker_django.backends.redis import RedisBackend, RedisStore
from circuitbreaker_django.backends.store import MAX_ROWS
from circuitbreaker_django.core.policy import micros
from tests.backends.hands import Hand, hiring
from tests.backends.proxy import Proxy
from tests.backends.servers import RedisServer
from tests.backends.test_redis_faults import (
    is_back,
    is_closed,
    is_lost,
    is_open,
    live,
    server,
    works,
)
from tests.backends.waiting import until
from tests.core.calls import failing, ok

__all__ = ["live", "server"]


@pytest.fixture
def hire(server: RedisServer) -> Iterator[Callable[..., Any]]:
    with hiring(server.url) as hire:
        yield hire


def until_there(*hands: Hand) -> None:
    """All begin at once, which takes its time on a busy host."""
    for hand in hands:
        until(hand.available, seconds=60)


def has_to_tell(backend: Any) -> bool:
    """Whether there are calls of which the store does not know yet."""
    return bool(backend._pending.evidence)


# -- half of the processes cut off ---------------------------------------------------------------


def test_halves_that_were_told_different_things_agree_when_they_meet_again(server, live):
    with Proxy(server.port) as proxy:
        near = [live() for _ in range(2)]
        far = [live(url=proxy.url) for _ in range(2)]
        works(*near, *far)
        proxy.fault = "refuse"
        until(lambda: is_lost(*far))
        near[0].trip(hold=True, reason="by those who reach it")
        for breaker in far:
            assert breaker.call(ok) == "ok"
            for _ in range(2):
                failing(breaker)
        until(lambda: all(map(is_open, [*near, *far])))
        near[0].reset()
        until(lambda: all(map(is_closed, near)))
        assert all(map(is_open, far))  # each by what it has seen itself
        proxy.fault = None
        until(lambda: is_back(*far))
        works(*near, *far)


# -- the holder of a permit ----------------------------------------------------------------------


STEPS = ["before it asks", "while it asks", "while it tries", "while it reports"]


@pytest.mark.parametrize("step", STEPS)
def test_the_holder_of_a_permit_may_be_killed_at_each_step(server, hire, step):
    victim, other = (hire(recovery_timeout=0.2, trial_timeout=1) for _ in range(2))
    until_there(victim, other)
    assert victim.trip() == "done"
    assert victim.wait_for("half_open") == "half_open"
    if step == "while it asks":  # the server grants it when nobody is there any more
        server.pause()
        assert victim.enter() in ("CircuitOpenError", "local")
    elif step == "while it tries":
        until(lambda: victim.enter() == "trial")
    elif step == "while it reports":  # and is heard when it is dead
        until(lambda: victim.enter() == "trial")
        server.pause()
        assert victim.leave() == "done"
    victim.kill()
    server.resume()
    until(lambda: other.ok() == "ok")
    assert other.wait_for("closed") == "closed"


def test_the_holder_of_a_permit_that_is_stopped_and_goes_on_changes_nothing_any_more(hire):
    victim, other = (hire(recovery_timeout=0.2, trial_timeout=0.5) for _ in range(2))
    until_there(victim, other)
    assert victim.trip() == "done"
    until(lambda: victim.enter() == "trial")
    os.kill(victim.pid, signal.SIGSTOP)
    until(lambda: other.ok() == "ok")
    assert other.wait_for("closed") == "closed"
    os.kill(victim.pid, signal.SIGCONT)
    victim.leave(True)
    assert other.hold() == "done"  # which comes after it
    assert other.openings() == 0
    assert victim.wait_for("open") == "open"


# -- clocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1, -1])
def test_the_wall_clock_of_a_process_may_jump(hire, hours):
    jumping, other = (hire(recovery_timeout=300) for _ in range(2))
    until_there(jumping, other)
    assert jumping.fail() == "failed"
    assert jumping.jump(3600 * hours) == "done"
    assert [jumping.fail(), other.fail()] == ["failed", "failed"]
    assert other.wait_for("open") == "open"
    assert jumping.wait_for("open") == "open"
    assert jumping.reset() == "done"
    assert other.wait_for("closed") == "closed"
    assert jumping.available()
    assert sorted(other.pids()) == sorted([jumping.pid, other.pid])


@pytest.fixture(params=["redis", "database"])
def jumping(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[list[Backend], Callable[[int], None]]]:
    """Two members of a store whose clock may jump by hours."""
    shift = 0

    def clock() -> int:
        return time.time_ns() // 1000 + shift

    def jump(hours: int) -> None:
        nonlocal shift
        shift = micros(3600 * hours)

    members: list[Any] = []
    if request.param == "redis":
        url = request.getfixturevalue("server").url
        members += [RedisBackend(url, server_clock=clock) for _ in range(2)]
    else:
        alias, name = request.getfixturevalue("database"), request.node.nodeid
        members += [DatabaseBackend(alias, namespace=name, server_clock=clock) for _ in range(2)]
    yield members, jump
    for member in members:
        process = member._here()
        member.close()
        for thread in (process.feed, process.writer):
            thread.join(20)


@pytest.mark.parametrize("hours", [1, -1])
def test_the_clock_of_a_server_may_jump_while_a_circuit_is_open(jumping, hours):
    members, jump = jumping
    options: dict[str, Any] = {"recovery_timeout": 0.5, "recovery_timeout_max": 1}
    options["failure_threshold"] = 2
    ours, theirs = (CircuitBreaker("payments", backend=one, **options) for one in members)
    until(lambda: ours.call(ok) and theirs.call(ok) and is_back(ours, theirs))
    ours.trip()
    until(lambda: theirs.state is not CircuitState.CLOSED)
    epoch = ours.view.shared_epoch
    jump(hours)
    until(lambda: tried(theirs))
    until(lambda: is_closed(ours) and is_closed(theirs))
    assert ours.view.shared_epoch > epoch
    ours.trip(hold=True)
    until(lambda: is_open(theirs))
    theirs.reset()
    until(lambda: is_closed(ours))
    failing(ours)
    failing(theirs)
    until(lambda: not is_closed(ours) and not is_closed(theirs))


def tried(breaker: CircuitBreaker) -> bool:
    try:
        breaker.call(ok)
    except CircuitOpenError:
        return False
    return True


# -- many names ----------------------------------------------------------------------------------

BATCH, KEPT = 50, 1000


def test_names_without_end_that_all_fail_once_are_bounded_everywhere(
    server, pytestconfig, monkeypatch
):
    nightly = pytestconfig.getoption("--hypothesis-profile") == "nightly"
    names = 50_000 if nightly else 5_000
    later = 0
    sizes: list[int] = []
    deliver = RedisStore.deliver

    def clock() -> int:
        return monotonic() + later

    def counted(self: RedisStore, evidence: Any, *rest: Any) -> Any:
        sizes.append(len(evidence))
        return deliver(self, evidence, *rest)

    monkeypatch.setattr(RedisStore, "deliver", counted)
    backend = RedisBackend(server.url, clock=clock, server_clock=clock)
    with closing(server.client()) as client, closing(backend):
        backend.sync()
        until(lambda: backend.available)  # what fails before is this process's own
        # As of a family, which keeps so many of them.
        kept: deque[CircuitBreaker] = deque()
        for number in range(names):
            kept.append(CircuitBreaker(f"tenant:{number}", backend=backend))
            failing(kept[-1])
            if len(kept) == KEPT:
                until(lambda: not has_to_tell(backend))
                while kept:
                    backend.drop_view(kept.popleft().view, "tenant")
        assert sum(sizes) == names
        assert max(sizes) <= BATCH
        assert not backend._views
        later = micros(61)  # none of the failures counts any more
        backend._here().clean_at = 0.0
        until(lambda: client.hlen(backend.prefix + "circuits") <= MAX_ROWS, seconds=60)
        until(lambda: len(backend._rows) <= MAX_ROWS)
        assert len(client.keys("*")) < 20
        assert backend.available


def test_all_breakers_of_a_process_are_told_of_together(server, live, monkeypatch):
    backend = live().backend
    breakers = [CircuitBreaker(f"{number}", backend=backend) for number in range(BATCH)]
    told: list[int] = []
    deliver = RedisStore.deliver

    def counted(self: RedisStore, evidence: Any, *rest: Any) -> Any:
        told.append(len(evidence))
        return deliver(self, evidence, *rest)

    monkeypatch.setattr(RedisStore, "deliver", counted)
    with backend._here().visiting.taken(10):  # until all have something to tell
        for breaker in breakers:
            breaker.call(ok)
            failing(breaker)
    until(lambda: not has_to_tell(backend) and told)
    assert sum(told) == BATCH
    assert len(told) <= 2


# -- a server that stands still -------------------------------------------------------------------


def test_calls_go_on_at_the_same_rate_while_a_server_stands_still(server, live):
    breaker = live()
    server.pause()
    over, count = threading.Event(), [0]

    def call() -> None:
        while not over.is_set():
            breaker.call(ok)
            count[0] += 1

    threads = threading.active_count()
    caller = threading.Thread(target=call)
    caller.start()
    try:
        until(lambda: is_lost(breaker))
        assert threading.active_count() <= threads + 1
        assert count[0] > 100
    finally:
        over.set()
        caller.join(10)
        server.resume()
    until(lambda: is_back(breaker))
    with suppress(CircuitOpenError):
        assert breaker.state is CircuitState.CLOSED


# -- event loops ---------------------------------------------------------------------------------


async def test_an_event_loop_goes_on_while_its_call_asks_a_server_that_stands_still(server, live):
    breaker = live(recovery_timeout=0.1)
    breaker.trip()
    until(lambda: breaker.state is CircuitState.HALF_OPEN)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    @breaker
    async def trial() -> None:
        pass

    server.pause()
    try:
        others = asyncio.create_task(turn())
        with pytest.raises(CircuitOpenError):
            await trial()
        others.cancel()
        assert turns
    finally:
        server.resume()
    until(lambda: is_back(breaker))
