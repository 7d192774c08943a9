"""What backends over a network share, on a server that does as it is told."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.backends import host, remote_attached, remote_process
from circuitbreaker_django.backends.database import store as database_store
from circuitbreaker_django.backends.redis import RedisBackend, RedisStore
from circuitbreaker_django.backends.remote_permits import given_back
from circuitbreaker_django.backends.remote_process import RemoteProcess
from circuitbreaker_django.backends.remote_store import RemoteStore
from circuitbreaker_django.backends.store import (
    Declaration,
    NoStore,
    StoreBusy,
    StoreLost,
    StoreUnsure,
)
from circuitbreaker_django.core.circuit import Command, CommandKind
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.core.trial import Trial
from circuitbreaker_django.core.view import View
from tests.backends.conftest import AHEAD, Join
from tests.backends.waiting import see_end, until
from tests.clock import Clock
from tests.core.calls import failing, ok

POLICY = Policy(failure_threshold=2)


def raising(error: Exception) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise error

    return refuse


@pytest.fixture
def member(redis):
    """A backend without threads, whose callers do their work."""
    backend = redis()
    backend.sync()
    return backend


@pytest.fixture
def breaker(member, make):
    return make(member)


@pytest.fixture(params=["redis", "tables"])
def remote(request: pytest.FixtureRequest) -> Join:
    """Makes members of one store over a network, without threads."""
    join: Join = request.getfixturevalue(request.param)
    return join


@pytest.fixture
def live(
    remote: Join, short_rounds: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Makes members of the same store with threads, by the same clock, which stands still."""
    monkeypatch.setattr(database_store, "POLL_EVERY", 0.02)
    members: list[Any] = []

    def live(**options: Any) -> Any:
        backend: Any = remote(threads=True, **options)
        members.append(backend)
        backend.sync()
        until(lambda: backend.available)
        return backend

    yield live
    for backend in members:
        process = backend._here()
        backend.close()
        see_end(process)


# -- without threads -----------------------------------------------------------------------------


def test_who_has_no_turn_goes_on_with_what_is_known(member, breaker, redis, make):
    member.turn_every = 60
    member._here().turn_at = time.monotonic() + 60
    make(redis()).trip()
    assert breaker.call(ok) == "ok"


def test_a_return_is_told_before_anything_else_is_done(member, breaker, caplog):
    """For meanwhile another thread may have to tell that the store is lost again."""
    caplog.set_level(logging.INFO, "circuitbreaker_django")
    process = member._here()
    process.attached, process.told_lost, process.attached_at = True, True, -inf
    member._tell_of_return(process)
    assert "circuits are shared again" in caplog.text


def test_one_caller_at_a_time_does_the_work(member, breaker, redis, make):
    make(redis()).trip()
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with member._here().writing.taken(1):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(10)
    assert breaker.call(ok) == "ok"
    leave.set()
    thread.join(10)
    assert breaker.state is CircuitState.OPEN


def test_two_threads_are_never_at_the_store_at_once(member):
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with member._here().visiting.taken(1):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(10)
    with pytest.raises(StoreBusy):
        member._do(member._here(), lambda store: None, 0)
    leave.set()
    thread.join(10)


def test_a_request_does_the_work_of_threads_that_cannot_run(member, redis, make, breaker):
    make(redis()).trip()
    before = breaker.view.circuit
    member.touch()
    assert (before.state, breaker.view.circuit.state) == (CircuitState.CLOSED, CircuitState.OPEN)


def test_a_backend_that_nobody_uses_does_nothing_at_a_request(redis):
    backend = redis()
    backend.touch()
    assert not backend._here().used


def test_where_no_thread_can_be_had_callers_do_the_work(redis_server, monkeypatch, make):
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "circuitbreaker-feed":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    backend = RedisBackend(redis_server.url, namespace="no threads")
    backend.turn_every, backend.turn_patience = 0, 20
    breaker = make(backend)
    breaker.call(ok)
    assert not backend._here().alive.is_set()
    breaker.trip()
    assert backend.available
    assert breaker.state is CircuitState.OPEN
    backend.close()


