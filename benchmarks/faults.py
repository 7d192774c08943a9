"""``python -m benchmarks.faults``: what callers meet while something happens to the store.

Processes call two closed breakers in turn, a thousand times a second: one with its circuit in the
store that is harmed, the other in memory. So whatever else the machine does meets both. When it is
over a circuit is tripped as soon as the store confirms that, and the time is taken until all
processes reject. At last 64 processes meet when a trial is due.

It needs the dependency group ``test``, a server of Redis or Valkey, and PostgreSQL.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from benchmarks.stores import STORES, Harmed
from circuitbreaker_django import CircuitBreaker, CircuitOpenError
from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.core import telling
from circuitbreaker_django.core.errors import CircuitBackendError
from tests.backends.herd import gather
from tests.backends.locations import configure, open_at

#: Seconds after which a process that does not hear of the trip gives up.
DEAF = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3, help="of a fault")
    parser.add_argument("--herd", type=int, default=64, help="processes at the moment of a trial")
    parser.add_argument("--store", choices=STORES, nargs="*", default=list(STORES))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    telling.listeners.clear()
    logging.disable()  # nobody wants to read of each
    if arguments.worker:
        work(arguments.worker)
        return
    configure()
    print(
        "| store | what happened | calls | errors | p99.9, µs | beside, µs | worst, ms | beside, ms"
        " | trials at once | all agree after |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in arguments.store:
        with STORES[name]() as store:
            for row in measure(store, arguments.processes, arguments.seconds):
                print(f"| {name} | {row}", flush=True)
            print(f"| {name} | {meet(store, arguments.herd)}", flush=True)


def meet(store: Harmed, count: int) -> str:
    """Many processes at the moment of a trial, of which two may try at once."""
    told = gather(store.near, count, 2)
    after = "never" if told["wedged"] else f"{told['after'] - 1:.2f} s"
    return (
        f"{count} processes when a trial is due | {told['calls']:,} | {told['errors']} | | | | "
        f"| {told['at_once']} of 2 | {after} |"
    )


def measure(store: Harmed, count: int, seconds: float) -> Iterator[str]:
    for name, (happen, end) in store.faults.items():
        workers = [Worker(store.far if number % 2 else store.near) for number in range(count)]
        for worker in workers:
            worker.hear()  # it is ready
        time.sleep(0.5)
        happen()
        time.sleep(seconds)
        end()
        over = time.monotonic()
        workers[0].tell("trip")
        told = [json.loads(worker.hear()) for worker in workers]
        workers[0].tell("reset")
        for worker in workers:
            worker.end()
        yield f"{name} | {in_short(told, over)}"


class Worker:
    def __init__(self, location: str) -> None:
        command = [sys.executable, "-m", "benchmarks.faults", "--worker", location]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, order: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> None:
        self.process.communicate()


def in_short(told: list[dict[str, float]], over: float) -> str:
    calls, errors = (int(sum(one[key] for one in told)) for key in ("calls", "errors"))
    ours, beside = (max(one[key] for one in told) / 1e3 for key in ("late", "late_beside"))
    worst, other = (max(one[key] for one in told) / 1e6 for key in ("most", "most_beside"))
    after = max(one["rejected_at"] for one in told) - over
    agree = "never" if after > DEAF / 2 else f"{max(0.0, after):.2f} s"
    late, most = f"{ours:.0f} | {beside:.0f}", f"{worst:.1f} | {other:.1f}"
    return f"{calls:,} | {errors} | {late} | {most} | | {agree} |"


def work(location: str) -> None:
    """Call until the circuit is open, and tell what was met; do what is said meanwhile."""
    backend = open_at(location)
    breaker, beside = (
        CircuitBreaker("bench", failure_threshold=1, backend=one)
        for one in (backend, MemoryBackend())
    )
    while not used(breaker, backend):
        time.sleep(0.01)
    obedient = threading.Thread(target=obey, args=(breaker,))
    obedient.start()
    print("ready", flush=True)
    times: dict[CircuitBreaker, list[int]] = {breaker: [], beside: []}
    order = [breaker, beside]
    errors = 0
    deadline = time.monotonic() + DEAF
    while time.monotonic() < deadline:
        order.reverse()  # the second of two calls is faster
        try:
            for one in order:
                start = time.perf_counter_ns()
                one.call(time.monotonic)
                times[one].append(time.perf_counter_ns() - start)
        except CircuitOpenError:
            break
        except Exception:
            errors += 1
        time.sleep(0.001)
    rejected_at = time.monotonic()
    ours, theirs = sorted(times[breaker]), sorted(times[beside])
    answer = {
        "calls": len(ours),
        "errors": errors,
        "late": ours[int(len(ours) * 0.999)],
        "late_beside": theirs[int(len(theirs) * 0.999)],
        "most": ours[-1],
        "most_beside": theirs[-1],
        "rejected_at": rejected_at,
    }
    print(json.dumps(answer), flush=True)
    obedient.join()
    backend.close()


def used(breaker: CircuitBreaker, backend: Backend) -> bool:
    breaker.call(time.monotonic)
    return bool(backend.available)


def obey(breaker: CircuitBreaker) -> None:
    """Trip and reset, as soon as the store confirms it."""
    for line in sys.stdin:
        while True:
            with contextlib.suppress(CircuitBackendError):
                breaker.trip(hold=True) if line == "trip\n" else breaker.reset()
                break


if __name__ == "__main__":
    main()
