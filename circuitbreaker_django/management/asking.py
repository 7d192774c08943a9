"""Whoever sits at the command line: who it is, and whether it is meant."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Final

from circuitbreaker_django.core.circuit import CommandKind

#: What is asked before many circuits are steered at once.
_ASKED: Final = {
    CommandKind.TRIP: "Open",
    CommandKind.HOLD: "Hold open",
    CommandKind.RESET: "Close",
    CommandKind.DISABLE: "Disable",
    CommandKind.METRICS_ONLY: "Let pass, and count only, the calls of",
    CommandKind.ENABLE: "End the modes of",
}


def is_meant(kind: CommandKind, count: int) -> bool:
    """Whether the command is to be applied to so many circuits; only a yes is one."""
    try:
        answer = input(f"{_ASKED[kind]} {count} circuits, for every process? [y/N] ")
    except (EOFError, KeyboardInterrupt):
        print()  # the question has no end of line yet
        return False
    return answer.strip().lower() in ("y", "yes")


def who() -> str:
    """The operator and this host, as ``anna@web1``; before ``sudo``, if that was used."""
    try:
        name = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        name = f"uid:{os.getuid()}"
    return f"{name}@{socket.gethostname()}"
