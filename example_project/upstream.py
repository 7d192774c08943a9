"""
The service that the shop depends on, as a process of its own, with a switch to break it.

``GET /charge``, ``/search`` and ``/stock`` answer as the mode says; ``GET /mode`` says which one is
on, and ``POST /mode/<mode>`` switches it. The modes:

- ``healthy``: answers at once
- ``errors``: answers 500 at once
- ``slow``: answers after ``SLOW_SECONDS``
- ``hang``: never answers; ends when the client gives up, or after ``HANG_SECONDS``
"""

import argparse
import json
import select
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

MODES = ("healthy", "errors", "slow", "hang")
SLOW_SECONDS = 2.0
HANG_SECONDS = 60.0

GOODS = {"tea": 12, "teapot": 3, "cup": 40, "biscuits": 25}


class Upstream(ThreadingHTTPServer):
    """Listens on loopback only. ``port`` 0 takes a free one."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.mode = "healthy"
        self.receipts = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def next_receipt(self) -> int:
        with self.lock:
            self.receipts += 1
            return self.receipts


class Handler(BaseHTTPRequestHandler):
    server: Upstream

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/mode":
            self.answer(HTTPStatus.OK, {"mode": self.server.mode})
        elif url.path not in ("/charge", "/search", "/stock"):
            self.answer(HTTPStatus.NOT_FOUND, {"error": "no such service"})
        elif self.server.mode == "errors":
            self.answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "switched to errors"})
        elif self.server.mode == "hang":
            self.hang()
        else:
            if self.server.mode == "slow":
                time.sleep(SLOW_SECONDS)
            if url.path == "/charge":
                self.answer(HTTPStatus.OK, {"receipt": self.server.next_receipt()})
            elif url.path == "/stock":
                self.answer(HTTPStatus.OK, {"stock": GOODS})
            else:
                wanted = query.get("q", [""])[0].lower()
                self.answer(HTTPStatus.OK, {"found": [name for name in GOODS if wanted in name]})

    def do_POST(self) -> None:
        mode = self.path.removeprefix("/mode/")
        if mode in MODES:
            self.server.mode = mode
            self.answer(HTTPStatus.OK, {"mode": mode})
        else:
            self.answer(HTTPStatus.NOT_FOUND, {"error": f"POST /mode/<{'|'.join(MODES)}>"})

    def answer(self, status: HTTPStatus, data: dict[str, object]) -> None:
        body = json.dumps(data).encode() + b"\n"
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            # The client gave up while we were slow.
            self.close_connection = True

    def hang(self) -> None:
        deadline = time.monotonic() + HANG_SECONDS
        while time.monotonic() < deadline:
            readable, _, _ = select.select([self.connection], [], [], 0.5)
            if readable and self.client_is_gone():
                break
        self.close_connection = True

    def client_is_gone(self) -> bool:
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            return True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the shop's own log is the one to watch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        "--port", type=int, default=9000, help="default: %(default)s; 0: a free one"
    )
    server = Upstream(parser.parse_args().port)
    print(f"upstream: {server.url}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
