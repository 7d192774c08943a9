"""A server of the tests' own, of any kind, and what its workers say when they are asked."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.backends.waiting import until
from tests.deployments.services import Answer
from tests.deployments.tasks import ask, make_app

ROOT = Path(__file__).parents[2]
WORKERS = 2

Ask = Callable[[str, str, int], Answer]


@dataclass(frozen=True)
class Server:
    """A kind of server.

    Attributes:
        command: to start it, with ``{socket}`` for the descriptor of the socket that it serves.
        early: whether its workers are forked from a process that has used a breaker.
        prefix: of the paths that it is asked.
        needs_broker: whether it is asked by tasks, not by HTTP.
        led: whether a master replaces and ends its workers.
    """

    command: tuple[str, ...]
    early: bool = False
    prefix: str = ""
    needs_broker: bool = False
    led: bool = True


class Deployment:
    """A server that runs with two workers."""

    def __init__(
        self, server: Server, environment: dict[str, str], folder: Path, broker: str = ""
    ) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.socket = socket.create_server(("127.0.0.1", 0))
        self._prefix = server.prefix
        self._led = server.led
        self._celery = make_app(broker) if broker else None
        descriptor = self.socket.fileno()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(word.format(socket=descriptor) for word in server.command)],
                cwd=ROOT,
                env={
                    **os.environ,
                    **environment,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
                    "DJANGO_SETTINGS_MODULE": "tests.deployments.settings",
                    "TEST_BROKER": broker,
                    "TEST_USED_EARLY": "1" if server.early else "",
                },
                pass_fds=[descriptor],
                process_group=None if server.led else 0,
                stdout=log,
                stderr=log,
            )

    def ask(self, verb: str, name: str, pid: int = 0) -> Answer:
        """What one worker says; that one, if it is named."""
        found: list[Answer] = []

        def is_answered() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            found.append(self._ask(verb, name, pid))
            return pid in (0, found[-1]["pid"])

        until(is_answered, seconds=60)
        return found[-1]

    def ask_at_once(self, count: int, verb: str, name: str) -> list[Answer]:
        """What so many visitors at once are told, by whichever worker takes them."""
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.ask(verb, name), range(count)))

    def told(self, what: str, verb: str, name: str) -> list[Any]:
        """What each worker says to that."""
        return [self.ask(verb, name, pid)[what] for pid in self.workers()]

    def workers(self) -> list[int]:
        """The workers that there are."""
        pids: set[int] = set()

        def are_all() -> bool:
            pids.update(answer["pid"] for answer in self.ask_at_once(4, "look", "early"))
            return len(pids) == WORKERS

        until(are_all, seconds=60)
        return sorted(pids)

    def end(self) -> int:
        """As an operator ends it; how it ended."""
        self._send(signal.SIGTERM)
        return self.process.wait(20)

    def close(self) -> None:
        """End it whatever happened."""
        if self.process.poll() is None:
            try:
                self.end()
            except subprocess.TimeoutExpired:
                self._send(signal.SIGKILL)
                self.process.wait()
        self.socket.close()
        if self._celery is not None:
            self._celery.close()

    def _send(self, number: signal.Signals) -> None:
        if self._led:
            self.process.send_signal(number)
        else:
            os.killpg(self.process.pid, number)

    def _ask(self, verb: str, name: str, pid: int) -> Answer:
        if self._celery is not None:
            return ask(self._celery, self.folder, verb, name, pid)
        visit = http.client.HTTPConnection("127.0.0.1", self.socket.getsockname()[1], timeout=30)
        with closing(visit):
            visit.request("GET", f"/{self._prefix}{verb}/{name}/{pid}/")
            response = visit.getresponse()
            body = response.read().decode()
        assert response.status == 200, body
        told: Answer = json.loads(body)
        return told
