"""``python -m benchmarks.growth``: what a store's server has to do for many processes and breakers.

Real processes, each with threads and connections of its own, use all their breakers once a second:
healthy, and then with a failure of ten of them. What the server has done meanwhile it says itself
(Redis), or the kernel does (PostgreSQL). More processes are computed from the most that were
measured, for each of them asks and tells the same. Where there are less than two connections for
each process, the clients were too busy, and the row says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.core import telling
from tests.backends.locations import configure, open_at
from tests.backends.postgres import Postgres, a_server
from tests.backends.servers import RedisServer, short_folder

#: Breakers of each process that fail when they are told to.
FAILING = 10


class Seen(NamedTuple):
    """Of a server: seconds of its processor, connections, and scripts or transactions."""

    cpu: float
    connections: int
    steps: int


Look = Callable[[], Seen]


@contextmanager
def redis_server() -> Iterator[tuple[str, Look]]:
    for folder in short_folder():
        server = RedisServer(folder)
        server.start()
        with closing(server.client()) as client:

            def look() -> Seen:
                info = client.info("all")
                scripts = sum(
                    info.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval")
                )
                cpu = info["used_cpu_user"] + info["used_cpu_sys"]
                return Seen(cpu, info["connected_clients"] - 1, scripts)

            yield server.url, look
        server.kill()


@contextmanager
def database_server() -> Iterator[tuple[str, Look]]:
    with a_server(max_connections=400) as server:
        yield json.dumps(server.settings()), lambda: look_at(server)


def look_at(server: Postgres) -> Seen:
    assert server.process is not None
    parent = server.process.pid
    with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as file:
        children = file.read().split()
    ticks = connections = 0
    for pid in (str(parent), *children):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
                connections += "owner postgres" in file.read()
        except OSError:
            continue  # it has ended
        ticks += sum(map(int, fields[11:13]))
    return Seen(ticks / os.sysconf("SC_CLK_TCK"), connections, 0)


SERVERS = {"Redis": redis_server, "PostgreSQL": database_server}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="*", default=[10, 50])
    parser.add_argument("--breakers", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=15, help="of each look at the server")
    parser.add_argument("--store", choices=SERVERS, nargs="*", default=list(SERVERS))
    parser.add_argument("--herd", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    telling.listeners.clear()
    if arguments.herd:
        location, processes, breakers = arguments.herd
        herd(location, int(processes), int(breakers))
        return
    configure()
    heads = ("store", "processes", "breakers in each", "connections")
    print(f"| {' | '.join(heads)} | healthy, ms/s | ten fail, ms/s | scripts per process and s |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in arguments.store:
        for breakers in arguments.breakers:
            for processes in arguments.processes:
                row = measure(name, processes, breakers, arguments.seconds)
                tell(name, processes, breakers, *row)
            for more in (100, 1_000, 10_000):
                by = more / processes
                tell(name, more, breakers, *(value * by for value in row[:3]), row[3], how=" *")
    print("\n\\* computed")


def tell(
    name: str,
    processes: int,
    breakers: int,
    connections: float,
    healthy: float,
    failing: float,
    steps: float,
    how: str = "",
) -> None:
    cells = (
        name,
        f"{processes:,}{how}",
        f"{breakers:,}",
        f"{connections:,.0f}",
        f"{healthy * 1e3:,.0f}",
        f"{failing * 1e3:,.0f}",
        f"{steps:.1f}" if steps else "",
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def measure(
    name: str, processes: int, breakers: int, seconds: float
) -> tuple[float, float, float, float]:
    with SERVERS[name]() as (location, look):
        command = [sys.executable, "-m", "benchmarks.growth", "--herd", location]
        running = subprocess.Popen(
            [*command, str(processes), str(breakers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdout.readline()  # all are there
        time.sleep(5)  # until all that is new is told
        before = look()
        time.sleep(seconds)
        after = look()
        healthy = (after.cpu - before.cpu) / seconds
        running.stdin.write("fail\n")
        running.stdin.flush()
        time.sleep(2)
        before = look()
        time.sleep(seconds)
        after = look()
        running.communicate()
        failing = (after.cpu - before.cpu) / seconds
        steps = (after.steps - before.steps) / seconds / processes
        return float(after.connections), healthy, failing, steps


def herd(location: str, processes: int, breakers: int) -> None:
    """Forks that use all their breakers once a second, and fail when they are told to."""
    backend = open_at(location)
    ready, start = os.pipe(), os.pipe()
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            os.close(start[1])
            made = [
                CircuitBreaker(
                    f"{one}", failure_threshold=50, failure_window=0.001, backend=backend
                )
                for one in range(breakers)
            ]
            try:
                while not made[0].call(lambda: backend.available):
                    time.sleep(0.05)
                os.write(ready[1], b"!")
                use(made, start[0], number / processes)
            except BaseException:
                traceback.print_exc()  # it is to be seen that a process is missing
            finally:
                os._exit(0)
        children.append(child)
    for _ in children:
        os.read(ready[0], 1)
    print("ready", flush=True)
    sys.stdin.readline()
    os.write(start[1], b"!" * processes)
    sys.stdin.read()
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)


def use(breakers: list[CircuitBreaker], start: int, pause: float) -> None:
    time.sleep(pause)
    os.set_blocking(start, False)
    failing = False
    while True:
        for breaker in breakers:
            breaker.call(time.monotonic)
        for breaker in breakers[: FAILING if failing else 0]:
            breaker.record_failure()
        time.sleep(1)
        try:
            failing = failing or bool(os.read(start, 1))
        except BlockingIOError:
            pass


if __name__ == "__main__":
    main()
