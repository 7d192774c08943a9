"""What a circuit looks like to an operator: one word for its state and mode together."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from circuitbreaker_django.core.states import CircuitState, Mode


class Look(StrEnum):
    """What a circuit looks like; the order is that of urgency."""

    OPEN = "open"
    HELD = "held"
    HALF_OPEN = "half_open"
    UNKNOWN = "unknown"
    DISABLED = "disabled"
    METRICS_ONLY = "metrics_only"
    CLOSED = "closed"


#: The place of each look, the most urgent first.
URGENCY: Final = {look: place for place, look in enumerate(Look)}
#: What a circuit in a mode looks like.
OF_MODES: Final = {
    Mode.FORCED_OPEN: Look.HELD,
    Mode.DISABLED: Look.DISABLED,
    Mode.METRICS_ONLY: Look.METRICS_ONLY,
}
_OF_BOTH: Final = {
    (state, mode): OF_MODES.get(mode) or Look(state.value)
    for state in CircuitState
    for mode in Mode
}


def look_of(state: CircuitState, mode: Mode) -> Look:
    """What a circuit of that state and mode looks like."""
    return _OF_BOTH[state, mode]
