from __future__ import annotations


class Clock:
    """The clock that tests inject into backends: microseconds, and it stands still."""

    def __init__(self, start: int = 1_000_000_000) -> None:
        self.now = start

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000)
