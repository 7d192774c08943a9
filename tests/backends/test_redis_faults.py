"""The Redis backend with its threads, on a server that is stopped, killed, emptied and filled.

Members are backends of this process with threads and connections of their own; nothing here is
timed but for bounds that are far away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.backends import remote_attached
from circuitbreaker_django.backends.redis import RedisBackend, RedisStore
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.states import Mode
from tests.backends.proxy import Proxy
from tests.backends.servers import RedisServer, short_folder
from tests.backends.waiting import until
from tests.core.calls import failing, ok

Live = Callable[..., CircuitBreaker]
KEYS = ("meta", "circuits", "changes", "feed", "events", "processes", "declarations")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that the test may do anything to."""
    for folder in short_folder():
        server = RedisServer(folder)
        server.start()
        yield server
        server.kill()


@pytest.fixture
def live(server: RedisServer, short_rounds: None) -> Iterator[Live]:
    """Makes a breaker of one more member; two failures open it."""
    members: list[RedisBackend] = []

    def live(
        name: str = "payments", url: str = "", namespace: str = "default", **options: Any
    ) -> CircuitBreaker:
        backend = RedisBackend(url or server.url, namespace=namespace)
        members.append(backend)
        options = {"failure_threshold": 2, "recovery_timeout": 30, **options}
        breaker = CircuitBreaker(name, backend=backend, **options)
        breaker.call(ok)
        # On a busy host the first call need not wait long enough for the store.
        until(lambda: backend.available or backend.problem)
        return breaker

    yield live
    processes = [member._here() for member in members]
    for member in members:
        member.close()
    for process in processes:
        for thread in (process.feed, process.writer):
            if thread is not None:
                thread.join(10)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was said of the store's loss and return, in short."""
    caplog.set_level(logging.INFO, "circuitbreaker_django")

    def lines() -> list[str]:
        said = [record.getMessage() for record in caplog.records]
        return [
            "lost" if "own until" in line else "back"
            for line in said
            if "own until" in line or "shared again" in line
        ]

    return lines


def is_open(breaker: CircuitBreaker) -> bool:
    return breaker.state is CircuitState.OPEN


def is_closed(breaker: CircuitBreaker) -> bool:
    return breaker.state is CircuitState.CLOSED


def is_lost(*breakers: CircuitBreaker) -> bool:
    return all(breaker.backend.problem for breaker in breakers)


def is_back(*breakers: CircuitBreaker) -> bool:
    return all(breaker.backend.available for breaker in breakers)


def passes(breaker: CircuitBreaker) -> bool:
    try:
        breaker.call(ok)
    except CircuitOpenError:
        return False
    return True


def works(*breakers: CircuitBreaker) -> None:
    """A trip and a reset by one reach all the others."""
    for breaker in breakers:
        breaker.trip()
        until(lambda: all(map(is_open, breakers)))
        breaker.reset()
        until(lambda: all(map(is_closed, breakers)))


# -- without a fault -----------------------------------------------------------------------------


def test_what_one_member_does_reaches_the_others(live):
    works(live(), live(), live())


def test_failures_of_members_are_summed(live):
    ours, theirs = live(), live()
    failing(ours)
    failing(theirs)
    until(lambda: is_open(ours) and is_open(theirs))


def test_one_trial_at_once_over_all_members(live):
    breakers = [live(recovery_timeout=0.2) for _ in range(4)]
    breakers[0].trip()
    until(lambda: all(one.state is CircuitState.HALF_OPEN for one in breakers))
    started, passed = threading.Barrier(4), []
    leave = threading.Event()

    def trial() -> None:
        passed.append(threading.current_thread())
        leave.wait(10)

    def call(breaker: CircuitBreaker) -> None:
        started.wait(10)
        while True:  # on a busy host the first answer may come too late
            somebody_tries = bool(passed)
            try:
                breaker.call(trial)
                return
            except CircuitOpenError:
                if somebody_tries:
                    return
                time.sleep(0.01)

    threads = [threading.Thread(target=call, args=(one,)) for one in breakers]
    for thread in threads:
        thread.start()
    until(lambda: sum(not thread.is_alive() for thread in threads) == 3)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert len(passed) == 1
    until(lambda: all(map(is_closed, breakers)))


