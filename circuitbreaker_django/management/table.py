"""The table of ``breaker status``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from circuitbreaker_django.core.announce import printable
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.management.words import state, utc
from circuitbreaker_django.operations.looks import URGENCY, look_of
from circuitbreaker_django.operations.status import BreakerStatus
from circuitbreaker_django.operations.words import age, alone, length, rate, whole_percent

_HEAD: Final = (
    *("BREAKER", "STATE", "RETRY IN", "FAILURES", "WOULD REJECT", "CALLS/S", "REJECTED/H"),
    *("SINCE", "WHY", "WHO", "DECLARED IN"),
)
#: The longest text in a cell; JSON has all of it.
_MAX_CELL: Final = 80


def table(rows: Sequence[BreakerStatus], processes: int, *, wide: bool) -> list[str]:
    """The head, and a line for each breaker; columns in which nothing would stand are left out.

    Args:
        rows: breakers, at least one.
        processes: how many live ones share them.
        wide: with all that is known.
    """
    head = _HEAD if wide else _HEAD[:-1]
    cells = (_cells(row, processes, wide=wide)[: len(head)] for row in rows)
    padded = [
        [cell.ljust(max(map(len, column))) for cell in column]
        for column in zip(head, *cells, strict=True)
        if any(column[1:])
    ]
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]


def urgency(row: BreakerStatus) -> int:
    """Its place in the table, which begins with what is open: there may be many lines."""
    return URGENCY[look_of(row.state, row.mode)]


def is_quiet(row: BreakerStatus) -> bool:
    """Whether a breaker by key is like most of its family, of which there may be thousands."""
    is_closed = row.state is CircuitState.CLOSED and row.mode is Mode.AUTO
    return bool(row.family) and is_closed and not row.failures and not row.alone_in


def _cells(row: BreakerStatus, processes: int, *, wide: bool) -> list[str]:
    by_itself = alone(len(row.alone_in), processes)
    cells = (
        f"{row.name} (common breaker of {row.common_to})" if row.common_to else row.name,
        ", ".join(filter(None, (state(row), _trials(row), by_itself))),
        _retry_in(row),
        _failures(row) * (row.state is CircuitState.CLOSED),
        f"{row.would_reject} calls" * (row.mode is Mode.METRICS_ONLY),
        "" if row.stats is None else rate(row.stats.calls_per_second),
        "" if row.stats is None else str(row.stats.last_hour.rejected or ""),
        "" if row.since is None else _ago(row.since) + f" ({utc(row.since)})" * wide,
        row.reason,
        row.updated_by,
        row.where,
    )
    texts = (printable(cell) for cell in cells)
    return [text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…" for text in texts]


def _trials(row: BreakerStatus) -> str:
    """Why an open circuit that may be tried does not let a call pass now, if it does not."""
    count = row.trials_running
    return f"{count} trial{'s' * (count > 1)} running" if count else ""


def _retry_in(row: BreakerStatus) -> str:
    if row.retry_after is None:
        return ""
    if row.state is CircuitState.HALF_OPEN:  # it waits for a call, or for what its trials say
        return "now" * (row.trials_running < row.policy.half_open_max_calls)
    return length(math.ceil(row.retry_after))


def _failures(row: BreakerStatus) -> str:
    """How near it is to opening, by each rule."""
    policy, parts = row.policy, []
    if policy.failure_threshold is not None:
        parts.append(f"{row.failures} of {policy.failure_threshold}")
    if row.calls_needed:
        parts.append(f"rates need {row.calls_needed} more call{'s' * (row.calls_needed > 1)}")
        return ", ".join(parts)
    if row.failure_rate is not None and policy.failure_rate_threshold is not None:
        parts.append(_share(row.failure_rate, policy.failure_rate_threshold))
    if row.slow_rate is not None:
        parts.append(f"slow {_share(row.slow_rate, policy.slow_call_rate_threshold)}")
    return ", ".join(parts)


def _share(share: float, threshold: float) -> str:
    return f"{whole_percent(share, threshold)} of {100 * threshold:.3g} %"


def _ago(moment: datetime) -> str:
    return f"{age((datetime.now(UTC) - moment).total_seconds())} ago"
