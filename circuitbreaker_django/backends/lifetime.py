"""What happens to opened stores when their process forks or ends.

No connection of SQLite crosses a fork (rule 28): a child that has inherited one shares the
library's notion of the locks that its parent holds, without holding them. So connections are
closed for the moment of the fork. Where the hooks do not run (uWSGI, unless told to) a child
inherits them after all: it leaves them alone and opens its own.
"""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger("circuitbreaker_django")


class Mortal(Protocol):
    """Something that holds what must not cross a fork, nor be left behind at the end."""

    def before_fork(self) -> None:
        """Let go, and take nothing up before one of the next two."""

    def after_fork_in_parent(self) -> None:
        """Take it up again."""

    def after_fork_in_child(self) -> None:
        """Begin anew."""

    def close(self) -> None:
        """Let go for good."""


_mortals: weakref.WeakSet[Mortal] = weakref.WeakSet()


def watch(mortal: Mortal) -> None:
    """Tell it of forks and of the end, as long as it lives."""
    _mortals.add(mortal)


def _before_fork() -> None:
    _tell(lambda mortal: mortal.before_fork())


def _after_fork_in_parent() -> None:
    _tell(lambda mortal: mortal.after_fork_in_parent())


def _after_fork_in_child() -> None:
    _tell(lambda mortal: mortal.after_fork_in_child())


def _at_end() -> None:
    _tell(lambda mortal: mortal.close())


def _tell(news: Callable[[Mortal], None]) -> None:
    for mortal in list(_mortals):
        try:
            news(mortal)
        except Exception:  # a fork must succeed, and an end must come
            logger.exception("a circuit store could not be let go of or taken up again")


atexit.register(_at_end)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
