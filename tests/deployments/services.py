"""What a worker is asked to do, whatever kind of server runs it, and what it says of it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from circuitbreaker_django import CircuitOpenError, breakers, registries
from tests.backends.waiting import until

#: Seconds that a slow service takes.
SLOW = 0.05

Answer = dict[str, Any]


class Down(Exception):
    """The dependency's failure."""


def answer(verb: str, name: str, pid: int) -> Answer:
    """What this worker says; only who it is, if another is asked.

    Args:
        verb: what to do: ``ok``, ``slow`` and ``fail`` call a service, ``look`` calls none.
        name: of the breaker.
        pid: of the worker that is asked; 0 for any.
    """
    told: Answer = {"pid": os.getpid()}
    if pid in (0, os.getpid()):
        if verb == "look":
            told["threads"], told["state"] = threads(), breakers[name].state.value
        else:
            with telling(told):
                told["ran"] = breakers[name].call(SERVICES[verb])
    return told


async def aanswer(verb: str, name: str, pid: int) -> Answer:
    """The same on an event loop."""
    if verb == "look" or pid not in (0, os.getpid()):
        return answer(verb, name, pid)
    told: Answer = {"pid": os.getpid()}
    with telling(told):
        told["ran"] = await breakers[name].call(ASYNC_SERVICES[verb])
    return told


@contextmanager
def telling(told: Answer) -> Iterator[None]:
    """Say what has come of a call."""
    told["word"] = "ok"
    try:
        yield
    except CircuitOpenError:
        told["word"] = "rejected"
    except Down:
        told["word"] = "failed"


def ok() -> None:
    pass


def fail() -> None:
    raise Down


def slow() -> tuple[float, float]:
    began = time.monotonic()
    time.sleep(SLOW)
    return began, time.monotonic()


async def aok() -> None:
    pass


async def afail() -> None:
    raise Down


async def aslow() -> tuple[float, float]:
    began = time.monotonic()
    await asyncio.sleep(SLOW)
    return began, time.monotonic()


SERVICES: dict[str, Callable[[], Any]] = {"ok": ok, "fail": fail, "slow": slow}
ASYNC_SERVICES: dict[str, Callable[[], Any]] = {"ok": aok, "fail": afail, "slow": aslow}


def threads() -> list[str]:
    """The threads of stores that run in this process: Python may also know those of its parent."""
    tasks = os.listdir("/proc/self/task")
    ours = [one for one in threading.enumerate() if one.name.startswith("circuitbreaker-")]
    return sorted(one.name for one in ours if str(one.native_id) in tasks)


def use_early() -> None:
    """As code that calls a service while it is imported: where a server loads it before it forks,
    the parent of all workers has a store, connections and threads.
    """
    if os.environ.get("TEST_USED_EARLY"):
        until(lambda: answer("ok", "early", 0) and registries["default"].backend.available)
        answer("fail", "early", 0)
