"""States and modes at one look."""

from __future__ import annotations

import pytest

from circuitbreaker_django import CircuitState, Mode
from circuitbreaker_django.operations.looks import URGENCY, Look, look_of


@pytest.mark.parametrize(
    ("state", "mode", "look"),
    [
        ("open", "auto", "open"),
        ("half_open", "auto", "half_open"),
        ("closed", "auto", "closed"),
        ("open", "forced_open", "held"),
        ("closed", "disabled", "disabled"),
        ("closed", "metrics_only", "metrics_only"),
    ],
)
def test_a_mode_is_seen_before_the_state(state, mode, look):
    assert look_of(CircuitState(state), Mode(mode)) is Look(look)


def test_what_rejects_calls_is_the_most_urgent():
    assert sorted(Look, key=URGENCY.__getitem__)[:2] == [Look.OPEN, Look.HELD]
    assert max(Look, key=URGENCY.__getitem__) is Look.CLOSED
