"""What operators are told of an error beside its class: its message, shortened and harmless."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from circuitbreaker_django.core.announce import printable
from circuitbreaker_django.core.classify import Callback

#: The longest message that is kept, in characters.
MAX_MESSAGE: Final = 200

#: Whether messages are kept, or what makes one of an exception (``ERROR_DETAIL``).
DetailSpec = bool | str | Callable[[Any], str | None]


class Detail:
    """Makes the message of an exception.

    Args:
        spec: whether messages are kept; or a callable, or its dotted path, that is given the
            exception and returns the message, or ``None`` for none.

    Raises:
        TypeError: anything else.
    """

    __slots__ = ("_callback", "_is_kept")

    def __init__(self, spec: DetailSpec = True) -> None:
        if spec is None:
            raise TypeError("ERROR_DETAIL must be True, False, a sync callable or a dotted path")
        self._is_kept = spec is not False
        self._callback = None if isinstance(spec, bool) else Callback(spec, "ERROR_DETAIL")

    @property
    def path(self) -> str | None:
        """The dotted path to import, if there is one."""
        spec = None if self._callback is None else self._callback.spec
        return spec if isinstance(spec, str) else None

    def of(self, error: BaseException) -> str:
        """The message; empty where none is kept or none can be had. Never raises."""
        if not self._is_kept:
            return ""
        if self._callback is None:
            try:
                return shorten(error)
            except Exception:  # of its own __str__; an interruption may as well be the user's
                return ""
        if self._callback.func is None:  # it cannot be imported, and what it hides stays hidden
            return ""
        return self._callback.ask(error, _said) or ""


def shorten(message: object) -> str:
    """A text in at most :data:`MAX_MESSAGE` characters that are all printable."""
    # Of a subclass of str only what a str does is asked.
    text = str.__getitem__(str(message), slice(MAX_MESSAGE + 1))
    text = printable(text)
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 1]}…"


def _said(message: object) -> str:
    return "" if message is None else shorten(message)
