"""``python -m tests.backends.database_figures``: what faults of a database cost callers.

One process calls two closed breakers in turn, a thousand times a second: one with its circuits in
a database that is being harmed, the other in memory. So whatever else the machine does meets both.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import django
from django.conf import settings
from django.db import connections

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.database import DatabaseBackend
from circuitbreaker_django.backends.memory import MemoryBackend
from tests.backends.postgres import Postgres, a_server, registered

TABLES = "circuitbreaker_store, circuitbreaker_circuit, circuitbreaker_event"


def run(*statements: str) -> None:
    with connections["circuits"].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@contextmanager
def nothing(server: Postgres) -> Iterator[None]:
    yield


@contextmanager
def stands_still(server: Postgres) -> Iterator[None]:
    server.pause()
    yield
    server.go_on()


@contextmanager
def is_killed(server: Postgres) -> Iterator[None]:
    connections["circuits"].close()
    server.stop(signal.SIGQUIT)
    yield
    server.start()


@contextmanager
def is_emptied(server: Postgres) -> Iterator[None]:
    run(f"TRUNCATE {TABLES}")
    yield


@contextmanager
def is_locked(server: Postgres) -> Iterator[None]:
    run("BEGIN", f"LOCK TABLE {TABLES}")
    yield
    run("COMMIT")


@contextmanager
def ends_connections(server: Postgres) -> Iterator[None]:
    run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    yield


Fault = Callable[[Postgres], AbstractContextManager[None]]
FAULTS: dict[str, Fault] = {
    "none": nothing,
    "stands still (SIGSTOP) for 5 s": stands_still,
    "is killed, and started again after 5 s": is_killed,
    "tables emptied": is_emptied,
    "tables locked for 5 s": is_locked,
    "all connections ended": ends_connections,
}


def main() -> None:
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=[DatabaseBackend.app],
    )
    django.setup()
    print(
        "| the server | calls | errors | p99.9, µs | beside | worst, ms | beside | shared again |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, fault in FAULTS.items():
        with a_server() as server, registered("circuits", server.settings()):
            backend = DatabaseBackend("circuits")
            while not used(backend).backend.available:
                time.sleep(0.01)
            row = measure(backend, fault(server))
            print(f"| {name} | {row}", flush=True)
            backend.close()
            time.sleep(1)


def used(backend: Backend) -> CircuitBreaker:
    breaker = CircuitBreaker("bench", backend=backend)
    breaker.call(time.monotonic)
    return breaker


def measure(backend: Backend, fault: AbstractContextManager[None]) -> str:
    harmed, beside = used(backend), used(MemoryBackend())
    times: dict[CircuitBreaker, list[float]] = {harmed: [], beside: []}
    errors = 0
    over = threading.Event()

    def call() -> None:
        nonlocal errors
        order = [harmed, beside]
        while not over.wait(0.001):
            order.reverse()  # the second of two calls is faster
            for breaker in order:
                start = time.perf_counter()
                try:
                    breaker.call(time.monotonic)
                except Exception:
                    errors += 1
                times[breaker].append(time.perf_counter() - start)

    caller = threading.Thread(target=call)
    caller.start()
    with fault:
        time.sleep(5)
    start = time.monotonic()
    while not backend.available or backend.problem:
        time.sleep(0.005)
    again = time.monotonic() - start
    time.sleep(1)
    over.set()
    caller.join()
    ours, theirs = sorted(times[harmed]), sorted(times[beside])
    late = round(len(ours) * 0.999) - 1
    return (
        f"{len(ours)} | {errors} | {ours[late] * 1e6:.0f} | {theirs[late] * 1e6:.0f} | "
        f"{ours[-1] * 1e3:.1f} | {theirs[-1] * 1e3:.1f} | {again:.2f} s |"
    )


if __name__ == "__main__":
    main()