def test_who_uwsgi_forks_from_has_no_threads_but_its_workers_do(redis_server, make, monkeypatch):
    uwsgi = SimpleNamespace(worker_id=lambda: 0)
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    backend = RedisBackend(redis_server.url, namespace="uwsgi")
    make(backend).call(ok)
    assert backend._here().writer is None
    monkeypatch.setattr(uwsgi, "worker_id", lambda: 1)
    backend._process.pid = 0  # as in a fork of it
    make(backend).call(ok)
    process = backend._here()
    assert process.alive.wait(10)
    backend.close()
    see_end(process)


def test_who_uwsgi_forked_from_has_threads_once_it_is_a_worker_itself(
    redis_server, make, monkeypatch
):
    uwsgi = SimpleNamespace(worker_id=lambda: 0)
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    backend = RedisBackend(redis_server.url, namespace="uwsgi without a master")
    breaker = make(backend)
    breaker.call(ok)
    process = backend._here()
    before = process.store
    assert (process.attached, process.writer) == (True, None)
    monkeypatch.setattr(uwsgi, "worker_id", lambda: 1)
    breaker.call(ok)
    assert process.alive.wait(10)
    breaker.trip()  # by the writer, which lets go of what it does not need any more
    assert isinstance(before, RedisStore)
    assert before._client is None
    assert process is backend._here()
    assert breaker.state is CircuitState.OPEN
    backend.close()
    see_end(process)


def test_a_store_that_is_lost_is_left_alone_for_a_while(member, breaker, monkeypatch):
    asked = []

    def look(store: RedisStore, since: int) -> Any:
        asked.append(since)
        raise StoreLost("away")

    monkeypatch.setattr(RedisStore, "look", look)
    for _ in range(50):
        assert breaker.call(ok) == "ok"
    assert len(asked) < 10
    assert member.problem == "away"
    assert member.lost_at is not None


def test_how_old_the_view_is_can_be_asked(member):
    assert member.lost_at is None
    assert member.heard_at <= time.monotonic()


# -- what goes wrong at the store ----------------------------------------------------------------


def test_a_delivery_that_came_too_late_is_made_again(member, breaker, monkeypatch):
    deliver = RedisStore.deliver
    monkeypatch.setattr(RedisStore, "deliver", raising(StoreBusy("late")))
    failing(breaker)
    assert member._pending.evidence
    monkeypatch.setattr(RedisStore, "deliver", deliver)
    failing(breaker)
    assert breaker.state is CircuitState.OPEN


def test_an_operation_after_its_time_does_nothing(member, breaker, monkeypatch):
    breaker.call(ok)
    process = member._here()
    process.ahead -= 3_600_000_000
    monkeypatch.setattr(member, "sync", lambda: None)  # which would find out the time
    with pytest.raises(CircuitBackendError, match="nothing was applied: the store was slow"):
        breaker.trip()
    assert member.overview().circuits == {}


def test_a_command_that_may_have_been_applied_is_said_to_be_so(member, breaker, monkeypatch):
    breaker.call(ok)
    monkeypatch.setattr(RedisStore, "command", raising(StoreUnsure("silence")))
    with pytest.raises(CircuitBackendError, match="it may have been applied, or not: silence"):
        breaker.trip()


def test_an_answer_that_is_older_than_what_is_known_makes_all_be_read_again(member, breaker):
    failing(breaker)
    process = member._here()
    known = member._rows["payments"]
    member._rows["payments"] = replace(known, epoch=known.epoch + 1)
    changes = member._command(process, {"payments": (Command(CommandKind.ENABLE), POLICY)}, 1)
    assert changes.circuits["payments"].epoch == known.epoch
    assert process.resync
    member.sync()  # which finds that changes were lost
    assert not process.resync
    assert member._incarnation != changes.incarnation


