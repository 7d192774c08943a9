"""``python -m benchmarks.propagation``: from a trip in one process until all others know of it.

Measured is the time from the beginning of the failing call, or of the operator's command, until the
circuit is open in each of the other processes, by the clock that the processes of a host share.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks import server
from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.backends.redis import RedisBackend
from circuitbreaker_django.core import telling
from circuitbreaker_django.core.news import News, StateChanged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="*", default=[2, 4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return
    telling.listeners.clear()  # nobody wants to read of each
    socket = server.Server().socket
    print("| processes | brought about by | p50, ms | p99, ms | most, ms |")
    print("|--:|---|--:|--:|--:|")
    for count in arguments.processes:
        for row in measure(f"unix://{socket}", count, arguments.rounds):
            print(row, flush=True)


def nothing() -> None:
    return None


def measure(url: str, count: int, rounds: int) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.propagation", "--worker", url]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count - 1)
    ]
    breaker = CircuitBreaker("bench", failure_threshold=1, backend=RedisBackend(url))
    breaker.call(nothing)
    try:
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()  # it is ready
        for label, trip in (("a failure", breaker.record_failure), ("`trip()`", breaker.trip)):
            times: list[float] = []
            for _ in range(rounds):
                time.sleep(0.3)  # so that this one is not delivered together with the last
                start = time.monotonic_ns()
                trip()
                for worker in workers:
                    assert worker.stdout is not None
                    times.append((int(worker.stdout.readline()) - start) / 1e6)
                breaker.reset()
            times.sort()
            late = times[min(len(times) - 1, round(len(times) * 0.99))]
            middle = statistics.median(times)
            yield f"| {count} | {label} | {middle:.1f} | {late:.1f} | {times[-1]:.1f} |"
    finally:
        breaker.backend.close()
        for worker in workers:
            worker.kill()
            worker.wait()


def work(url: str) -> None:
    """Tell of each opening when this process knows of it."""

    def heard(news: News) -> None:
        if isinstance(news, StateChanged) and news.event.after == "open":
            print(time.monotonic_ns(), flush=True)

    telling.listeners[:] = [heard]
    breaker = CircuitBreaker("bench", failure_threshold=1, backend=RedisBackend(url))
    while not breaker.backend.available:
        breaker.call(nothing)
        time.sleep(0.01)
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
