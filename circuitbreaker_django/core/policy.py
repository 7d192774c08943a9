"""Policy: the validated numbers of one breaker.

Thresholds are arguments of every operation and never stored with a circuit, so what
an older deployment used cannot override the code that runs now.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Final

#: A larger threshold would make every shared record large; a rate is the tool for it.
MAX_FAILURE_THRESHOLD: Final = 1000
#: The longest lease of a trial permit, in seconds (protocol rule 11).
MAX_TRIAL_TIMEOUT: Final = 3600.0
#: The longest duration anywhere, in seconds (about 31 years).
MAX_DURATION: Final = 1e9

MICROS = 1_000_000


def micros(seconds: float) -> int:
    """Seconds as the whole microseconds that circuits are kept in."""
    return round(seconds * MICROS)


def seconds(micros: float) -> float:
    """Microseconds of a circuit as seconds."""
    return micros / MICROS


def check_count(name: str, value: Any, most: int = MAX_FAILURE_THRESHOLD, hint: str = "") -> None:
    """Refuse what is not a whole number from 1 to ``most``.

    Raises:
        TypeError: not an ``int`` (``bool`` is none here).
        ValueError: out of range.
    """
    allowed = f"{name} must be a whole number from 1 to {most}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{allowed}, not {value!r}")
    if not 1 <= value <= most:
        raise ValueError(f"{allowed}, not {value!r}{hint}")


def check_duration(name: str, value: Any, most: float = MAX_DURATION) -> None:
    """Refuse what is not a number of seconds from a microsecond to ``most``.

    Raises:
        TypeError: not a number (``bool`` and ``timedelta`` are none here).
        ValueError: zero, negative, NaN, infinite or above ``most``.
    """
    allowed = f"{name} must be a number of seconds from 0.000001 to {most:.15g}"
    if isinstance(value, timedelta):
        raise TypeError(f"{allowed}, not a timedelta: write {value.total_seconds():g}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{allowed}, not {value!r}")
    # NaN is not within any range, and what rounds to no microsecond would be no duration.
    if not 0 < value <= most or micros(value) < 1:
        raise ValueError(f"{allowed}, not {value!r}")


@dataclass(frozen=True, slots=True)
class Policy:
    """When a circuit opens, how long it stays open, and what closes it.

    Raises:
        TypeError: a value of the wrong type; the message names the argument.
        ValueError: a value out of range; the message names the argument.
    """

    failure_threshold: int = 5
    """Failures within ``failure_window`` that open the circuit; 1 to 1000."""

    failure_window: float = 60.0
    """Seconds that a failure counts."""

    recovery_timeout: float = 30.0
    """Seconds that an open circuit waits before it lets a trial through."""

    half_open_max_calls: int = 1
    """Trials that may run at once over all processes; 1 to 1000."""

    success_threshold: int = 1
    """Successful trials that close the circuit; 1 to 1000."""

    trial_timeout: float = 60.0
    """Seconds after which the permit of a trial that has not ended goes to another; up to 3600."""

    def __post_init__(self) -> None:
        check_count(
            "failure_threshold",
            self.failure_threshold,
            hint=": for more than that use a failure rate",
        )
        check_duration("failure_window", self.failure_window)
        check_duration("recovery_timeout", self.recovery_timeout)
        check_count("half_open_max_calls", self.half_open_max_calls)
        check_count("success_threshold", self.success_threshold)
        check_duration("trial_timeout", self.trial_timeout, MAX_TRIAL_TIMEOUT)

    @property
    def recovery_timeout_max(self) -> float:
        """The longest wait that any circuit of this policy may have, in seconds."""
        return self.recovery_timeout


POLICY_FIELDS: Final = tuple(field.name for field in fields(Policy))
