from __future__ import annotations

from dataclasses import replace

import pytest

from circuitbreaker_django.core.circuit import Circuit, Command, CommandKind, Event, Override
from circuitbreaker_django.core.news import (
    CommandApplied,
    StateChanged,
    command_applied,
    state_changed,
)
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import CircuitState, Mode

SECOND = 1_000_000
NOW = 1000 * SECOND
CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
CIRCUIT = Circuit(epoch=6, state=OPEN, since=NOW, retry_at=NOW + 30 * SECOND)


def under(mode: Mode, until: int | None) -> Circuit:
    return replace(CIRCUIT, override=Override(mode, 6, NOW, until, "", ""))


def event(after: CircuitState, mode: Mode = Mode.AUTO) -> Event:
    return Event(6, NOW, CLOSED, after, mode, "trip")


def test_an_opening_is_told_with_the_wait_and_whose_it_is():
    told = state_changed("orders", "pay", event(OPEN), CIRCUIT, NOW, origin=True)
    assert told == StateChanged("orders", "pay", event(OPEN), 30, origin=True, alone=False)
    alone = state_changed(None, "pay", event(OPEN), CIRCUIT, NOW, alone=True)
    assert alone == StateChanged(None, "pay", event(OPEN), 30, origin=False, alone=True)


@pytest.mark.parametrize("after", [CLOSED, HALF_OPEN])
def test_there_is_nothing_to_wait_for_where_the_circuit_is_not_open(after):
    assert state_changed(None, "pay", event(after), CIRCUIT, NOW).retry_after is None


@pytest.mark.parametrize(("until", "wait"), [(None, None), (NOW + SECOND // 2, 0.5)])
def test_a_held_circuit_is_waited_for_until_its_hold_ends(until, wait):
    circuit = under(Mode.FORCED_OPEN, until)
    told = state_changed(None, "pay", event(OPEN, Mode.FORCED_OPEN), circuit, NOW)
    assert told.retry_after == wait


def test_a_command_is_told_with_the_mode_that_is_in_force_now_and_when_it_ends():
    command = Command(CommandKind.DISABLE, 2 * SECOND, "ann", "drill")
    circuit = under(Mode.DISABLED, NOW + 2 * SECOND)
    told = command_applied("orders", "pay", command, Policy(), circuit, NOW)
    assert told == CommandApplied("orders", "pay", command, 6, Mode.DISABLED, 2)


def test_a_command_that_leaves_no_mode_tells_that_of_the_policy_which_has_no_end():
    command = Command(CommandKind.RESET, None, "", "")
    policy = Policy(initial_mode="metrics_only")
    told = command_applied(None, "pay", command, policy, CIRCUIT, NOW)
    assert (told.mode, told.mode_ends_in) == (Mode.METRICS_ONLY, None)
