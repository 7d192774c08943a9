"""Worker processes that do as they are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Hand:
    """A worker process, and what it is told."""

    def __init__(self, location: str | Path, user: int | None = None, **options: Any) -> None:
        code = "from tests.backends.worker import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps([str(location), options, user])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.pid = self.process.pid

    def send(self, *command: Any) -> None:
        assert self.process.stdin is not None
        assert self.process.poll() is None, f"the worker has ended: {self.process.returncode}"
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else "dead"

    def __getattr__(self, name: str) -> Any:
        def ask(*arguments: Any) -> Any:
            self.send(name, *arguments)
            return self.answer()

        return ask

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Let it end as a program ends, unless it has."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            return self.process.wait(20)
        finally:
            self.process.stdout.close()


@contextmanager
def hiring(location: str | Path) -> Iterator[Callable[..., Any]]:
    """Starts workers that share the store there, or at another location; three failures open it."""
    hands: list[Hand] = []

    def hire(count: int = 1, **options: Any) -> Any:
        options = {"location": location, "failure_threshold": 3, **options}
        new = [Hand(**options) for _ in range(count)]
        hands.extend(new)
        return new if count > 1 else new[0]

    yield hire
    for hand in hands:
        if hand.process.poll() is None:
            os.kill(hand.pid, signal.SIGCONT)
            hand.kill()
        for pipe in (hand.process.stdin, hand.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # it has died, and the test has said so
                pipe.close()
