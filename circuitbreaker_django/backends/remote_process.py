"""What one process holds of a store that is reached over a network, and its two threads.

The *feed* hears of changes and keeps house; the *writer* does all else that needs the store. So
no caller's thread ever waits for a network, but for the answer to what it asks the writer.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from circuitbreaker_django.backends.holds import LostHolds
from circuitbreaker_django.backends.process import Process, Turn
from circuitbreaker_django.backends.publishing import Publishing
from circuitbreaker_django.backends.remote_store import RemoteStore
from circuitbreaker_django.backends.store import Report, StoreBusy, StoreLost, StoreUnsure
from circuitbreaker_django.core.circuit import Grant
from circuitbreaker_django.core.view import View

logger = logging.getLogger("circuitbreaker_django")

T = TypeVar("T")

#: Seconds between two rounds of either thread, if nothing happens.
TICK: Final = 1.0
#: Seconds between two deliveries of evidence, but for what opens a circuit (rule 7).
FLUSH_EVERY: Final = 0.25
#: Questions that may wait for the writer; each has a caller who waits for its answer.
MAX_QUESTIONS: Final = 1000


@dataclass(frozen=True, slots=True)
class Question:
    """What the writer is asked to do, and where the answer goes."""

    ask: Callable[[RemoteStore], Any]
    answer: Future[Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A permit on its way to this process, of which any of its callers may take it.

    Attributes:
        report: what gives it back.
        answer: whether it was granted, or for how long there will be none.
        wait_until: by ``time.monotonic()``; no caller waits longer for the answer.
        good_until: the time at which it is given back, if nobody has taken it, in microseconds of
            the backend's clock.
        expires: when its lease ends, likewise.
    """

    report: Report
    answer: Future[Grant]
    wait_until: float
    good_until: int
    expires: int

    def is_late(self, now: float) -> bool:
        """Whether the answer takes longer than callers wait."""
        return now >= self.wait_until and not self.answer.done()


class RemoteProcess(Process):
    """What one process holds of a store."""

    def __init__(self) -> None:
        super().__init__()
        #: Why the store cannot be used; told once.
        self.problem: str | None = None
        #: By ``time.monotonic()``: since when it could not be used, and when it is tried again.
        self.lost_at = 0.0
        self.retry_at = 0.0
        #: Since when it can be used.
        self.attached_at = 0.0
        #: Whether it was well for a while when it was lost, and whether listeners know of the loss.
        self.stays = True
        self.told_lost = False
        #: Whether the newest rows are known, and news are followed.
        self.attached = False
        #: Whether all rows are to be read again.
        self.resync = False
        self.resync_at = 0.0
        #: The newest change that is known.
        self.revision = 0
        #: By how many microseconds the store's clock was ahead when it was last heard of, and when.
        self.ahead = 0
        self.heard_at: float | None = None
        #: The first use; whoever comes meanwhile waits for its end, until then.
        self.used = False
        self.first_until: float | None = None
        self.first = threading.Event()
        self.publishing = Publishing(self.lock)
        self.clean_at = time.monotonic() + TICK
        #: Permits on their way, by the view that they are for.
        self.asked: dict[View, Asked] = {}
        self.holds = LostHolds()
        # The threads, whether they run, and what the writer has to do.
        self.feed: threading.Thread | None = None
        self.writer: threading.Thread | None = None
        self.alive = threading.Event()
        self.stopped = threading.Event()
        #: Held by the writer while it is at the store; callers who wait for it have ``writing``.
        self.visiting = Turn()
        self.mail = threading.Condition()
        self.questions: deque[Question] = deque()
        self.flush_at: float | None = None
        self.flushed_at = 0.0
        #: The writer's connection; where threads do not run, of whoever does their work.
        self.store: RemoteStore | None = None
        #: What this process was forked from.
        self.left_behind: Process | None = None
        self.turn_at = 0.0
        self.contribute_at = 0.0

    def is_visiting(self) -> bool:
        """Whether some thread is at the store, or has not believed yet what it was told there."""
        return super().is_visiting() or self.visiting.is_taken

    def has_a_lock(self) -> bool:
        """Whether this thread holds any of them."""
        return super().has_a_lock() or self.visiting.is_mine()

    # -- what callers do ---------------------------------------------------------------------

    def submit(self, ask: Callable[[RemoteStore], T]) -> Future[T]:
        """Have the writer do something; the answer is to come.

        Raises:
            StoreBusy: it has too much to do.
        """
        question = Question(ask, Future())
        with self.mail:
            if len(self.questions) >= MAX_QUESTIONS or self.stopped.is_set():
                raise StoreBusy("too much is asked of the store at once")
            self.questions.append(question)
            self.mail.notify()
        return question.answer

    def ask(self, ask: Callable[[RemoteStore], T], patience: float) -> T:
        """Have the writer do something, and wait for the answer.

        Raises:
            StoreBusy: the writer did not come to it.
            StoreUnsure: the store did not answer in time; it may yet do what it was asked.
        """
        coming = self.submit(ask)
        try:
            return coming.result(patience)
        except CancelledError as error:
            raise StoreBusy("the store was closed") from error
        except TimeoutError as error:
            if coming.cancel():
                raise StoreBusy("the store is slow") from error
            raise StoreUnsure("the store did not answer in time") from error

    def call_writer(self, *, urgent: bool) -> None:
        """Have what is pending delivered: at once, or when it is time to."""
        now = time.monotonic()
        at = now if urgent else max(now, self.flushed_at + FLUSH_EVERY)
        with self.mail:
            if self.flush_at is None or at < self.flush_at:
                self.flush_at = at
                self.mail.notify()

    # -- what the writer does ----------------------------------------------------------------

    def next_question(self) -> Question | None:
        """What is asked next; ``None`` when it is time for something else."""
        with self.mail:
            if not self.questions and not self.stopped.is_set():
                now = time.monotonic()
                self.mail.wait(TICK if self.flush_at is None else min(TICK, self.flush_at - now))
            return self.questions.popleft() if self.questions else None

    def take_flush(self) -> bool:
        """Whether it is time to deliver; if so it is no longer."""
        now = time.monotonic()
        with self.mail:
            due = self.flush_at is not None and now >= self.flush_at
            if due:
                self.flush_at, self.flushed_at = None, now
        return due