async def test_an_event_loop_gets_its_permit_without_waiting_for_it(live, patient):
    breaker = live(recovery_timeout=0.1)
    breaker.trip()
    until(lambda: breaker.state is CircuitState.HALF_OPEN)

    @breaker
    async def tried() -> str:
        return "tried"

    assert await tried() == "tried"
    until(lambda: is_closed(breaker))


async def test_a_block_on_an_event_loop_gets_its_permit_too(live, patient):
    breaker = live(recovery_timeout=0.1)
    breaker.trip()
    until(lambda: breaker.state is CircuitState.HALF_OPEN)
    async with breaker:
        pass
    until(lambda: is_closed(breaker))


async def test_a_sync_call_on_an_event_loop_is_rejected_until_its_permit_has_come(live):
    breaker = live(recovery_timeout=0.1)
    breaker.trip()
    until(lambda: breaker.state is CircuitState.HALF_OPEN)
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)
    until(lambda: passes(breaker))


async def test_a_permit_that_nobody_takes_is_given_back(live):
    ours, theirs = live(recovery_timeout=0.1), live(recovery_timeout=0.1)
    ours.trip()
    until(lambda: theirs.state is CircuitState.HALF_OPEN)
    until(lambda: ours.state is CircuitState.HALF_OPEN)
    await ours.backend.ask_ahead(ours.view, ours.policy)
    assert ours.backend.overview().circuits["payments"].permits
    until(lambda: not ours.backend.overview().circuits["payments"].permits)


def test_a_server_that_always_takes_longer_than_a_caller_waits_lets_trials_through(server, live):
    with Proxy(server.socket) as proxy:
        proxy.late, proxy.fault = 0.08, "delay"
        breaker = live(url=proxy.url, recovery_timeout=0.1)
        until(lambda: is_back(breaker))
        for _ in range(2):
            failing(breaker)
        until(lambda: is_open(breaker))
        until(lambda: passes(breaker))
        until(lambda: is_closed(breaker))
        assert breaker.backend.problem is None


# -- the server comes and goes -------------------------------------------------------------------


def test_a_server_that_is_not_there_costs_nobody_an_error(server, live, lines):
    server.kill()
    breaker = live()
    until(lambda: is_lost(breaker))
    assert breaker.call(ok) == "ok"
    for _ in range(2):
        failing(breaker)
    assert is_open(breaker)
    with pytest.raises(CircuitBackendError):
        breaker.reset()
    server.start()
    until(lambda: is_back(breaker))
    breaker.reset()
    works(breaker, live())
    until(lambda: lines() == ["lost", "back"])


def test_a_server_that_is_killed_and_comes_back_empty(server, live, lines):
    ours, theirs, held = live(), live(), live("held")
    held.trip(hold=True, reason="maintenance", actor="ann")
    server.kill()
    until(lambda: is_lost(ours, theirs, held))
    assert ours.call(ok) == "ok"
    assert is_open(held)
    server.start()
    until(lambda: is_back(ours, theirs, held))
    works(ours, theirs)
    until(lambda: "held" in held.backend.overview().circuits)
    hold = held.backend.overview().circuits["held"].override
    assert (hold.mode, hold.actor, hold.reason) == (Mode.FORCED_OPEN, "ann", "maintenance")
    assert is_open(held)
    until(lambda: sorted(lines()) == ["back"] * 3 + ["lost"] * 3)


