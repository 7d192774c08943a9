"""Circuits and events as JSON text, for stores that keep text.

What comes back from a store is checked field by field: a store may hold anything.
Unknown keys are passed over, so that a newer release may add some.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

from circuitbreaker_django.core.circuit import Circuit, Event, Override, Permit, Witness
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.core.window import Slice

#: Whole numbers are kept in 64 bits.
LIMIT: Final = 2**63


def dump_circuit(circuit: Circuit) -> str:
    """The circuit as one line of JSON."""
    return json.dumps(asdict(circuit), separators=(",", ":"))


def load_circuit(text: str) -> Circuit:
    """The circuit that :func:`dump_circuit` wrote.

    Raises:
        ValueError: anything else.
    """
    return _circuit(_object(text))


def dump_event(event: Event) -> str:
    """The event as one line of JSON."""
    return json.dumps(asdict(event), separators=(",", ":"))


def load_event(text: str) -> Event:
    """The event that :func:`dump_event` wrote.

    Raises:
        ValueError: anything else.
    """
    data = _object(text)
    return Event(
        epoch=_int(data, "epoch"),
        at=_int(data, "at"),
        before=_state(data, "before"),
        after=_state(data, "after"),
        mode=Mode(_text(data, "mode")),
        cause=_text(data, "cause"),
        actor=_text(data, "actor"),
        reason=_text(data, "reason"),
        failures=_int(data, "failures", least=0),
        last_error=_text(data, "last_error"),
        calls=_int(data, "calls", least=0),
        slow=_int(data, "slow", least=0),
        last_message=_text(data, "last_message"),
    )


def _circuit(data: Any) -> Circuit:
    state = _state(data, "state")
    if state is CircuitState.HALF_OPEN:
        raise ValueError("not a record: half-open is derived and never stored")
    override = _value(data, "override")
    return Circuit(
        epoch=_int(data, "epoch", least=1),  # a view takes 0 for a circuit that is not closed
        state=state,
        since=_int(data, "since"),
        retry_at=_int(data, "retry_at"),
        openings=_int(data, "openings", least=0),
        failures=tuple(sorted(_whole(time, "failures") for time in _list(data, "failures"))),
        slices=tuple(sorted(map(_slice, _list(data, "slices")), key=lambda one: one.start)),
        suspect_since=_int(data, "suspect_since"),
        witnesses=tuple(_witness(witness) for witness in _list(data, "witnesses")),
        spared=_int(data, "spared", least=0),
        trials=_int(data, "trials", least=0),
        trial_successes=_int(data, "trial_successes", least=0),
        permits=tuple(_permit(permit) for permit in _list(data, "permits")),
        override=None if override is None else _override(override),
        actor=_text(data, "actor"),
        reason=_text(data, "reason"),
        last_error=_text(data, "last_error"),
        last_message=_text(data, "last_message"),
        last_error_at=_int(data, "last_error_at"),
    )


def _permit(data: Any) -> Permit:
    return Permit(token=_text(data, "token"), expires=_int(data, "expires"))


def _slice(data: Any) -> Slice:
    return Slice(
        start=_int(data, "start"),
        calls=_int(data, "calls", least=0),
        failures=_int(data, "failures", least=0),
        slow=_int(data, "slow", least=0),
    )


def _witness(data: Any) -> Witness:
    return Witness(origin=_text(data, "origin"), seen_at=_int(data, "seen_at"))


def _override(data: Any) -> Override:
    aside = _value(data, "aside")
    return Override(
        mode=Mode(_text(data, "mode")),
        aside=None if aside is None else _circuit(aside),
        epoch=_int(data, "epoch"),
        since=_int(data, "since"),
        until=None if _value(data, "until") is None else _int(data, "until"),
        actor=_text(data, "actor"),
        reason=_text(data, "reason"),
    )


def _object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not a record: {error}") from error
    if not isinstance(data, dict):
        raise ValueError("not a record: no JSON object")
    return data


def _value(data: Any, key: str) -> Any:
    if not isinstance(data, dict) or key not in data:
        raise ValueError(f"not a record: no {key}")
    return data[key]


def _int(data: Any, key: str, least: int = -LIMIT) -> int:
    return _whole(_value(data, key), key, least)


def _whole(value: Any, key: str, least: int = -LIMIT) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < LIMIT:
        raise ValueError(f"not a record: {key} is no whole number in its range")
    return value


def _text(data: Any, key: str) -> str:
    value = _value(data, key)
    if not isinstance(value, str):
        raise ValueError(f"not a record: {key} is no text")
    return value


def _list(data: Any, key: str) -> list[Any]:
    value = _value(data, key)
    if not isinstance(value, list):
        raise ValueError(f"not a record: {key} is no list")
    return value


def _state(data: Any, key: str) -> CircuitState:
    return CircuitState(_text(data, key))
