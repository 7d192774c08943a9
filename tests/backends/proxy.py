"""A network that fails: a proxy in front of a server, in threads of this process."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType


class Proxy:
    """Passes on what it gets, unless there is a fault.

    ``refuse``: nobody is there. ``reset``: connections end with an RST. ``swallow``: the server
    gets everything, and its answers are lost. ``delay``: answers come after ``late`` seconds.
    ``cut``: half of an answer comes, and then nothing. ``garbage``: the answers are nonsense.

    Args:
        target: the server's port or socket.
    """

    def __init__(self, target: int | Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._fault: str | None = None
        self.late: float = 3
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"

    @property
    def fault(self) -> str | None:
        return self._fault

    @fault.setter
    def fault(self, fault: str | None) -> None:
        self._fault = fault
        if fault in (None, "refuse", "reset"):
            self._hang_up()

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._fault = "refuse"
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._hang_up()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _hang_up(self) -> None:
        for one in list(self._open):
            try:
                if self._fault == "reset":
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._fault in ("refuse", "reset"):
                client.close()
                continue
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            self._start(self._pass_on, client, server, False)
            self._start(self._pass_on, server, client, True)

    def _connect(self) -> socket.socket:
        if isinstance(self._target, int):
            return socket.create_connection(("127.0.0.1", self._target))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._target))
        return server

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                fault = self._fault if answers else None
                if fault == "swallow":
                    continue
                if fault == "delay":
                    time.sleep(self.late)
                elif fault == "cut":
                    target.sendall(data[: len(data) // 2])
                    continue
                elif fault == "garbage":
                    data = b"!garbage\r\n"
                target.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, target):
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            if answers:
                time.sleep(0.05)
                for one in (source, target):
                    self._open.discard(one)
                    one.close()