def test_a_server_that_stands_still_delays_nobody_and_is_believed_again(server, live, lines):
    ours, theirs = live(), live()
    ours.trip()
    until(lambda: is_open(theirs))
    server.pause()
    try:
        until(lambda: is_lost(ours, theirs))
        assert is_open(ours)
        free = CircuitBreaker("free", failure_threshold=2, backend=ours.backend)
        assert free.call(ok) == "ok"
        failing(free)
        failing(free)
        assert is_open(free)
        with pytest.raises(CircuitBackendError):
            theirs.reset()
    finally:
        server.resume()
    until(lambda: is_back(ours, theirs))
    works(ours, theirs)
    until(lambda: sorted(lines()) == ["back", "back", "lost", "lost"])


def test_a_command_that_could_not_be_confirmed_is_not_obeyed_later(server, live):
    breaker = live()
    breaker.reset()  # so that there is a connection, on which the server will find it
    server.pause()
    try:
        with pytest.raises(CircuitBackendError):
            breaker.trip()
        time.sleep(remote_attached.THREAD_PATIENCE + 0.2)
    finally:
        server.resume()
    until(lambda: is_back(breaker))
    assert breaker.backend.overview().circuits["payments"].state is CircuitState.CLOSED


def test_a_permit_of_a_server_that_stands_still_is_given_back(server, live):
    ours, theirs = live(recovery_timeout=0.1), live(recovery_timeout=0.1)
    ours.trip()
    until(lambda: ours.state is CircuitState.HALF_OPEN)
    until(lambda: theirs.state is CircuitState.HALF_OPEN)
    server.pause()
    try:
        with pytest.raises(CircuitOpenError):
            ours.call(ok)
    finally:
        server.resume()
    until(lambda: passes(theirs))
    until(lambda: is_closed(ours) and is_closed(theirs))


def test_a_process_without_its_store_runs_one_trial_of_its_own(server, live):
    breaker = live(recovery_timeout=0.2)
    breaker.trip()
    server.kill()
    until(lambda: is_lost(breaker))
    until(lambda: passes(breaker))
    assert is_closed(breaker)


# -- what is in it -------------------------------------------------------------------------------


def test_the_loss_of_everything_is_survived(server, live):
    ours, theirs, held = live(), live(), live("held")
    ours.trip()
    held.trip(hold=True)
    until(lambda: is_open(theirs))
    with closing(server.client()) as client:
        client.flushall()
        until(lambda: client.hexists(held.backend.prefix + "circuits", "held"))
    assert is_open(held)
    until(lambda: is_closed(ours) and is_closed(theirs))
    works(ours, theirs)


@pytest.mark.parametrize("key", KEYS)
def test_the_loss_of_a_key_is_survived(server, live, key):
    ours, theirs = live(), live()
    works(ours, theirs)
    ours.trip(hold=True)
    before = ours.backend._incarnation
    with closing(server.client()) as client:
        assert client.delete(ours.backend.prefix + key) or key == "declarations"
    if key in ("meta", "circuits", "changes"):  # then nothing of it is worth anything
        until(lambda: ours.backend._incarnation != before)
    assert is_open(ours)
    works(ours, theirs)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_another_type_is_no_error_for_callers(server, live, lines, key):
    ours, theirs = live(), live()
    works(ours, theirs)
    name = ours.backend.prefix + key
    with closing(server.client()) as client:
        client.delete(name)
        client.rpush(name, "of somebody else")
        if key == "feed":  # one that is ahead, as of another server, is no feed either
            client.delete(name)
            client.xadd(name, {"ring": ""}, id=f"{2**62}-0")
            works(ours, theirs)
            client.delete(name)
            client.rpush(name, "of somebody else")
        if key in ("feed", "events"):  # which are written and never read: they begin anew
            until(lambda: is_back(ours, theirs))
            works(ours, theirs)
        elif key != "declarations":
            until(lambda: is_lost(ours, theirs))
            assert f"delete {ours.backend.prefix}*" in ours.backend.problem
        for breaker in (ours, theirs):
            assert breaker.call(ok) == "ok"
            failing(breaker)
        client.delete(name)
    until(lambda: is_back(ours, theirs))
    works(ours, theirs)


