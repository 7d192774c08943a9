"""Three members of one SQLite store against the reference model: as three processes would be."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable

from hypothesis import settings

from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from tests.core.test_model import CircuitMachine


class SQLiteMachine(CircuitMachine):
    def open_store(self) -> Callable[[], Backend]:
        self.folder = tempfile.mkdtemp()
        self.members: list[SQLiteBackend] = []

        def join() -> Backend:
            member = SQLiteBackend(f"{self.folder}/circuits.sqlite3", clock=self.clock)
            member.threads = False
            self.members.append(member)
            return member

        return join

    def close_store(self) -> None:
        for member in self.members:
            member.close()
        shutil.rmtree(self.folder)


TestSQLite = SQLiteMachine.TestCase
TestSQLite.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
