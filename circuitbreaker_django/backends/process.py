"""This process, as a backend knows it: what cannot be shared with a fork."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_FOR_EVER = threading.TIMEOUT_MAX


class Turn:
    """What one thread of this process does at a time.

    A signal handler may raise between any two lines (a task's time limit, a worker's abort), and
    may itself come to where its thread has the turn already. So the turn knows its thread: it is
    given back by whoever has it, and nobody takes it twice.
    """

    __slots__ = ("_lock", "is_taken")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        #: Whether some thread has it.
        self.is_taken = False

    def take(self, patience: float) -> bool:
        """Take the turn; ``inf`` waits for it. Not if this thread has it already."""
        if self.is_mine() or not self._lock.acquire(timeout=min(patience, _FOR_EVER)):
            return False
        self.is_taken = True
        return True

    def give_back(self) -> None:
        """Let the next thread have it, if it is this one's."""
        if self.is_mine():
            self.is_taken = False
            self._lock.release()

    @contextmanager
    def taken(self, patience: float) -> Iterator[bool]:
        """The turn for a block; whether it was to be had."""
        if self.is_mine():
            yield False
            return
        try:
            yield self.take(patience)
        finally:
            self.give_back()

    def is_mine(self) -> bool:
        """Whether this thread has it."""
        return _is_held(self._lock)


class Process:
    """Locks, threads and files belong to one process; a fork gets new ones (rule 28)."""

    __slots__ = ("heirs", "id", "lock", "pid", "writing")

    def __init__(self) -> None:
        self.pid = os.getpid()
        #: What it is known by: in containers every pid is 1 (rule 23).
        self.id = secrets.token_hex(8)
        #: What a fork of it has made for itself, by pid; always empty but in such a fork.
        self.heirs: dict[int, Process] = {}
        #: Guards views and what is pending; held for a few instructions, never over I/O.
        self.lock = threading.RLock()
        #: Held by the one thread of this process that writes to the store.
        self.writing = Turn()

    def is_visiting(self) -> bool:
        """Whether some thread is at the store, or has not believed yet what it was told there."""
        return self.writing.is_taken

    def has_a_lock(self) -> bool:
        """Whether this thread holds any of them, as when a signal handler comes in between."""
        return _is_held(self.lock) or self.writing.is_mine()


def _is_held(lock: threading.RLock) -> bool:
    """Whether this thread holds it: else a signal handler would wait for its own thread."""
    return bool(lock._is_owned())  # type: ignore[attr-defined] # the stubs leave it out


def on_event_loop() -> bool:
    """Whether the caller runs on an event loop, which must not be kept waiting."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
