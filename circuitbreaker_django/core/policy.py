"""Policy: the validated numbers of one breaker.

Thresholds are arguments of every operation and never stored with a circuit, so what
an older deployment used cannot override the code that runs now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Annotated, Any, Final, TypedDict

from circuitbreaker_django.core.states import Mode

#: A larger threshold would make every shared record large; a rate is the tool for it.
MAX_FAILURE_THRESHOLD: Final = 1000
#: What opens a circuit when nothing else is asked for.
DEFAULT_FAILURE_THRESHOLD: Final = 5
#: The most that ``minimum_calls`` may be.
MAX_MINIMUM_CALLS: Final = 1_000_000
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
        raise ValueError(f"{allowed}, not {value!r}{hint if value > most else ''}")


def check_duration(name: str, value: Any, most: float = MAX_DURATION) -> None:
    """Refuse what is not a number of seconds from a microsecond to ``most``.

    Raises:
        TypeError: not a number (``bool`` and ``timedelta`` are none here).
        ValueError: zero, negative, NaN, infinite or above ``most``.
    """
    allowed = f"{name} must be a number of seconds from 0.000001 to {most:.15g}"
    if isinstance(value, timedelta):
        raise TypeError(f"{allowed}, not a timedelta: write {value.total_seconds():g}")
    if not _is_number(value):
        raise TypeError(f"{allowed}, not {value!r}")
    # NaN is not within any range, and what rounds to no microsecond would be no duration.
    if not 0 < value <= most or micros(value) < 1:
        raise ValueError(f"{allowed}, not {value!r}")


def check_between(name: str, value: Any, least: float, most: float) -> None:
    """Refuse what is not a number from ``least`` to ``most``.

    Raises:
        TypeError: not a number (``bool`` is none here).
        ValueError: out of range, or NaN.
    """
    _check_number(name, value, f"from {least:.15g} to {most:.15g}", lambda: least <= value <= most)


def check_share(name: str, value: Any) -> None:
    """Refuse what is not a number above 0 and up to 1.

    Raises:
        TypeError: not a number (``bool`` is none here).
        ValueError: out of range, or NaN.
    """
    _check_number(name, value, "above 0 and up to 1", lambda: 0 < value <= 1)


def _check_number(name: str, value: Any, range: str, is_within: Callable[[], bool]) -> None:
    allowed = f"{name} must be a number {range}"
    if not _is_number(value):
        raise TypeError(f"{allowed}, not {value!r}")
    if not is_within():
        raise ValueError(f"{allowed}, not {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Numbers(TypedDict, total=False):
    """What a policy is made of: type, default and meaning."""

    failure_threshold: Annotated[
        int | None,
        "5, if no other rule is set",
        "Failures within `failure_window` that open the circuit; 1 to 1000.",
    ]
    failure_window: Annotated[
        float, "60.0", "Seconds that a call counts. Rates move in steps of a tenth of it."
    ]
    failure_rate_threshold: Annotated[
        float | None,
        "None",
        "Share of failures among the calls of the window that opens the circuit; above 0, up to 1.",
    ]
    slow_call_duration: Annotated[
        float | None, "None", "Seconds from which on a call is slow, be it a success or a failure."
    ]
    slow_call_rate_threshold: Annotated[
        float,
        "1.0",
        "Share of slow calls among those of the window that opens the circuit; above 0, up to 1. "
        "Counts with `slow_call_duration`.",
    ]
    minimum_calls: Annotated[
        int, "10", "Calls in the window below which no rate counts; 1 to 1,000,000."
    ]
    consecutive_failures: Annotated[
        int | None,
        "None",
        "Failures in a row that open the circuit, counted in each process by itself; 1 to 1000.",
    ]
    quorum: Annotated[
        int,
        "1",
        "Hosts (on SQLite: processes) that must have seen a failure in the window before the "
        "circuit opens for all; 1 to 1000. One that is alone opens only itself.",
    ]
    recovery_timeout: Annotated[
        float, "30.0", "Seconds that an open circuit waits before it lets a trial through."
    ]
    recovery_backoff: Annotated[
        float, "1.0", "By how much each further opening in a row multiplies the wait; 1 to 100."
    ]
    recovery_timeout_max: Annotated[
        float | None,
        "ten times `recovery_timeout`",
        "The longest wait in seconds that backoff or `retry_after` may lead to, before jitter. "
        "Never less than `recovery_timeout`.",
    ]
    recovery_jitter: Annotated[
        float, "0.0", "The share by which a wait is lengthened at most, by chance; 0 to 1."
    ]
    half_open_max_calls: Annotated[
        int, "1", "Trials that may run at once, over all processes; 1 to 1000."
    ]
    success_threshold: Annotated[int, "1", "Successful trials that close the circuit; 1 to 1000."]
    trial_timeout: Annotated[
        float,
        "60.0",
        "Seconds after which the permit of a trial that never ended is given to another; at most "
        "3600.",
    ]
    ramp_up: Annotated[
        float,
        "0.0",
        "Seconds after a recovery in which a growing share of the calls is admitted, and a failure "
        "opens the circuit again at once.",
    ]
    initial_mode: Annotated[
        Mode | str,
        '"auto"',
        'The mode of a circuit that nobody has given one: `"auto"`, `"metrics_only"`, `"disabled"` '
        'or `"forced_open"`.',
    ]


@dataclass(frozen=True, slots=True)
class Policy:
    """When a circuit opens, how long it stays open, and what closes it.

    Any of the rules that are set opens it: ``failure_threshold``, ``failure_rate_threshold``,
    ``slow_call_duration`` and ``consecutive_failures``. What each field means is said in
    :class:`Numbers`.

    Raises:
        TypeError: a value of the wrong type; the message names the argument.
        ValueError: a value out of range; the message names the argument.
    """

    failure_threshold: int | None = None
    failure_window: float = 60.0
    failure_rate_threshold: float | None = None
    slow_call_duration: float | None = None
    slow_call_rate_threshold: float = 1.0
    minimum_calls: int = 10
    consecutive_failures: int | None = None
    quorum: int = 1
    recovery_timeout: float = 30.0
    recovery_backoff: float = 1.0
    recovery_timeout_max: float | None = None
    recovery_jitter: float = 0.0
    half_open_max_calls: int = 1
    success_threshold: int = 1
    trial_timeout: float = 60.0
    ramp_up: float = 0.0
    initial_mode: Mode | str = Mode.AUTO

    def __post_init__(self) -> None:
        check_duration("failure_window", self.failure_window)
        if self.failure_rate_threshold is not None:
            check_share("failure_rate_threshold", self.failure_rate_threshold)
        if self.slow_call_duration is not None:
            check_duration("slow_call_duration", self.slow_call_duration)
        check_share("slow_call_rate_threshold", self.slow_call_rate_threshold)
        check_count("minimum_calls", self.minimum_calls, MAX_MINIMUM_CALLS)
        if self.consecutive_failures is not None:
            check_count("consecutive_failures", self.consecutive_failures)
        if self.failure_threshold is not None:
            check_count(
                "failure_threshold",
                self.failure_threshold,
                hint=": for more than that use a failure rate",
            )
        elif not self.has_rates and self.consecutive_failures is None:
            object.__setattr__(self, "failure_threshold", DEFAULT_FAILURE_THRESHOLD)
        check_count("quorum", self.quorum)
        check_duration("recovery_timeout", self.recovery_timeout)
        check_between("recovery_backoff", self.recovery_backoff, 1, 100)
        if self.recovery_timeout_max is not None:
            check_duration("recovery_timeout_max", self.recovery_timeout_max)
        check_between("recovery_jitter", self.recovery_jitter, 0, 1)
        check_count("half_open_max_calls", self.half_open_max_calls)
        check_count("success_threshold", self.success_threshold)
        check_duration("trial_timeout", self.trial_timeout, MAX_TRIAL_TIMEOUT)
        check_between("ramp_up", self.ramp_up, 0, MAX_DURATION)
        if self.initial_mode not in list(Mode):
            modes = ", ".join(repr(str(mode)) for mode in Mode)
            raise ValueError(f"initial_mode must be one of {modes}, not {self.initial_mode!r}")
        object.__setattr__(self, "initial_mode", Mode(self.initial_mode))

    @property
    def has_rates(self) -> bool:
        """Whether a share of the calls may open the circuit."""
        return self.failure_rate_threshold is not None or self.slow_call_duration is not None

    @property
    def counts_successes(self) -> bool:
        """Whether a success has to be told from no call at all."""
        return self.has_rates or self.consecutive_failures is not None

    @property
    def longest_wait(self) -> float:
        """The longest wait that any circuit of this policy may have, in seconds (rule 4)."""
        return self.wait_max * (1 + self.recovery_jitter)

    @property
    def wait_max(self) -> float:
        """The longest wait before jitter, in seconds."""
        most = self.recovery_timeout_max
        if most is None:
            most = 10 * self.recovery_timeout
        return max(self.recovery_timeout, most)


POLICY_FIELDS: Final = tuple(field.name for field in fields(Policy))
