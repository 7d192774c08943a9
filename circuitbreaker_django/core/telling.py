"""Who is told of what has happened, and when: by its own thread, once that holds no lock.

A listener may do what it likes: call the breaker that it hears of, steer it, or raise. What it
brings about itself is told when it has returned.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from circuitbreaker_django.core.announce import log_news
from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.news import CallRejected, News

if TYPE_CHECKING:
    from circuitbreaker_django.backends.base import Backend

logger = logging.getLogger("circuitbreaker_django")

Listener = Callable[[News], None]

#: Who is told of all news but rejected calls.
listeners: list[Listener] = [log_news]
#: Who is told of rejected calls. While there is nobody, nothing is made for them.
rejection_listeners: list[Listener] = []

#: How many times in a row what listeners do may be news to listeners.
MAX_CHAIN: Final = 10


class _Outbox(threading.local):
    """What one thread has to tell."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.pid = os.getpid()
        #: News, and how many others in a row have led to each.
        self.kept: deque[tuple[int, News]] = deque()
        #: That number of what is being told now; 0 while nothing is.
        self.chain = 0


_outbox = _Outbox()


def _mine() -> _Outbox:
    if _outbox.pid != os.getpid():  # a fork, perhaps by a listener: the rest is the parent's
        _outbox.renew()
    return _outbox


def keep(news: News) -> None:
    """Keep the news until this thread can tell it."""
    outbox = _mine()
    if outbox.chain <= MAX_CHAIN:  # else a handler of the log answers to the end of the chain
        outbox.kept.append((outbox.chain + 1, news))


def tell() -> None:
    """Tell what this thread has kept. Never raises an ``Exception``.

    Called by a listener it does nothing: who called that listener goes on when it returns.
    """
    outbox = _mine()
    if outbox.chain:
        return
    try:
        while outbox.kept:
            outbox.chain, news = outbox.kept.popleft()
            if outbox.chain > MAX_CHAIN:
                logger.error("listeners answer each other without an end; not told: %r", news)
                continue
            for listener in list(_audience(news)):
                try:
                    listener(news)
                except Exception:
                    logger.exception("the listener %r failed", listener)
    finally:
        outbox.chain = 0


def tell_rejection(backend: Backend, error: CircuitOpenError) -> None:
    """Tell of a rejected call, unless a listener has made it: that might have no end."""
    if not _mine().chain:
        keep(CallRejected(backend.registry, error.name or "", error.state, error.retry_after))
        backend.announce()


def _audience(news: News) -> list[Listener]:
    return rejection_listeners if isinstance(news, CallRejected) else listeners
