"""Which kind of callable somebody wants to have protected."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from enum import Enum
from types import FunctionType, MethodType
from typing import Any

#: Before 3.12 asgiref marks functions for asyncio's test, since then for that of inspect.
iscoroutinefunction = (inspect if sys.version_info >= (3, 12) else asyncio).iscoroutinefunction

_NOT_PLAIN = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

#: The class that was last found to be none of those that can be awaited.
_not_awaitable: type = type(None)


class Kind(Enum):
    """What calling a function gives: its answer, or something to await or to iterate over."""

    SYNC = "sync"
    ASYNC = "async"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"

    @property
    def is_async(self) -> bool:
        """Whether its end can only be seen in a coroutine."""
        return self in (Kind.ASYNC, Kind.ASYNC_GENERATOR)

    @property
    def iterates(self) -> bool:
        """Whether its end is that of an iteration."""
        return self in (Kind.GENERATOR, Kind.ASYNC_GENERATOR)


def kind_of(func: Any) -> Kind:
    """The kind of a callable, as far as can be told before the call."""
    while isinstance(func, functools.partial):
        func = func.func
    for called in (func, getattr(func, "__call__", None)):  # noqa: B004 - its kind is asked
        if iscoroutinefunction(called):
            return Kind.ASYNC
        if inspect.isgeneratorfunction(called):
            return Kind.GENERATOR
        if inspect.isasyncgenfunction(called):
            return Kind.ASYNC_GENERATOR
    return Kind.SYNC


def is_plain(func: object) -> bool:
    """Whether it is surely a sync function or method (a tenth of the cost of finding out more)."""
    if type(func) is MethodType:
        func = func.__func__
    return (
        type(func) is FunctionType
        and not func.__code__.co_flags & _NOT_PLAIN
        and not func.__dict__  # where functions are marked as async
    )


def is_awaitable(kind: type) -> bool:
    """Whether objects of this class can be awaited.

    By class: an object would be asked for its attributes, and a lazy one wake up.
    """
    global _not_awaitable
    if kind is _not_awaitable:  # what a class does not have costs 3 empty wrappers to find out
        return False
    if hasattr(kind, "__await__"):
        return True
    _not_awaitable = kind
    return False


def refuse(func: object) -> None:
    """Refuse what would be left unprotected without anybody noticing.

    Raises:
        TypeError: a class, a descriptor such as a ``staticmethod``, or nothing that can be called.
    """
    if isinstance(func, type):
        raise TypeError(
            f"{func.__name__} is a class: decorate its methods, or a view class with "
            '@method_decorator(..., name="dispatch")'
        )
    kind = type(func).__name__
    if isinstance(func, staticmethod) or (not callable(func) and hasattr(func, "__get__")):
        raise TypeError(f"a {kind} is no function yet: put the breaker's decorator below @{kind}")
    if not callable(func):
        raise TypeError(f"{func!r} cannot be called, so it cannot be protected")
