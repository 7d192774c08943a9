"""Workers that ``multiprocessing`` starts, in the way that is named, to serve a socket.

One that has died is replaced; they end with this process, at SIGTERM.
"""

from __future__ import annotations

import multiprocessing
import signal
import socket
import sys
import time
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve(listening: socket.socket) -> None:
    """Do a worker's work."""
    from tests.deployments.wsgi import application

    with WSGIServer(("127.0.0.1", 0), Quiet) as server:
        with server.socket:
            server.socket = listening
        server.set_app(application)
        signal.signal(signal.SIGTERM, end)
        server.serve_forever()


def end(*_: object) -> None:
    sys.exit(0)


def main() -> None:
    method, descriptor = sys.argv[1:]
    context: Any = multiprocessing.get_context(method)
    listening = socket.socket(fileno=int(descriptor))
    listening.setblocking(False)  # where another is faster, there is nobody to accept

    import tests.deployments.wsgi  # noqa: F401 # before the fork

    workers: list[Any] = []
    signal.signal(signal.SIGTERM, end)
    try:
        while True:
            workers = [worker for worker in workers if worker.is_alive()]
            while len(workers) < 2:
                workers.append(context.Process(target=serve, args=(listening,)))
                workers[-1].start()
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    main()
