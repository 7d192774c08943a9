"""``python -m benchmarks.faults``: what callers meet while something happens to the server.

Processes call a closed breaker a thousand times a second, before, in and after the fault. Then a
circuit is tripped as soon as the server confirms that, and the time is taken until all reject.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import redis

from benchmarks import server
from circuitbreaker_django import CircuitBreaker, CircuitOpenError
from circuitbreaker_django.backends.redis import RedisBackend
from circuitbreaker_django.core import telling
from circuitbreaker_django.core.errors import CircuitBackendError


class Faults:
    """What happens to the server for some seconds, by what it is called."""

    def __init__(self, running: server.Server, seconds: float) -> None:
        self.server = running
        self.seconds = seconds

    def nothing(self) -> None:
        """Also after what is over in a moment."""
        time.sleep(self.seconds)

    def stopped_by_SIGSTOP(self) -> None:
        os.kill(self.server.process.pid, signal.SIGSTOP)
        time.sleep(self.seconds)
        os.kill(self.server.process.pid, signal.SIGCONT)

    def killed_and_restarted_empty(self) -> None:
        self.server.stop()
        time.sleep(self.seconds)
        self.server.start()

    def FLUSHALL(self) -> None:
        self._ask(lambda client: client.flushall())
        self.nothing()

    def SCRIPT_FLUSH(self) -> None:
        self._ask(lambda client: client.script_flush())
        self.nothing()

    def each_key_deleted(self) -> None:
        self._ask(lambda client: [client.delete(key) for key in client.keys("circuitbreaker:*")])
        self.nothing()

    def full_by_maxmemory(self) -> None:
        self._ask(lambda client: client.config_set("maxmemory", 1))
        time.sleep(self.seconds)
        self._ask(lambda client: client.config_set("maxmemory", 0))

    def read_only_as_a_replica(self) -> None:
        self._ask(lambda client: client.replicaof("127.0.0.1", 1))
        time.sleep(self.seconds)
        self._ask(lambda client: client.replicaof("NO", "ONE"))

    def _ask(self, ask: Callable[[Any], Any]) -> None:
        with redis.Redis(unix_socket_path=self.server.socket) as client:
            ask(client)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5, help="of a fault")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    telling.listeners.clear()
    if arguments.worker:
        work(arguments.worker)
        return
    print("| what happened | calls | errors | p99.9, µs | most, ms | all agree after, ms |")
    print("|---|--:|--:|--:|--:|--:|")
    for name in [name for name in vars(Faults) if not name.startswith("_")]:
        print(measure(name, arguments.processes, arguments.seconds), flush=True)


def measure(fault: str, count: int, seconds: float) -> str:
    running = server.Server()
    url = f"unix://{running.socket}"
    command = [sys.executable, "-m", "benchmarks.faults", "--worker", url]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    breaker = CircuitBreaker("bench", failure_threshold=1, backend=RedisBackend(url))
    time.sleep(3)
    getattr(Faults(running, seconds), fault)()
    ended = time.monotonic()
    while True:
        with contextlib.suppress(CircuitBackendError):
            breaker.trip(hold=True)
            break
    told = [json.loads(worker.communicate()[0]) for worker in workers]
    breaker.backend.close()
    running.stop()
    calls, errors = (sum(one[key] for one in told) for key in ("calls", "errors"))
    slow = max(one["p999"] for one in told) / 1e3
    most = max(one["most"] for one in told) / 1e6
    agree = (max(one["rejected_at"] for one in told) - ended) * 1e3
    words = fault.replace("_", " ")
    return f"| {words} | {calls:,} | {errors} | {slow:.0f} | {most:.1f} | {agree:.0f} |"


def work(url: str) -> None:
    """Call until the circuit is open, and tell what was met."""
    breaker = CircuitBreaker("bench", failure_threshold=1, backend=RedisBackend(url))

    @breaker
    def func() -> None:
        return None

    func()
    time.sleep(1)
    times: list[int] = []
    errors = 0
    while True:
        start = time.perf_counter_ns()
        try:
            func()
        except CircuitOpenError:
            break
        except Exception:
            errors += 1
        times.append(time.perf_counter_ns() - start)
        time.sleep(0.001)
    times.sort()
    answer = {
        "calls": len(times),
        "errors": errors,
        "p999": times[int(len(times) * 0.999)],
        "most": times[-1],
        "rejected_at": time.monotonic(),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
