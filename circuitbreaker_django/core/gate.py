"""What a call looks at before it passes: a word, and what it must be."""

from __future__ import annotations

import logging
from array import array
from math import inf
from typing import TYPE_CHECKING

from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.nesting import moments
from circuitbreaker_django.core.policy import MICROS
from circuitbreaker_django.core.states import CircuitState
from circuitbreaker_django.core.tally import Tally
from circuitbreaker_django.core.telling import rejection_listeners, tell_rejection
from circuitbreaker_django.core.trial import ExcInfo, claim

if TYPE_CHECKING:
    from circuitbreaker_django.core.breaker import CircuitBreaker

logger = logging.getLogger("circuitbreaker_django")

_OPEN = CircuitState.OPEN
#: A word that never changes: circuits that nobody else can move.
STILL = memoryview(array("d", [1.0])).cast("B").cast("d", shape=[])


class Bell:
    """A word that others change when circuits change, and its value when they were last read.

    The word is a double, read with ``word[()]``: one aligned copy of eight bytes that makes no
    large integer (measured: 0.4 of an empty wrapper, an unsigned integer 0.8). Its sign is
    the top bit, so a negative word is dirty (rule 24).
    """

    __slots__ = ("seen", "word")

    def __init__(self, word: memoryview[float] = STILL, seen: float | None = 1.0) -> None:
        self.word = word
        self.seen = seen


class Gate:
    """All that a call looks at: it may pass while ``word`` is ``None`` or ``word[()] == admit``.

    A gate is made for one moment of the circuit and replaced, never changed, but for being
    shut. So whoever passes one holds the epoch of his admission, whatever happens later.
    Where successes matter too, calls that pass count in ``tally``, and blocks do not pass: they
    have no place for when they began.

    Attributes:
        word: the bell's, or ``None`` where only this process can move the circuit and it is
            closed (a look at a word costs 0.25 of an empty wrapper).
        admit: what the word must be for calls to pass; ``None`` when the circuit is not closed.
        admit_blocks: the same for ``with`` blocks.
        reject: what the word must be for calls to be rejected until ``until``.
        until: in microseconds of the backend's clock; infinite for a hold without an end.
        epoch: of the circuit that calls are let through to; 0 where nothing is counted.
        tally: what calls have to count in; then ``word`` is not ``None``.
        since: a number of ``moments``: each failure that is counted later has a greater one.
        calls: let through; an increment lost to a race is tolerated (rule 7).
    """

    __slots__ = (
        "admit",
        "admit_blocks",
        "breaker",
        "calls",
        "epoch",
        "reject",
        "since",
        "tally",
        "until",
        "word",
    )

    def __init__(
        self,
        breaker: CircuitBreaker,
        word: memoryview[float] | None = STILL,
        admit: float | None = None,
        epoch: int = 0,
        reject: float | None = None,
        until: float = 0,
        tally: Tally | None = None,
    ) -> None:
        self.breaker = breaker
        self.word = word
        self.admit = admit
        self.admit_blocks = admit if tally is None else None
        self.tally = tally
        self.since = next(moments)
        self.epoch = epoch
        self.reject = reject
        self.until = until
        # A float, for adding to one makes no object that a larger integer would make.
        self.calls = 0.0

    @property
    def is_open(self) -> bool:
        """Whether a call may pass, for whoever is in no hurry."""
        word = self.word
        return word is None or word[()] == self.admit

    def shut(self) -> None:
        """Make whoever comes take the long way. In this order: nobody passes half of it."""
        self.admit = self.admit_blocks = self.reject = None
        self.word = STILL

    def rejection(self) -> CircuitOpenError | None:
        """The error of a call that can be rejected without asking anybody."""
        word = self.word
        if self.reject is None or word is None or word[()] != self.reject:
            return None
        breaker = self.breaker
        wait = self.until - breaker.backend.clock()
        if wait <= 0:
            return None
        breaker.view.rejected += 1
        retry_after = None if wait == inf else wait / MICROS
        error = CircuitOpenError(breaker.name, _OPEN, retry_after)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s", error)
        if rejection_listeners:
            tell_rejection(breaker.backend, error)
        return error

    def exit(self, *exc_info: *ExcInfo) -> None:
        """The end of a ``with`` block that found this gate open."""
        error = exc_info[1]
        if error is None and self.admit_blocks is not None:
            return  # never shut, so the block came in by it and has succeeded
        trial = claim(self.breaker.view)
        self.breaker.leave_block(trial or self.epoch or None, error, None, self.since)

    async def aexit(self, *exc_info: *ExcInfo) -> None:
        """The end of an ``async with`` block."""
        self.exit(*exc_info)
