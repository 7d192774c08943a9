"""How long an operator wants a mode to last, as he writes it."""

from __future__ import annotations

import re
from typing import Final

from circuitbreaker_django.core.policy import MAX_DURATION, micros

#: The longest that is taken, as one writes it.
LONGEST: Final = f"{MAX_DURATION // 3600:.0f}h"
_DURATION: Final = re.compile(r"(?=[0-9])(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")


def parse_duration(text: str) -> int:
    """Microseconds of ``90s``, ``10m``, ``2h`` or ``1h30m``.

    Raises:
        ValueError: it is none of these, nothing, or too long.
    """
    match = _DURATION.fullmatch(text)
    hours, minutes, secs = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + secs
    if not 0 < total <= MAX_DURATION:
        raise ValueError(
            f"give a duration with its unit, as 90s, 10m, 2h or 1h30m, from 1s to {LONGEST}"
        )
    return micros(total)
