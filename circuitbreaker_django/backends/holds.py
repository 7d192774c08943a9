"""The holds of a store that has lost everything, to be put back into what comes after it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from circuitbreaker_django.backends.store import Order
from circuitbreaker_django.core.circuit import MODES, Circuit, Command, CommandKind, Override
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import Mode

#: Seconds after the loss in which they are put back (rule 21).
REASSERT_WITHIN: Final = 10.0

#: What brings a mode about, in a circuit that is in none that anybody would ask for.
_COMMANDS: Final = {mode: kind for kind, mode in MODES.items()} | {Mode.AUTO: CommandKind.ENABLE}
_ANY: Final = Policy(initial_mode=Mode.DISABLED)


class LostHolds:
    """What one process knows of them."""

    def __init__(self) -> None:
        self._holds: dict[str, Override] = {}
        self._until = 0.0

    def __bool__(self) -> bool:
        return bool(self._holds)

    def remember(self, known: Mapping[str, Circuit], rows: Mapping[str, Circuit], now: int) -> None:
        """Remember those that were in force and that the store's new rows say nothing of."""
        self._until = time.monotonic() + REASSERT_WITHIN
        holds = {name: circuit.override for name, circuit in known.items()}
        self._holds = {
            name: hold
            # Those of the store before that one, too, if they could not be put back yet.
            for name, hold in {**self._holds, **holds}.items()
            if name not in rows and hold is not None and (hold.until is None or hold.until > now)
        }

    def orders(self, now: int) -> dict[str, Order]:
        """What puts them back, where a circuit has no row; nothing when it is too late for that."""
        if time.monotonic() >= self._until:
            return {}
        return {
            name: (
                Command(
                    _COMMANDS[hold.mode],
                    None if hold.until is None else max(1, hold.until - now),
                    hold.actor,
                    hold.reason,
                ),
                _ANY,
            )
            for name, hold in self._holds.items()
        }

    def forget(self) -> None:
        """They are put back."""
        self._holds = {}
