"""``python -m tests.backends.herd LOCATION COUNT LIMIT``: many processes meet at ``retry_at``.

They are forks of one process, so that many are there soon. When all have the circuit open it is
time for a trial, and each calls as fast as it can until the circuit is closed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.core import telling
from circuitbreaker_django.core.trial import Trial
from tests.backends.locations import open_at
from tests.backends.waiting import until

ROOT = Path(__file__).parents[2]
#: Seconds that a trial takes, and after which a process that is still kept out is wedged.
TRIAL, WEDGED = 0.05, 120


def gather(location: str, count: int, limit: int) -> dict[str, Any]:
    """Have so many processes meet, of which ``limit`` may try at once; what came of it.

    Returns:
        ``trials`` with a permit, how many of them there were ``at_once``, trials ``alone`` of
        processes that did not reach their store, ``errors`` of calls, ``calls``, and after
        how many seconds the last process was let through, ``None`` if one is ``wedged``.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.herd", location, str(count), str(limit)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    location, count, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    telling.listeners.clear()
    backend = open_at(location)
    breaker = CircuitBreaker(
        "herd",
        backend=backend,
        recovery_timeout=1,
        half_open_max_calls=limit,
        success_threshold=2 * limit,
        trial_timeout=60,
    )
    ready, start = os.pipe(), os.pipe()
    answers = []
    for _ in range(count):
        answer = os.pipe()
        if os.fork() == 0:
            try:
                is_used(breaker, backend)
                os.write(ready[1], b"!")
                os.read(start[0], 1)
                os.write(answer[1], json.dumps(use(breaker)).encode())
            finally:
                os._exit(0)
        os.close(answer[1])
        answers.append(answer[0])
    for _ in range(count):
        os.read(ready[0], 1)
    is_used(breaker, backend)
    breaker.trip()
    os.write(start[1], b"!" * count)
    told = []
    for reader in answers:
        with open(reader, "rb") as pipe:
            told.append(json.loads(pipe.read()))
    for _ in range(count):
        os.wait()
    print(json.dumps(in_short(told)))
    backend.close()


def is_used(breaker: CircuitBreaker, backend: Backend) -> None:
    def shared() -> bool:
        breaker.state  # noqa: B018 # a look is a use
        return backend.available

    until(shared, seconds=60)


def use(breaker: CircuitBreaker) -> dict[str, Any]:
    """Call until the circuit is closed; when each trial began and ended."""
    until(lambda: breaker.state is not CircuitState.CLOSED, seconds=60)
    began = time.monotonic()
    shared: list[tuple[float, float]] = []
    calls = errors = alone = 0
    while breaker.state is not CircuitState.CLOSED and time.monotonic() < began + WEDGED:
        calls += 1
        try:
            admission = breaker.enter()
            if isinstance(admission, CircuitOpenError):
                time.sleep(0.005)
                continue
            then = time.monotonic()
            time.sleep(TRIAL)
            if isinstance(admission, Trial) and not admission.local:
                shared.append((then, time.monotonic()))
            else:
                alone += isinstance(admission, Trial)
            breaker.leave_block(admission, None)
        except Exception:
            errors += 1
    closed = breaker.state is CircuitState.CLOSED
    after = time.monotonic() - began if closed else None
    return {"calls": calls, "errors": errors, "alone": alone, "shared": shared, "after": after}


def in_short(told: list[dict[str, Any]]) -> dict[str, Any]:
    trials = [tuple(trial) for one in told for trial in one["shared"]]
    moments = sorted([(start, 1) for start, _ in trials] + [(end, -1) for _, end in trials])
    at_once = most = 0
    for _, change in moments:
        at_once += change
        most = max(most, at_once)
    wedged = any(one["after"] is None for one in told)
    return {
        "calls": sum(one["calls"] for one in told),
        "errors": sum(one["errors"] for one in told),
        "alone": sum(one["alone"] for one in told),
        "trials": len(trials),
        "at_once": most,
        "wedged": wedged,
        "after": None if wedged else max(one["after"] for one in told),
    }


if __name__ == "__main__":
    main()
