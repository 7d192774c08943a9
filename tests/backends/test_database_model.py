"""Three members of one store in a database against the reference model."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from math import inf

from django.db import connections
from hypothesis.stateful import rule

from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.database import DatabaseBackend
from tests.backends.conftest import AHEAD
from tests.core.test_model import CircuitMachine, fewer, prove


class DatabaseMachine(CircuitMachine):
    def open_store(self) -> Callable[[], Backend]:
        self.members: list[DatabaseBackend] = []
        namespace = secrets.token_hex(8)

        def join() -> Backend:
            member = DatabaseBackend(
                "circuits",
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
        with connections["circuits"].cursor() as cursor:
            for name in ("store", "circuit", "event"):
                cursor.execute(
                    f"DELETE FROM circuitbreaker_{name} WHERE namespace = %s",
                    [self.members[0].namespace],
                )
        for member in self.members:
            member.sync()
        self.model.lose(self.now)
        self.epochs.clear()


def test_processes_do_what_the_model_does(database, django_db_blocker):
    with django_db_blocker.unblock():
        prove(
            DatabaseMachine,
            least={"half_open": 0.2},
            max_examples=fewer(5),
            stateful_step_count=30,
        )