class Owner(Protocol):
    """Whose threads they are."""

    def connect(self, patience: float) -> RemoteStore:
        """A connection whose every use takes so many seconds at most."""

    def feed_round(
        self, process: RemoteProcess, store: RemoteStore, fault: StoreLost | None
    ) -> None:
        """One round of the feed, after it has waited; the fault is what it met meanwhile."""

    def write_round(
        self, process: RemoteProcess, store: RemoteStore, question: Question | None
    ) -> None:
        """One round of the writer, after it has waited for a question."""


def start_threads(owner: Owner, process: RemoteProcess, patience: float) -> bool:
    """Start both; whether that could be done.

    Args:
        owner: whose they are; they end when it is gone.
        process: this process.
        patience: seconds that any use of their connections may take.
    """
    with process.lock:
        if process.writer is not None:
            return True
        threads = [
            threading.Thread(
                target=run,
                args=(weakref.ref(owner), process, patience),
                name=f"circuitbreaker-{run.__name__.removeprefix('run_')}",
                daemon=True,
            )
            for run in (run_writer, run_feed)
        ]
        try:
            for thread in threads:
                thread.start()
        except RuntimeError:
            process.stopped.set()  # the one that could be started ends
            return False
        process.writer, process.feed = threads
    return True


def run_feed(reference: weakref.ref[Owner], process: RemoteProcess, patience: float) -> None:
    """Follow the news until the owner is gone."""

    def wait(store: RemoteStore | None) -> StoreLost | None:
        if store is None or not process.attached:
            process.stopped.wait(min(TICK, max(0.0, process.retry_at - time.monotonic())))
            return None
        try:
            store.wait(process.revision, TICK)
        except StoreLost as error:
            return error
        return None

    def turn(owner: Owner, store: RemoteStore, fault: StoreLost | None) -> None:
        owner.feed_round(process, store, fault)

    _run(reference, process, patience + TICK, wait, turn)


def run_writer(reference: weakref.ref[Owner], process: RemoteProcess, patience: float) -> None:
    """Do what is asked and deliver what is due, until the owner is gone."""

    def wait(store: RemoteStore | None) -> Question | None:
        return process.next_question()

    def turn(owner: Owner, store: RemoteStore, question: Question | None) -> None:
        owner.write_round(process, store, question)

    _run(reference, process, patience, wait, turn)
    with process.mail:
        left = list(process.questions)
        process.questions.clear()
    for one in left:
        one.answer.cancel()


def _run(
    reference: weakref.ref[Owner],
    process: RemoteProcess,
    patience: float,
    wait: Callable[[RemoteStore | None], T],
    turn: Callable[[Owner, RemoteStore, T], None],
) -> None:
    """Take turns until the owner is gone, whom this thread does not hold while it waits.

    Only what he asked last refers to him until the next round.
    """
    store: RemoteStore | None = None
    owner: Owner | None = None
    process.alive.set()
    try:
        while not process.stopped.is_set():
            try:
                found = wait(store)
                owner = reference()
                if owner is None:
                    process.stopped.set()
                    break
                store = store or owner.connect(patience)
                turn(owner, store, found)
            except Exception:
                logger.exception("a thread of a circuit store failed")
                process.stopped.wait(TICK)
            finally:
                owner = None
    finally:
        if store is not None:
            store.close()
