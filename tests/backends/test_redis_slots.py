"""The slot of the circuits moves from one node of a cluster to another, while calls run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from circuitbreaker_django import CircuitBreaker
from tests.backends.servers import RedisServer
from tests.backends.test_redis import cluster
from tests.backends.test_redis_faults import is_closed, is_open, live, server, works
from tests.backends.waiting import until
from tests.core.calls import ok

__all__ = ["cluster", "live", "server"]

pytestmark = pytest.mark.nightly


@contextmanager
def calling(*breakers: CircuitBreaker) -> Iterator[list[BaseException]]:
    """Each is called all the time; what callers have met."""
    met: list[BaseException] = []
    done = threading.Event()

    def call(breaker: CircuitBreaker) -> None:
        while not done.wait(0.001):
            try:
                breaker.call(ok)
            except BaseException as error:
                met.append(error)

    threads = [threading.Thread(target=call, args=(breaker,)) for breaker in breakers]
    for thread in threads:
        thread.start()
    try:
        yield met
    finally:
        done.set()
        for thread in threads:
            thread.join(20)


def move(nodes: list[RedisServer], between: Callable[[str], None]) -> None:
    """Move the slot to another node, as `redis-cli --cluster reshard` does, step by step."""
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(node.client())) for node in nodes]
        source = next(client for client in clients if client.dbsize())
        target = next(client for client in clients if client is not source)
        port = nodes[clients.index(target)].port
        ids = {client: client.execute_command("CLUSTER MYID") for client in (source, target)}
        slot = source.execute_command("CLUSTER KEYSLOT", source.randomkey())
        target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
        between("before a key is moved")
        while keys := source.execute_command("CLUSTER GETKEYSINSLOT", slot, 1):
            source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
            between("half of the keys are moved")
        for client in (target, source, *clients):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target])
        between("all is moved")


def test_calls_hear_nothing_of_a_slot_that_moves_and_circuits_move_with_it(cluster, live):
    place = ",".join(f"127.0.0.1:{node.port}" for node in cluster)
    url = f"redis+cluster://{place}"
    ours, theirs = (live(url=url) for _ in range(2))
    held = live("held", url=url)
    works(ours, theirs)
    held.trip(hold=True)
    seen: list[str] = []
    with calling(ours, theirs) as met:
        for _ in range(3):
            move(cluster, seen.append)
            until(lambda: ours.backend.available and theirs.backend.available)
    assert met == []
    assert len(set(seen)) == 3
    assert is_open(held)
    works(ours, theirs)
    assert is_closed(ours)
