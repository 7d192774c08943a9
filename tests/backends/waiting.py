"""Waiting for what another thread or process does: bounded, by looking again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from circuitbreaker_django.backends.remote_process import RemoteProcess

T = TypeVar("T")


def until(look: Callable[[], T], *, seconds: float = 20) -> T:
    """What ``look`` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {look}"
        time.sleep(0.005)
    return found


def see_end(process: RemoteProcess) -> None:
    """See the threads of a backend that was closed end."""
    for thread in (process.feed, process.writer):
        assert thread is not None
        thread.join(10)
        assert not thread.is_alive()
