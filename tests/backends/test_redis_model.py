"""Three members of one store on a server against the reference model: as processes would be."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import closing
from math import inf

from hypothesis.stateful import rule

from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.redis import RedisBackend
from tests.backends.conftest import AHEAD
from tests.backends.servers import RedisServer
from tests.core.test_model import CircuitMachine, fewer, prove


class RedisMachine(CircuitMachine):
    server: RedisServer

    def open_store(self) -> Callable[[], Backend]:
        self.members: list[RedisBackend] = []
        namespace = secrets.token_hex(8)

        def join() -> Backend:
            member = RedisBackend(
                self.server.url,
                namespace=namespace,
                node=f"host {len(self.members)}",
                threads=False,
                clock=self.clock,
                server_clock=lambda: self.clock() + AHEAD,
            )
            member.turn_every, member.turn_patience = 0, 20
            member._here().contribute_at = inf  # housekeeping is the machine's
            self.members.append(member)
            member.sync()
            return member

        return join

    def close_store(self) -> None:
        for member in self.members:
            member.close()

    def keep_house(self) -> None:
        for member in self.members:
            member._here().resync = True  # also what was written without a word
            member.sync()
            member._keep_contributions()
            member._flush(member._here(), 20)
        self.model.keep_house(self.now)

    @rule()
    def lose_the_store(self) -> None:
        self.clock.advance(1)  # what is made later is known by its time
        with closing(self.server.client()) as client:
            client.flushall()
        for member in self.members:
            member.sync()
        self.model.lose(self.now)
        self.epochs.clear()


def test_processes_do_what_the_model_does(redis_server):
    RedisMachine.server = redis_server
    prove(
        RedisMachine,
        least={"half_open": 0.25, "ramp-up": 0.05, "metrics_only": 0.05, "alone": 0.05},
        max_examples=fewer(2),
        stateful_step_count=30,
    )
