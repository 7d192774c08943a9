"""Three members of one SQLite store against the reference model: as three processes would be."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable

from hypothesis import settings
from hypothesis.stateful import rule

from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.place import remove_files
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from tests.core.test_model import CircuitMachine, prove


class SQLiteMachine(CircuitMachine):
    def open_store(self) -> Callable[[], Backend]:
        self.folder = tempfile.mkdtemp()
        self.members: list[SQLiteBackend] = []

        def join() -> Backend:
            member = Member(f"{self.folder}/circuits.sqlite3", clock=self.clock)
            member.threads = False
            self.members.append(member)
            member.sync()
            return member

        return join

    def close_store(self) -> None:
        for member in self.members:
            member.close()
        shutil.rmtree(self.folder)

    def keep_house(self) -> None:
        for member in self.members:
            process = member._here()
            process.resync = True  # also what was written without a word
            member.keep_house(process)
        self.model.keep_house(self.now)

    @rule()
    def lose_the_store(self) -> None:
        self.clock.advance(1)  # what is made later is known by its time
        remove_files(self.members[0].place)
        for member in self.members:
            member.keep_house(member._here())
        self.model.lose(self.now)
        self.epochs.clear()


class Member(SQLiteBackend):
    def touch(self) -> None:
        """Housekeeping is the machine's, and not the clock's on the wall."""


def test_processes_do_what_the_model_does():
    prove(
        SQLiteMachine,
        least={"half_open": 0.4, "ramp-up": 0.2, "metrics_only": 0.1, "alone": 0.1},
        max_examples=settings().max_examples,
        stateful_step_count=40,
    )
