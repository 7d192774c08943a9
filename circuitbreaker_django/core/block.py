"""The ends of ``with`` blocks, and what each block was admitted under."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from circuitbreaker_django.core.nesting import moments
from circuitbreaker_django.core.trial import Admission, ExcInfo, claim

if TYPE_CHECKING:
    from circuitbreaker_django.core.breaker import CircuitBreaker


class Block:
    """A ``with`` block for which no gate was open, or of which it is not known yet.

    Its exit is taken before it is entered, and carries what it is admitted under: so it does
    not matter in which thread, task or context it ends, nor in which order.

    Args:
        breaker: whose block it is; ``None`` if its exit was taken from the class.
    """

    __slots__ = ("_admission", "_breaker", "_entered", "_moment", "_started", "ended")

    def __init__(self, breaker: CircuitBreaker | None) -> None:
        self._breaker = breaker
        self._admission: Admission = None
        self._entered = False
        self._started: float | None = None
        self._moment = next(moments)
        self.ended = False

    def is_of(self, breaker: CircuitBreaker) -> bool:
        """Whether it may be the block that this breaker is being entered for."""
        return not self.ended and self._breaker in (None, breaker)

    def enter(self, admission: Admission, started: float) -> None:
        """Carry what the block was admitted under, and when."""
        self._admission = admission
        self._started = started
        self._entered = True

    def exit(self, breaker: CircuitBreaker, *exc_info: *ExcInfo) -> None:
        """The end of a ``with`` block."""
        self.ended = True
        admission = self._admission
        if not self._entered:  # a gate was open after all, or both ends are called by hand
            view = breaker.view
            passed_under = view.epoch if view.moment < self._moment else 0
            admission = claim(view) or passed_under or None
        breaker.leave_block(admission, exc_info[1], self._started, self._moment)

    async def aexit(self, breaker: CircuitBreaker, *exc_info: *ExcInfo) -> None:
        """The end of an ``async with`` block."""
        self.exit(breaker, *exc_info)


#: The newest block of the current thread or task that has not been entered.
arriving: ContextVar[Block | None] = ContextVar("circuitbreaker_arriving", default=None)


class BlockExit:
    """The exit of a ``with`` block: the one of the gate that the block passes.

    Python takes ``__exit__`` from the object before it calls ``__enter__`` and keeps it with
    the block. So an exit that belongs to the gate carries the admission, for any number of
    threads, tasks and nested blocks, at no cost (a context variable here would make the
    block 4 x an empty context manager; this is about 2 x). Where no gate is open the exit
    belongs to the block alone; ``contextlib``'s stacks take it from the class.
    """

    def __init__(self, name: str) -> None:
        self._is_async = name == "__aexit__"

    def __get__(self, breaker: CircuitBreaker | None, owner: type) -> Any:
        if breaker is not None:
            gate = breaker.view.gate
            word = gate.word  # Gate.is_open in place: asking it would cost 0.4 of an empty block
            if word is None or word[()] == gate.admit_blocks:
                return gate.aexit if self._is_async else gate.exit
        block = Block(breaker)
        arriving.set(block)
        leave = block.aexit if self._is_async else block.exit
        return leave if breaker is None else partial(leave, breaker)