def by_another_hand(backend: Any, commands: Callable[[Any], Any], *statements: str) -> None:
    """Change what is in the store: on a server of Redis so, in a database so."""
    with closing(backend.connect(20)) as store:
        if isinstance(store, RedisStore):
            store._change(commands)
        else:
            with store.connection.transaction() as cursor:
                for statement in statements:
                    cursor.run(f"{statement} WHERE namespace = %s", store.namespace)


def spoil(backend: Any) -> None:
    """Let the row of a circuit be none."""
    by_another_hand(
        backend,
        lambda client: client.hset(backend.prefix + "circuits", "payments", "garbage"),
        "UPDATE circuitbreaker_circuit SET record = '?'",
    )


def undo(backend: Any) -> None:
    """Let the store be as it was before anything happened to a circuit, but for its revision."""

    def forget(client: Any) -> None:
        client.hdel(backend.prefix + "circuits", "payments")
        client.zrem(backend.prefix + "changes", "payments")

    by_another_hand(backend, forget, "DELETE FROM circuitbreaker_circuit")


def empty(backend: Any) -> None:
    """Let the store lose everything."""
    by_another_hand(
        backend,
        lambda client: client.flushall(),
        "DELETE FROM circuitbreaker_circuit",
        "DELETE FROM circuitbreaker_store",
    )


@pytest.mark.parametrize("kind", ["redis", "tables"])
def test_a_row_that_is_dropped_is_shared_again_though_the_clock_was_set_back(kind, request, make):
    join, server_clock = request.getfixturevalue(kind), Clock(AHEAD)
    ours, theirs = (make(join(server_clock=server_clock)) for _ in range(2))
    assert (ours.call(ok), theirs.call(ok)) == ("ok", "ok")
    server_clock.advance(60)
    ours.trip()
    ours.reset()
    assert theirs.state is CircuitState.CLOSED
    server_clock.advance(-3600)
    spoil(ours.backend)
    failing(ours)  # whose store drops the row
    ours.trip(hold=True)
    assert (ours.state, theirs.state) == (CircuitState.OPEN, CircuitState.OPEN)
    ours.reset()
    assert (ours.state, theirs.state) == (CircuitState.CLOSED, CircuitState.CLOSED)


def test_a_permit_that_may_have_been_granted_is_given_back(member, breaker, monkeypatch, clock):
    breaker.trip()
    clock.advance(30)
    monkeypatch.setattr(RedisStore, "acquire", raising(StoreUnsure("silence")))
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)
    (report,) = member._pending.reports
    assert (report.name, report.outcome) == ("payments", Outcome.IGNORED)
    member._pending.reports.clear()


def test_callers_are_spared_a_store_that_was_too_slow(member, breaker, monkeypatch, clock):
    breaker.trip()
    clock.advance(30)
    asked = []

    def acquire(*args: Any) -> Any:
        asked.append(args)
        raise StoreBusy("slow")

    monkeypatch.setattr(RedisStore, "acquire", acquire)
    for _ in range(5):
        with pytest.raises(CircuitOpenError):
            breaker.call(ok)
    assert len(asked) == 1


def test_a_publication_that_fails_is_made_again(member, monkeypatch):
    member.declare(Declaration("payments", {}, "here"))
    publish = RedisStore.publish
    monkeypatch.setattr(RedisStore, "publish", raising(StoreBusy("busy")))
    member._here().publishing.declare_at = 0.0
    member.publish()
    monkeypatch.setattr(RedisStore, "publish", publish)
    member.publish()
    assert set(member.overview().declarations) == {"payments"}


def test_a_store_that_is_back_since_it_was_missed_is_not_taken_up_again(member):
    assert member.available
    member._attach_if_lost(member._here(), store=None)  # asked nothing


def test_a_store_that_has_lost_everything_is_told_again_what_is_declared(member, redis_server):
    member.declare(Declaration("payments", {}, "here"))
    member.publish()
    with closing(redis_server.client()) as client:
        client.flushall()
    for _ in range(2):  # it is found out in the first round
        member._here().turn_at = 0.0
        member.touch()
    assert set(member.overview().declarations) == {"payments"}