def url_of_a_worker(server: RedisServer, client: Any, right: str) -> str:
    """Of a user who may do all but what is said."""
    rights = ["+@all", right]
    client.acl_setuser("worker", enabled=True, passwords=["+secret"], keys=["*"], commands=rights)
    return f"redis://worker:secret@127.0.0.1:{server.port}/0"


@pytest.mark.parametrize("key", ["feed", "events"])
def test_a_command_is_applied_and_confirmed_or_neither(server, live, key):
    """Also where a script meets a key that it has not read before."""
    ours, theirs = live(), live()
    works(ours, theirs)
    name = ours.backend.prefix + key
    with closing(server.client()) as client:
        for _ in range(10):
            client.delete(name)
            client.rpush(name, "of somebody else")
            try:
                ours.trip()
            except CircuitBackendError:  # the feed has just met it, too
                assert not is_open(theirs)
                until(lambda: is_back(ours))
            else:
                until(lambda: is_open(theirs))
                until(lambda: is_back(ours))
                ours.reset()
                until(lambda: is_closed(theirs))


def test_a_feed_that_is_ahead_begins_anew_when_a_process_tells_of_itself(server, live):
    """For until then nobody waits for news: all look again and again."""
    ours = live()
    works(ours)
    feed = ours.backend.prefix + "feed"
    with closing(server.client()) as client:
        ours.backend.publish()
        assert client.exists(feed)
        client.xadd(feed, {"ring": ""}, id=f"{2**62}-0")
        ours.backend.publish()
        assert not client.exists(feed)
    works(ours)


def test_a_store_that_cannot_do_all_is_lost_once_and_tried_less_and_less(server, live, lines):
    """As for a user who may write, and not read what is new."""
    with closing(server.client()) as client:
        breaker = live(url=url_of_a_worker(server, client, "-xread"))
        until(lambda: is_lost(breaker))
        time.sleep(1)
        assert lines() == ["lost"]
        assert "docs/redis.md lists the rights" in breaker.backend.problem
        url_of_a_worker(server, client, "+xread")
    until(lambda: lines() == ["lost", "back"])


def test_a_store_that_does_not_stay_is_told_of_once(server, live, lines, monkeypatch):
    """As for a user who may do all but deliver."""
    monkeypatch.setattr(remote_attached, "STAY", 60)
    attach, attached = RedisBackend._attach, []

    def counted(*args: Any) -> None:
        attach(*args)
        attached.append(args)

    monkeypatch.setattr(RedisBackend, "_attach", counted)
    with closing(server.client()) as client:
        breaker = live(url=url_of_a_worker(server, client, "-xadd"))
        until(lambda: is_back(breaker))
        failing(breaker)
        failing(breaker)
        until(lambda: lines() == ["lost"])
        del attached[:]
        until(lambda: len(attached) > 2)
        assert lines() == ["lost"]
        until(lambda: "docs/redis.md lists the rights" in (breaker.backend.problem or ""))
        monkeypatch.setattr(remote_attached, "RETRY_MOST", 1)
        url_of_a_worker(server, client, "+xadd")
    until(lambda: lines() == ["lost", "back"])


def test_who_may_not_add_to_the_history_changes_and_deletes_nothing(server, live):
    known = live()
    works(known)
    history = [event.epoch for _, event in known.backend.events()]
    with closing(server.client()) as client:
        breaker = live(url=url_of_a_worker(server, client, "-xadd"))
        until(lambda: is_back(breaker))
        with pytest.raises(CircuitBackendError, match="nothing was applied"):
            breaker.trip()
    assert is_closed(known)
    assert [event.epoch for _, event in known.backend.events()] == history


GARBAGE = ["garbage", "{}", "[]", "null", b"\xff", '{"override":' * 2000, '{"epoch": 1e999}']


