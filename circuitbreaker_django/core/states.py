"""The words: states, modes and outcomes, as code, command, JSON and admin spell them."""

from __future__ import annotations

from enum import StrEnum


class CircuitState(StrEnum):
    """The effective state of a circuit.

    ``HALF_OPEN`` is never stored: an open circuit whose wait is over *is* half-open.
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Mode(StrEnum):
    """Who decides: the circuit itself, or an operator.

    ``FORCED_OPEN`` rejects all calls. ``DISABLED`` lets all pass and counts nothing.
    ``METRICS_ONLY`` lets all pass, counts them, and tells what it would have rejected.
    """

    AUTO = "auto"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"
    METRICS_ONLY = "metrics_only"


class Outcome(StrEnum):
    """What a finished call means for its circuit."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"