@pytest.fixture
def declared(monkeypatch):
    """How many declarations the store was told of, each time."""
    publish, told = RedisStore.publish, []

    def count(store: Any, process: str, info: Any, declared: Any, counted: Any) -> Any:
        seen = publish(store, process, info, declared, counted)
        told.append(len(declared))
        return seen

    monkeypatch.setattr(RedisStore, "publish", count)
    return told


def test_what_is_declared_is_told_once_and_again_when_the_backend_is_taken_up_again(
    redis, declared
):
    member = redis()
    member.declare(Declaration("payments", {}, "here"))
    for _ in range(3):
        member.sync()
    assert declared == [1]
    member.close()
    declared.clear()
    member.sync()
    assert declared == [1]


@pytest.fixture
def parts(monkeypatch):
    """How many names each telling of calls was of, where a part is of two."""
    publish, told = RedisStore.publish, []

    def count(
        store: Any, process: str, info: Any = None, declared: Any = (), counted: Any = ({}, 0)
    ) -> Any:
        told.append(len(counted[0]))
        return publish(store, process, info, declared, counted)

    monkeypatch.setattr(RedisStore, "publish", count)
    monkeypatch.setattr(remote_attached, "FIGURES", 8)
    return told


def test_calls_are_told_in_parts_and_not_before_a_lost_store_is_back(member, make, parts):
    for number in range(5):
        make(member, f"b{number}").call(ok)
    process = member._here()
    member._lost(process, StoreLost("it is away"))
    process.turn_at = process.publishing.stats_at = 0.0
    member.sync()
    assert parts == [0, 2, 2, 1]
    assert {name: one.last_hour.calls for name, one in member.stats().items()} == {
        f"b{number}": 1 for number in range(5)
    }


def test_what_was_told_before_a_part_could_not_be_is_not_told_again(
    member, make, parts, monkeypatch
):
    for number in range(5):
        make(member, f"b{number}").call(ok)
    member._here().publishing.stats_at = 0.0
    publish = RedisStore.publish

    def refuse(*args: Any, **options: Any) -> Any:
        if len(parts) == 2:
            raise StoreBusy("busy")
        return publish(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "publish", refuse)
        with pytest.raises(StoreBusy):
            member._publish(member._here(), member._here().store)
    assert parts == [2, 2]
    member.publish()
    assert parts[:3] == [2, 2, 1]
    assert sum(one.last_hour.calls for one in member.stats().values()) == 5


def test_a_store_that_was_lost_before_it_was_first_seen_is_told_again(
    redis, redis_server, declared, monkeypatch
):
    member = redis()
    member.declare(Declaration("payments", {}, "here"))
    with monkeypatch.context() as patch, closing(redis_server.client()) as client:
        patch.setattr(RedisStore, "look", raising(StoreLost("away")))
        member.sync()
        client.flushall()
    member._here().retry_at = member._here().turn_at = 0.0
    member.sync()
    assert set(member.overview().declarations) == {"payments"}


def test_a_member_whose_store_is_away_closes_all_the_same(member, monkeypatch):
    monkeypatch.setattr(RedisStore, "withdraw", raising(StoreLost("away")))
    member.close()


def test_holds_that_cannot_be_put_back_in_time_are_not_put_back(
    redis, redis_server, make, monkeypatch
):
    held = make(redis())
    held.trip(hold=True)
    backend = held.backend
    with closing(redis_server.client()) as client:
        client.flushall()
    monkeypatch.setattr("circuitbreaker_django.backends.holds.REASSERT_WITHIN", 0)
    assert held.state is CircuitState.CLOSED
    assert backend.overview().circuits == {}


