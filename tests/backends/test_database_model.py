"""Three members of one store in a database against the reference model."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest
from hypothesis import settings

from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.database import DatabaseBackend
from tests.backends.conftest import AHEAD
from tests.core.test_model import CircuitMachine


class DatabaseMachine(CircuitMachine):
    def open_store(self) -> Callable[[], Backend]:
        namespace = uuid4().hex
        self.members: list[DatabaseBackend] = []

        def join() -> Backend:
            member = DatabaseBackend(
                "circuits",
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


TestDatabase = pytest.mark.usefixtures("database")(DatabaseMachine.TestCase)
TestDatabase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