def dropped(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of which circuits the log says that they were dropped."""
    return [text for text in caplog.messages if "could not be read" in text]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_a_row_that_is_no_circuit_harms_no_other_and_is_replaced(
    server, live, lines, caplog, garbage
):
    ours, theirs, other = live(), live(), live("search")
    works(ours, theirs)
    other.trip(hold=True)
    with closing(server.client()) as client:
        client.hset(ours.backend.prefix + "circuits", "payments", garbage)
    failing(ours)  # of a circuit that is no more, and the next who tells of it finds that
    until(lambda: dropped(caplog))
    assert is_open(other)
    works(ours, theirs)
    assert lines() == []
    assert len(dropped(caplog)) == 1
    assert "payments" in dropped(caplog)[0]


def test_a_command_to_a_row_that_is_no_circuit_is_obeyed(server, live, lines):
    ours, other = live(), live("search")
    other.trip()
    with closing(server.client()) as client:
        client.hset(ours.backend.prefix + "circuits", "payments", "garbage")
        ours.trip(hold=True)
        client.hset(ours.backend.prefix + "circuits", "payments", "garbage")
        until(lambda: is_open(ours))
        ours.reset()
    assert is_closed(ours)
    assert is_open(other)
    assert lines() == []


def test_who_reads_everything_anew_drops_what_is_no_circuit(server, live, lines, caplog):
    ours, theirs, other = live(), live(), live("search")
    works(ours, theirs)
    other.trip(hold=True)
    with closing(server.client()) as client:
        for name in ("payments", b"\xff", "by another hand"):
            client.hset(ours.backend.prefix + "circuits", name, "garbage")
            client.zadd(ours.backend.prefix + "changes", {name: 1})
        ours.backend._here().resync = True
        until(lambda: client.hlen(ours.backend.prefix + "circuits") == 2)  # the hold, and the mark
    works(ours, theirs)
    assert is_open(other)
    assert lines() == []
    assert len(dropped(caplog)) == 1


def test_what_is_filled_with_garbage_again_and_again_costs_a_command_and_nothing_else(
    server, live, monkeypatch
):
    ours = live()
    with closing(server.client()) as client:

        def fill(unreadable: list[bytes]) -> None:
            client.hset(ours.backend.prefix + "circuits", "payments", "garbage")

        fill([])
        monkeypatch.setattr(RedisStore, "_drop", lambda self, unreadable: fill(unreadable))
        with pytest.raises(CircuitBackendError, match="again and again"):
            ours.trip()
    assert is_back(ours)
    assert ours.call(ok) == "ok"


def test_garbage_in_the_history_is_left_out(server, live, lines):
    ours = live()
    ours.trip()
    with closing(server.client()) as client:
        for fields in ({"name": "payments", "event": "garbage"}, {"of": "somebody else"}):
            client.xadd(ours.backend.prefix + "events", fields)
    ours.reset()
    assert [event.after.value for _, event in ours.backend.events()] == ["closed", "open"]
    assert lines() == []


@pytest.mark.parametrize("garbage", ["garbage", "9" * 5000, None], ids=["text", "long", "whole"])
def test_garbage_in_what_was_counted_is_passed_over_and_replaced(server, live, lines, garbage):
    ours, other = live(), live("search")
    ours.backend.publish()
    other.backend.publish()
    with closing(server.client()) as client:
        for key in client.keys(ours.backend.prefix + "traffic:*"):
            if garbage is None:
                client.delete(key)
                client.rpush(key, "of somebody else")
            else:
                client.hset(key, mapping={"cpayments": garbage, "?": "1", b"\xff": "1"})
        kept = ours.backend.stats()
        assert "payments" not in kept
        assert ("search" in kept) == (garbage is not None)
        ours.call(ok)
        ours.backend.publish()
    assert ours.backend.stats()["payments"].last_hour.calls == 1
    assert lines() == []


def test_scripts_that_the_server_has_forgotten_are_told_again(server, live):
    ours, theirs = live(), live()
    with closing(server.client()) as client:
        client.script_flush()
    works(ours, theirs)
    assert is_back(ours, theirs)


def test_a_server_that_is_full_is_no_error_for_callers(server, live, lines):
    ours, theirs = live(), live()
    works(ours, theirs)
    history = [event.epoch for _, event in ours.backend.events()]
    with closing(server.client()) as client:
        client.config_set("maxmemory", 1)
        failing(ours)
        until(lambda: is_lost(ours, theirs))
        assert "(the server is full: raise maxmemory, or make room)" in ours.backend.problem
        assert ["memory is full" in one for one in ours.backend.advice()] == [True]
        failing(ours)
        assert is_open(ours)
        with pytest.raises(CircuitBackendError, match="maxmemory"):
            ours.reset()
        assert [event.epoch for _, event in ours.backend.events()] == history
        client.config_set("maxmemory", 0)
    until(lambda: is_back(ours, theirs))
    ours.reset()
    works(ours, theirs)
    until(lambda: sorted(lines()) == ["back", "back", "lost", "lost"])


def test_a_server_that_only_reads_is_no_error_for_callers(server, live, lines):
    ours, theirs = live(), live()
    with closing(server.client()) as client:
        client.replicaof("127.0.0.1", 1)
        until(lambda: is_lost(ours, theirs))
        until(lambda: ours.call(ok) and "(name the primary)" in (ours.backend.problem or ""))
        assert ours.call(ok) == "ok"
        client.replicaof("NO", "ONE")
    until(lambda: is_back(ours, theirs))
    works(ours, theirs)
    until(lambda: sorted(lines()) == ["back", "back", "lost", "lost"])


@pytest.mark.parametrize("overtaken", [False, True])
def test_changes_that_the_store_has_lost_are_believed_by_nobody(server, live, overtaken):
    ours, theirs = live(), live()
    ours.reset()
    other = live("other")
    prefix = ours.backend.prefix
    with closing(server.client()) as client:
        old = {key: client.dump(prefix + key) for key in KEYS}
        ours.trip()
        until(lambda: is_open(theirs))
        with client.pipeline() as step:  # as a replica that is promoted too early
            for key, value in old.items():
                if value is not None:
                    step.restore(prefix + key, 0, value, replace=True)
            step.execute()
        if overtaken:
            other.trip()
    for breaker in (ours, theirs):  # at the next whole look, or when somebody needs the row
        breaker.backend._here().resync = True
    until(lambda: is_closed(ours) and is_closed(theirs))
    works(ours, theirs)


# -- the network ---------------------------------------------------------------------------------


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.mark.parametrize("fault", ["refuse", "reset", "swallow", "delay", "cut", "garbage"])
def test_a_network_that_fails_is_no_error_for_callers(live, proxy, fault):
    near, far = live(), live(url=proxy.url)
    works(near, far)
    proxy.fault = fault
    until(lambda: is_lost(far))
    assert far.call(ok) == "ok"
    for _ in range(2):
        failing(far)
    assert is_open(far)
    with pytest.raises(CircuitBackendError):
        far.reset()
    proxy.fault = None
    until(lambda: is_back(far))
    far.reset()
    works(near, far)


def test_evidence_that_may_have_been_counted_is_not_counted_twice(live, proxy):
    near, far = live(failure_threshold=5), live(failure_threshold=5, url=proxy.url)
    works(near, far)
    proxy.fault = "swallow"  # the server does it, and nobody hears of that
    failing(far)
    until(lambda: is_lost(far))
    proxy.fault = None
    until(lambda: is_back(far) and not far.backend._pending.evidence)
    far.backend.publish()  # which the writer does after all that it had to do
    assert len(near.backend.overview().circuits["payments"].failures) == 1