def test_an_operator_makes_nothing_by_looking(redis):
    backend = redis(observer=True)
    with pytest.raises(NoStore):
        backend.open(create=False)
    backend.sync()
    with pytest.raises(CircuitBackendError, match="there is nothing"):
        backend.order({})
    assert not backend._here().attached
    redis().sync()
    backend.order({})
    assert backend._here().attached


def test_an_operator_whose_store_has_lost_everything_makes_no_other(redis, redis_server):
    backend = redis(observer=True)
    backend.open(create=True)
    with closing(redis_server.client()) as client:
        client.flushall()
        backend.sync()
        assert client.keys() == []


def test_a_store_has_nothing_to_advise_unless_it_says_so():
    methods = dict.fromkeys(RemoteStore.__abstractmethods__)
    store: Any = type("Silent", (RemoteStore,), methods)()
    assert store.advice() == []
    assert store.clean() is None


# -- what members know of each other -------------------------------------------------------------


def is_open(breaker: CircuitBreaker) -> bool:
    return breaker.state is CircuitState.OPEN


def test_what_succeeded_before_another_member_failed_counts_in_the_rate(remote, live, make, clock):
    """Rule 7."""
    rate = {"failure_threshold": None, "failure_rate_threshold": 0.5, "minimum_calls": 10}
    ours, theirs = make(remote(), **rate), make(live(), **rate)

    def told() -> int:
        return sum(one.calls for one in ours.backend.overview().circuits["payments"].slices)

    for _ in range(6):
        theirs.call(ok)
    for _ in range(5):
        failing(ours)
    until(lambda: told() == 11)
    clock.advance(2)
    failing(theirs)
    until(lambda: is_open(ours))
    assert ours.backend.events()[0][1].cause == "6 of 12 calls failed within 60 s"


@pytest.mark.parametrize(
    ("name", "boot", "state"),
    [
        ("host", "boot", CircuitState.CLOSED),
        ("other", "boot", CircuitState.OPEN),
        ("host", "other", CircuitState.OPEN),
    ],
)
def test_a_quorum_is_of_boots_of_hosts(remote, make, monkeypatch, name, boot, state):
    """Rule 8."""
    for where in (("host", "boot"), (name, boot)):
        for question, answer in zip(("host_name", "boot_identity"), where, strict=True):
            monkeypatch.setattr(host, question, partial(str, answer))
        breaker = make(remote(), quorum=2)
        failing(breaker)
    assert breaker.backend.overview().circuits["payments"].state is state


def test_what_a_member_has_opened_alone_is_told_at_once(remote, live, make, monkeypatch):
    """Rule 17."""
    monkeypatch.setattr(remote_process, "FLUSH_EVERY", inf)
    ours, theirs = (make(member, quorum=2) for member in (live(node="a"), remote(node="b")))
    ours.backend.publish()  # which the writer does after all that it had to do
    failing(theirs)
    failing(ours)
    failing(ours)
    until(lambda: is_open(theirs))


def test_a_change_that_is_lost_without_a_sign_is_missed_at_the_next_whole_look(
    remote, live, make, monkeypatch
):
    """Rules 1 and 18: so it is where a replica is promoted too early."""
    monkeypatch.setattr(remote_attached, "RESYNC_EVERY", 0.1)
    ours, theirs = make(remote()), make(live())
    ours.trip()
    until(lambda: is_open(theirs))
    undo(ours.backend)
    until(lambda: theirs.state is CircuitState.CLOSED)
    ours.trip()
    until(lambda: is_open(theirs))


def test_what_was_half_believed_is_believed_at_the_next_look(remote, make, clock, monkeypatch):
    """As where the handler of a signal raises in between."""
    ours = make(remote())
    ours.trip()
    clock.advance(1)
    empty(ours.backend)
    with monkeypatch.context() as patch:
        patch.setattr(View, "adopt", raising(KeyError("a signal")))
        with pytest.raises(KeyError):
            ours.backend.sync()
    assert ours.call(ok) == "ok"


