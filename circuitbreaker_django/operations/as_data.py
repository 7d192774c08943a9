"""What operators see as plain values, for JSON: keys that are there in every release."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from circuitbreaker_django.core.circuit import Event
from circuitbreaker_django.operations.status import BreakerStatus


def status_as_data(row: BreakerStatus) -> dict[str, Any]:
    """One breaker."""
    return {
        "registry": row.registry,
        "name": row.name,
        "state": row.state,
        "mode": row.mode,
        "mode_until": row.mode_until and f"{row.mode_until:%Y-%m-%dT%H:%M:%SZ}",
        "reason": row.reason or None,
        "updated_by": row.updated_by or None,
        "since": row.since and f"{row.since:%Y-%m-%dT%H:%M:%SZ}",
        "retry_after": row.retry_after,
        "failures": row.failures,
        "trials_running": row.trials_running,
        "would_reject": row.would_reject,
        "failure_rate": row.failure_rate,
        "slow_rate": row.slow_rate,
        "calls_needed": row.calls_needed,
        "calls_per_second": row.stats and row.stats.calls_per_second,
        "last_minute": row.stats and row.stats.last_minute._asdict(),
        "last_hour": row.stats and row.stats.last_hour._asdict(),
        "open_alone_in": [f"{process.host}:{process.pid}" for process in row.alone_in],
        "last_error": row.last_error or None,
        "last_error_message": row.last_message or None,
        "last_error_at": row.last_error_at and f"{row.last_error_at:%Y-%m-%dT%H:%M:%SZ}",
        "family": row.family or None,
        "common_breaker_of": row.common_to or None,
        "elsewhere": dict(row.elsewhere),
    }


def event_as_data(registry: str, at: datetime, name: str, event: Event) -> dict[str, Any]:
    """One line of the history."""
    return {
        "registry": registry,
        "name": name,
        "at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "before": event.before,
        "after": event.after,
        "mode": event.mode,
        "cause": event.cause,
        "actor": event.actor or None,
        "reason": event.reason or None,
        "failures": event.failures,
        "calls": event.calls,
        "slow": event.slow,
        "last_error": event.last_error or None,
        "last_error_message": event.last_message or None,
    }
