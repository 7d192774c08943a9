"""Three members of one store on a server against the reference model: as three processes would be.

More steps: ``CIRCUIT_BREAKERS_TEST_STEPS=100000``.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

import pytest
from hypothesis import settings

from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.redis import RedisBackend
from tests.backends.conftest import AHEAD
from tests.backends.servers import RedisServer
from tests.core.test_model import CircuitMachine

STEPS = 30
EXAMPLES = max(1, int(os.environ.get("CIRCUIT_BREAKERS_TEST_STEPS", "1500")) // STEPS)


class RedisMachine(CircuitMachine):
    server: RedisServer

    def open_store(self) -> Callable[[], Backend]:
        self.members: list[RedisBackend] = []
        namespace = secrets.token_hex(8)

        def join() -> Backend:
            member = RedisBackend(
                self.server.url,
                namespace=namespace,
                threads=False,
                clock=self.clock,
                server_clock=lambda: self.clock() + AHEAD,
            )
            member.turn_every, member.turn_patience = 0, 20
            self.members.append(member)
            return member

        return join

    def close_store(self) -> None:
        for member in self.members:
            member.close()


TestRedis = RedisMachine.TestCase
TestRedis.settings = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None)


@pytest.fixture(autouse=True)
def _on_a_server(redis_server: RedisServer) -> None:
    RedisMachine.server = redis_server