def test_a_change_that_was_half_believed_is_believed_at_the_next_look(remote, make, monkeypatch):
    ours, theirs = make(remote()), make(remote())
    ours.call(ok)
    theirs.trip()
    ours.backend._here().turn_at = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(View, "adopt", raising(KeyError("a signal")))
        with pytest.raises(KeyError):
            ours.backend.sync()
    ours.backend._here().turn_at = 0.0
    assert is_open(ours)


def test_a_fork_knows_nothing_of_what_was_half_believed(remote, make, monkeypatch):
    ours = make(remote())
    ours.trip()
    empty(ours.backend)
    with monkeypatch.context() as patch:
        patch.setattr(View, "adopt", raising(KeyError("here it forks")))
        with pytest.raises(KeyError):
            ours.backend.sync()
    parent = ours.backend._here()
    monkeypatch.setattr(os, "getpid", lambda: parent.pid + 1)
    assert ours.call(ok) == "ok"
    parent.store.close()


def test_who_was_denied_a_permit_asks_for_one_once_a_second(remote, live, make, clock, monkeypatch):
    theirs = make(remote())
    theirs.trip()
    clock.advance(30)
    trial = theirs.enter()
    assert isinstance(trial, Trial)
    ours = make(live())
    kind, asked = type(ours.backend.connect(1)), []
    acquire = kind.acquire

    def counted(*args: Any) -> Any:
        asked.append(args)
        return acquire(*args)

    monkeypatch.setattr(kind, "acquire", counted)
    for _ in range(30):
        for _ in range(5):
            assert isinstance(ours.enter(), CircuitOpenError)
        ours.backend.overview()  # by then it was answered, for the writer does one after the other
        clock.advance(0.1)
    assert 1 <= len(asked) <= 3
    theirs.leave(trial, Outcome.SUCCESS)


# -- threads -------------------------------------------------------------------------------------


def test_threads_end_when_nobody_has_their_backend_any_more(redis_server, make):
    # Backends and breakers hold one another, so only a collection of such cycles ends them.
    breaker = make(RedisBackend(redis_server.url, namespace="gone"))
    breaker.call(ok)
    process = breaker.backend._here()
    until(partial(getattr, process, "attached"))
    del breaker
    until(lambda: gc.collect() >= 0 and process.stopped.is_set())
    see_end(process)


def test_a_thread_that_meets_a_fault_of_ours_goes_on(threaded, monkeypatch, caplog):
    monkeypatch.setattr(remote_process, "TICK", 0.01)
    keep_up = RedisBackend._keep_up
    monkeypatch.setattr(RedisBackend, "_keep_up", raising(KeyError("a fault")))
    until(lambda: "a thread of a circuit store failed" in caplog.text)
    monkeypatch.setattr(RedisBackend, "_keep_up", keep_up)
    heard = threaded.heard_at
    until(lambda: threaded.heard_at > heard)


def test_a_store_that_the_writer_has_lost_is_not_tried_before_its_time(threaded, monkeypatch):
    process, tried = threaded._here(), []
    rounds: list[None] = []
    feed_round = RedisBackend.feed_round

    def lose(*args: Any) -> None:
        threaded._lost(process, StoreLost("the writer has lost it"))
        process.retry_at = inf

    def counted(*args: Any) -> None:
        rounds.append(feed_round(*args))

    monkeypatch.setattr(RedisBackend, "_attach", lambda *args: tried.append(args))
    monkeypatch.setattr(RedisBackend, "feed_round", counted)
    monkeypatch.setattr(RedisStore, "wait", lose)
    until(lambda: process.problem)
    del rounds[:]
    until(lambda: len(rounds) > 2)
    assert tried == []


def test_what_the_writer_raises_reaches_who_asked(threaded):
    def fail(store: RemoteStore) -> None:
        raise KeyError("a fault")

    with pytest.raises(KeyError):
        threaded._do(threaded._here(), fail, 10)


def test_too_many_questions_are_refused(threaded, monkeypatch):
    monkeypatch.setattr(remote_process, "MAX_QUESTIONS", 0)
    with pytest.raises(StoreBusy, match="too much"):
        threaded._here().submit(lambda store: None)


