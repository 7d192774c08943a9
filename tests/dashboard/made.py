"""Statuses as a test needs them."""

from __future__ import annotations

from typing import Any

from circuitbreaker_django import CircuitState, Mode
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.operations.looks import look_of
from circuitbreaker_django.operations.status import BreakerStatus


def status(**given: Any) -> BreakerStatus:
    """A closed circuit that nothing has happened to, but for what is given."""
    values: dict[str, Any] = {
        "registry": "default",
        "name": "payments",
        "state": CircuitState.CLOSED,
        "mode": Mode.AUTO,
        "mode_until": None,
        "reason": "",
        "updated_by": "",
        "updated_to": look_of(
            given.get("state", CircuitState.CLOSED), given.get("mode", Mode.AUTO)
        ),
        "since": None,
        "retry_after": None,
        "failures": 0,
        "failure_rate": None,
        "slow_rate": None,
        "calls_needed": 0,
        "would_reject": 0,
        "alone_in": (),
        "last_error": "",
        "last_message": "",
        "last_error_at": None,
        "stats": None,
        "trials_running": 0,
        "policy": Policy(),
        "elsewhere": {},
        "where": "",
        "family": "",
        "common_to": "",
        "epoch": 1,
    }
    return BreakerStatus(**{**values, **given})
