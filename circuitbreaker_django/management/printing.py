"""Standard output, where whoever reads it may go, or no room may be left to write."""

from __future__ import annotations

import os
from typing import TextIO

from django.core.management.base import OutputWrapper


class Printed:
    """A stream that goes quiet when it cannot be written to, and keeps why."""

    def __init__(self, stream: TextIO | OutputWrapper) -> None:
        self.stream = stream
        self.problem: OSError | None = None

    def write(self, text: str) -> None:
        """Write, unless that has failed before."""
        if self.problem is None:
            try:
                self.stream.write(text)
            except OSError as error:
                self.problem = error

    def flush(self) -> None:
        """Flush, likewise."""
        if self.problem is None:
            try:
                self.stream.flush()
            except OSError as error:
                self.problem = error

    def finish(self) -> OSError | None:
        """Print what is left; returns why it could not be, after which nobody else tries to."""
        self.flush()
        if self.problem is not None:  # else the interpreter would fail at its end
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
        return self.problem
