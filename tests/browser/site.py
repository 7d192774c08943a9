"""The project that the browser visits, under two gunicorn workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.core.circuit import Command, CommandKind
from circuitbreaker_django.core.policy import Policy

ROOT = Path(__file__).parents[2]
LIST = "/admin/circuitbreaker_django/breaker/"


class Site:
    """The project, served; a test may break its services, and stop its store."""

    def __init__(
        self, home: Path, registries: dict[str, Any], settings: str = "tests.browser.settings"
    ) -> None:
        self.home = home
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                str(path) for path in (ROOT, *filter(None, [os.environ.get("PYTHONPATH")]))
            ),
            "DJANGO_SETTINGS_MODULE": settings,
            "TEST_HOME": str(home),
            "TEST_CIRCUIT_BREAKERS": json.dumps(registries),
        }
        self.run("-m", "tests.browser.users")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = (home / "server.log").open("w+")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "tests.browser.wsgi"),
                *("--workers", "2", "--bind", f"127.0.0.1:{self.port}"),
                *("--no-control-socket", "--log-level", "warning", "--graceful-timeout", "3"),
            ],
            env=self.environment,
            cwd=ROOT,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        try:
            until(self.answers)
            self.workers = self.worker_pids(enough=2)
        except BaseException:
            self.stop()
            raise

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def manage(self, *arguments: str) -> str:
        return self.run("-m", "django", *arguments)

    def answers(self) -> bool:
        assert self.process.poll() is None, (self.home / "server.log").read_text()
        try:
            self.who()
        except OSError:
            return False
        return True

    def call(self, name: str) -> tuple[str, int]:
        """What a call to that service meets, and in which worker."""
        word, pid = self.get(f"call/{name}/").split()
        return word, int(pid)

    def who(self) -> int:
        """The worker that answers."""
        return int(self.get("who/"))

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=30) as answer:
            text: str = answer.read().decode()
        return text

    def worker_pids(self, enough: int) -> set[int]:
        pids: set[int] = set()

        def have_answered() -> bool:
            with ThreadPoolExecutor(4) as pool:
                pids.update(pool.map(lambda _: self.who(), range(4)))
            return len(pids) >= enough

        until(have_answered)
        return pids

    def answers_of_all(self, name: str) -> set[str]:
        """What a call meets, in every worker."""
        found: dict[int, str] = {}

        def all_answered() -> bool:
            with ThreadPoolExecutor(4) as pool:
                found.update((pid, word) for word, pid in pool.map(self.call, [name] * 4))
            return found.keys() >= self.workers

        until(all_answered)
        return set(found.values())

    def break_down(self, name: str, error: str = "the provider is down") -> None:
        (self.home / f"{name}.broken").write_text(error)

    def repair(self, name: str) -> None:
        (self.home / f"{name}.broken").unlink(missing_ok=True)

    def reset(self, names: Iterable[str]) -> None:
        """As the command does, but at once."""
        with contextlib.closing(SQLiteBackend(self.home / "circuits.sqlite3", observer=True)) as it:
            it.open(create=False)
            it.order({name: (Command(CommandKind.RESET), Policy()) for name in names})

    def status(self, name: str) -> Any:
        return json.loads(self.manage("breaker", "status", name, "--format=json"))[0]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
