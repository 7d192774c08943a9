"""What a caller gets instead of the answer of the function that he called."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Final

from circuitbreaker_django.core.kinds import Kind, is_awaitable, kind_of


class _Nothing:
    def __repr__(self) -> str:
        return "<no fallback>"


#: Stands for a fallback that was not given; ``None`` is an answer like any other.
NOTHING: Final[Any] = _Nothing()


class Fallback:
    """The answer of calls that were rejected, and if asked for of those that have failed.

    Args:
        answer: a callable, which gets the call's own arguments, or the answer itself.
        on_failure: whether it answers for failures too.

    Raises:
        TypeError: ``on_failure`` is neither ``True`` nor ``False``.
    """

    __slots__ = ("answer", "on_failure")

    def __init__(self, answer: Any, *, on_failure: bool = False) -> None:
        if not isinstance(on_failure, bool):
            raise TypeError(f"fallback_on_failure must be True or False, not {on_failure!r}")
        self.answer = answer
        self.on_failure = on_failure

    def check(self, func: Callable[..., Any], kind: Kind) -> None:
        """Refuse what could not answer for the function.

        Raises:
            TypeError: an async fallback of a sync function, or one of a generator function that
                gives nothing to iterate over.
        """
        answer = self.answer
        if not callable(answer):
            asynchronous = kind is Kind.ASYNC_GENERATOR and hasattr(answer, "__aiter__")
            if kind.iterates and not asynchronous and not hasattr(answer, "__iter__"):
                raise TypeError(
                    f"the fallback of {_name(func)}, a generator function, must be iterable or a "
                    f"callable that gives an iterable, not {answer!r}"
                )
        elif kind_of(answer).is_async and not kind.is_async:
            raise TypeError(
                f"{_name(func)} is sync, so nobody would await its fallback {_name(answer)}: "
                "make the fallback a plain function, or the function itself async"
            )

    def give(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer for a sync function."""
        return self.answer(*args, **kwargs) if callable(self.answer) else self.answer

    async def give_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer for an async function, awaited where it has to be."""
        if not callable(self.answer):
            return self.answer
        answer = self.answer(*args, **kwargs)
        return await answer if is_awaitable(type(answer)) else answer

    def iterate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Generator[Any, Any, Any]:
        """The items of the answer; what a generator returns is returned."""
        return (yield from self.give(args, kwargs))

    async def iterate_async(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """The items of the answer, be it sync or async."""
        items = await self.give_async(args, kwargs)
        if hasattr(type(items), "__aiter__"):
            try:
                async for item in items:
                    yield item
            finally:
                if inspect.isasyncgen(items):
                    await items.aclose()
        else:
            for item in items:
                yield item


def make_fallback(answer: Any, on_failure: bool) -> Fallback | None:
    """The fallback, if there is one.

    Raises:
        TypeError: ``fallback_on_failure`` without a fallback, or neither ``True`` nor ``False``.
    """
    if answer is not NOTHING:
        return Fallback(answer, on_failure=on_failure)
    if on_failure is not False:
        raise TypeError("fallback_on_failure needs a fallback: give fallback=...")
    return None


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__qualname__", None) or repr(func)
