"""Layers of one breaker around one call: a failure that passes several of them counts once.

A view and the service that it calls may share a breaker, and a function may call itself. Where
a failure is counted its exception gets a number, which the thread or task remembers. A layer
further out finds that number, on the exception or on what it came of, and knows by it that the
failure was counted since it was entered. A call that succeeds pays nothing for this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitbreaker_django.core.view import View

#: Numbers that tell what was first: a change of a view, the beginning of a call, a failure.
moments = count(1)

#: Numbers kept by an exception, and by a thread or task: more layers than anybody nests.
_MOST = 8
#: Exceptions looked at, of those that one came of.
_MOST_ORIGINS = 100
#: Where an exception keeps its numbers. Plain ones, so that it can be pickled as before.
_KEY = "_circuitbreaker_counted"

#: The newest failures that were counted in the current thread or task. Another one that the same
#: exception reaches, as that of a shared future, has failed too.
_counted: ContextVar[tuple[tuple[View, int], ...]] = ContextVar(
    "circuitbreaker_counted", default=()
)


def was_counted(view: View, error: BaseException, since: float) -> bool:
    """Whether a layer within a call has counted the call's failure already.

    Args:
        view: of the circuit that it is a failure of.
        error: what was raised.
        since: a number of ``moments`` from when the call began; infinite if nobody knows.
    """
    inside = {number for its, number in _counted.get() if its is view and number > since}
    try:
        return bool(inside) and not inside.isdisjoint(_numbers(error))
    except Exception:  # of somebody's exception that does not let itself be looked at
        return False


def remember(view: View, error: BaseException) -> None:
    """Let the layers further out know that a failure counts."""
    number = next(moments)
    _counted.set(((view, number), *_counted.get()[: _MOST - 1]))
    with suppress(Exception):  # of somebody's, as above: then it counts at each layer
        vars(error)[_KEY] = (number, *_own_numbers(error)[: _MOST - 1])


def _numbers(error: BaseException) -> Iterator[int]:
    """The numbers of an exception and of those that it came of."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending and len(seen) < _MOST_ORIGINS:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield from _own_numbers(one)
        if isinstance(one, BaseExceptionGroup):
            pending.extend(one.exceptions)
        pending += (one.__context__, one.__cause__)


def _own_numbers(error: BaseException) -> tuple[int, ...]:
    numbers = vars(error).get(_KEY)
    return numbers if isinstance(numbers, tuple) else ()
