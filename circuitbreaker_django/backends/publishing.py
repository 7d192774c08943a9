"""When a process tells operators of itself, and of what its code declares (rule 23)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import RLock

from circuitbreaker_django.backends import host
from circuitbreaker_django.backends.published import DECLARE_EVERY, PUBLISH_EVERY
from circuitbreaker_django.backends.store import Declaration, ProcessInfo, StoreBusy, StoreLost


class Publishing:
    """What one process has told its store, and when it is to tell it again.

    Args:
        lock: the process's; guards what is declared.
    """

    def __init__(self, lock: RLock) -> None:
        self._lock = lock
        self._started = time.time()
        # By ``time.monotonic()``: when it is due to tell of itself, of all that its code declares,
        # and of its calls.
        self.publish_at = 0.0
        self.declare_at = 0.0
        self.stats_at = 0.0
        #: The circuits that it has told to be open here alone.
        self.alone: tuple[str, ...] = ()
        self._undeclared: dict[str, Declaration] = {}
        self._store = 0  # by its incarnation, once there is one

    def declare(self, declaration: Declaration) -> None:
        """Tell of a breaker the next time, which is soon; under the lock."""
        self._undeclared[declaration.name] = declaration
        self.publish_at = 0.0

    def begin_anew(self) -> None:
        """Tell everything the next time, which is soon: the store may be another one."""
        self.publish_at = self.declare_at = self.stats_at = 0.0

    def meet(self, incarnation: int) -> None:
        """Tell everything anew if the store is not the one that was told."""
        if self._store not in (0, incarnation):
            self.begin_anew()
        self._store = incarnation

    def is_due(self, alone: tuple[str, ...], interval: float) -> bool:
        """Whether there is something to tell: also at once what is open here alone."""
        return (
            time.monotonic() >= self.publish_at
            or self._are_stats_due(interval)
            or alone != self.alone
        )

    def info(self, pid: int, digest: str, alone: tuple[str, ...]) -> ProcessInfo:
        """This process, for operators."""
        return ProcessInfo(
            host.host_name(),
            pid,
            host.process_kind(),
            self._started,
            digest,
            host.pid_space(),
            alone,
        )

    @contextmanager
    def telling(
        self, info: ProcessInfo, known: Mapping[str, Declaration], interval: float
    ) -> Iterator[tuple[list[Declaration], bool]]:
        """What to tell now, for a block that takes it to the store.

        It is due again at once when the block raises ``StoreBusy`` or ``StoreLost``.

        Args:
            info: what the store is told of this process.
            known: everything that its code declares, by name.
            interval: seconds between two times that it tells of its calls; 0: never.

        Yields:
            What to declare, and whether to tell of the calls.
        """
        now = time.monotonic()
        again, stats = now >= self.declare_at, self._are_stats_due(interval)
        with self._lock:  # what is declared from here on is for the next time
            self.publish_at = now + PUBLISH_EVERY
            news, self._undeclared = self._undeclared, {}
            declared = list((known if again else news).values())
        if again:
            self.declare_at = now + DECLARE_EVERY
        if stats:
            self.stats_at = now + interval
        try:
            yield declared, stats
        except (StoreBusy, StoreLost):
            with self._lock:
                self.publish_at = self.stats_at = 0.0
                self._undeclared = {**news, **self._undeclared}
            if again:
                self.declare_at = 0.0
            raise
        self.alone = info.alone

    def _are_stats_due(self, interval: float) -> bool:
        return interval > 0 and time.monotonic() >= self.stats_at