def test_all_threads_wait_for_the_same_moment_at_the_first_use(redis_server, monkeypatch):
    backend = RedisBackend(redis_server.url, namespace="first")
    process = backend._here()
    process.first_until = time.monotonic() + 60  # another thread was first
    backend.sync()
    assert process.used
    assert process.attached
    backend._use(process)  # one that has not seen yet that it is over
    backend.close()
    see_end(process)


@contextmanager
def held(process: RemoteProcess) -> Iterator[None]:
    """Its writer is busy with what somebody asks."""
    asked, leave = threading.Event(), threading.Event()

    def wait(store: RemoteStore) -> None:
        asked.set()
        leave.wait(10)

    answer = process.submit(wait)
    asked.wait(10)
    try:
        yield
    finally:
        leave.set()
        assert answer.result(10) is None


def test_questions_that_are_left_at_the_end_are_answered(threaded, monkeypatch):
    process = threaded._here()
    with held(process):
        left = process.submit(lambda store: None)
        process.submit(lambda store: None).cancel()
        process.stopped.set()
    see_end(process)
    assert left.cancelled()  # so that no event loop misses an exception
    monkeypatch.setattr(process, "submit", lambda ask: left)
    with pytest.raises(StoreBusy, match="closed"):
        process.ask(lambda store: None, 10)


def test_an_answer_that_nobody_waits_for_harms_nobody(threaded):
    process = threaded._here()
    with held(process), pytest.raises(StoreBusy, match="slow"):
        process.ask(lambda store: None, 0)
    assert process.ask(lambda store: "answer", 10) == "answer"


def test_a_writer_that_ends_opens_no_connection_for_whoever_comes_next(threaded, make):
    process = threaded._here()
    with held(process):
        failing(make(threaded))
        process.call_writer(urgent=True)
        threaded.close()
    see_end(process)
    assert threaded._here().store is None


def test_a_writer_has_nothing_to_do_while_the_store_is_away(threaded, make):
    process = threaded._here()
    with held(process):
        threaded._lost(process, StoreLost("it is away"))
        process.retry_at = inf
        failing(make(threaded))
        assert process.flush_at is not None
    until(lambda: process.flush_at is None)  # else it looks again and again
    assert threaded._pending


def test_a_writer_is_not_called_at_once_while_the_store_is_away(threaded, monkeypatch):
    process, here, called = threaded._here(), threading.current_thread(), []

    def call_writer(*, urgent: bool) -> None:
        if threading.current_thread() is here:  # the feed calls it, too
            called.append(urgent)

    monkeypatch.setattr(process, "call_writer", call_writer)
    threaded._pending.add_report(given_back("payments", (1, 1), "token", POLICY))
    threaded._flush(process, 0)
    threaded._lost(process, StoreLost("it is away"))
    process.retry_at = inf
    threaded._flush(process, 0)
    assert called == [True, False]


def test_a_caller_does_not_wait_for_an_answer_that_takes_too_long(threaded):
    asked, leave = threading.Event(), threading.Event()

    def wait(store: RemoteStore) -> None:
        asked.set()
        leave.wait(10)

    threading.Timer(0.2, leave.set).start()
    with pytest.raises((StoreUnsure, StoreBusy)):
        threaded._here().ask(wait, 0.1)
    leave.set()


# -- event loops ---------------------------------------------------------------------------------


async def test_the_first_use_on_an_event_loop_waits_for_nothing(redis_server, make):
    backend = RedisBackend(redis_server.url, namespace="loop")
    breaker = make(backend)
    breaker.call(ok)
    process = backend._here()
    assert process.used
    until(lambda: backend.available)
    backend.close()
    see_end(process)


def test_before_the_store_was_heard_of_no_answer_is_too_late(redis):
    backend = redis()
    assert backend._deadline(backend._here()) > backend.clock() + 10**15
