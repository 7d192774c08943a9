"""A server of Redis or Valkey for one run, on a private socket."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
import time

import redis


class Server:
    """It ends with this process, at the latest."""

    def __init__(self) -> None:
        program = find()
        if program is None:
            sys.exit("there is neither redis-server nor valkey-server on this machine")
        self.folder = tempfile.mkdtemp(prefix="cb-", dir="/tmp")
        self.socket = f"{self.folder}/redis.sock"
        self.command = [program, "--port", "0", "--unixsocket", self.socket]
        self.command += ["--dir", self.folder, "--save", ""]
        atexit.register(self.end)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        with redis.Redis(unix_socket_path=self.socket) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    time.sleep(0.01)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def find() -> str | None:
    """Its program; ``None`` where there is none."""
    return shutil.which("redis-server") or shutil.which("valkey-server")
