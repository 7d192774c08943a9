"""A server of Redis or Valkey for one run, on a private socket."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import redis


def start() -> str | None:
    """The path of its socket; ``None`` where there is none. It ends with this process."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        return None
    folder = tempfile.mkdtemp(prefix="cb-", dir="/tmp")
    socket = f"{folder}/redis.sock"
    command = [program, "--port", "0", "--unixsocket", socket, "--dir", folder, "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def stop() -> None:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    while not Path(socket).exists():
        time.sleep(0.01)
    with redis.Redis(unix_socket_path=socket) as client:
        client.ping()
    return socket
