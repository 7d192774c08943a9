"""Orders from the dashboard, to real stores."""

from __future__ import annotations

import pytest

from circuitbreaker_django import (
    CircuitBackendError,
    CircuitConflictError,
    CircuitState,
    Mode,
    UnknownBreakerError,
)
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.core.circuit import MAX_TEXT, CommandKind
from circuitbreaker_django.core.policy import MICROS, Policy
from circuitbreaker_django.dashboard.keys import Key
from circuitbreaker_django.dashboard.orders import ACTIONS, DURATIONS, OrderForm, carry_out
from circuitbreaker_django.operations.room import CannotSteer
from tests.dashboard.made import status

PAYMENTS, SEARCH = Key("default", "payments"), Key("default", "search")


# -- the form ---------------------------------------------------------------------------------


def test_every_command_has_its_action():
    assert {action.kind for action in ACTIONS.values()} == set(CommandKind)


def test_a_trip_says_when_it_is_tried_again():
    slow = status(policy=Policy(recovery_timeout=120))
    trip = ACTIONS["trip"]
    assert trip.effect_on([slow, slow]).startswith("Every call is rejected for 2 min. Then")
    assert "until the recovery timeout is over" in trip.effect_on([slow, status()])
    held = status(mode=Mode.FORCED_OPEN)
    assert trip.effect_on([held]).startswith("A trip ends no hold and no mode")
    assert trip.effect_on([slow, held]).startswith("Every call is rejected for 2 min. Then")
    assert trip.effect_on([slow, held]).endswith("Hold open stops them.")
    assert trip.effect_on([slow, status(), held]).endswith("Hold open stops them.")
    assert ACTIONS["reset"].effect_on([slow]).startswith("Closes the circuit")


def test_it_asks_for_a_duration_where_one_counts():
    assert {kind: "duration" in OrderForm(action).fields for kind, action in ACTIONS.items()} == {
        "hold": True,
        "trip": False,
        "reset": False,
        "disable": True,
        "metrics_only": True,
        "enable": False,
    }


def test_thirty_minutes_are_the_default():
    chosen = [
        radio.data for radio in OrderForm(ACTIONS["hold"])["duration"] if "checked" in str(radio)
    ]
    assert [str(one["label"]) for one in chosen] == ["30 minutes"]


def test_from_five_minutes_to_a_day_until_reset_or_typed():
    labels = [str(radio.choice_label) for radio in OrderForm(ACTIONS["hold"])["duration"]]
    assert labels[0] == "5 minutes"
    assert labels[-3:] == ["24 hours", "Until it is reset", "Another time:"]
    labels = [str(radio.choice_label) for radio in OrderForm(ACTIONS["disable"])["duration"]]
    assert "Until it is enabled" in labels


@pytest.mark.parametrize(
    ("data", "duration"),
    [
        *(({"duration": seconds}, int(seconds) * MICROS) for seconds in DURATIONS),
        ({"duration": "forever"}, None),
        ({"duration": "other", "other": " 1h30m "}, 5400 * MICROS),
    ],
)
def test_a_duration_becomes_microseconds(data, duration):
    form = OrderForm(ACTIONS["hold"], data)
    assert form.is_valid()
    assert form.cleaned_data["duration"] == duration


@pytest.mark.parametrize("text", ["", "10", "1x", "-5m", "0s", "9999999999s", "٣m", "1h 30m"])
def test_a_duration_that_is_none_is_told_where_it_is_typed(text):
    form = OrderForm(ACTIONS["hold"], {"duration": "other", "other": text})
    assert form.errors == {
        "other": ["Give a time with its unit: 90s, 10m, 2h or 1h30m, up to 277777h."]
    }


@pytest.mark.parametrize("data", [{}, {"duration": "1"}, {"duration": "None"}])
def test_no_other_duration_is_taken(data):
    assert "duration" in OrderForm(ACTIONS["hold"], data).errors


@pytest.mark.parametrize("duration", ["1800", "forever"])
def test_a_time_that_was_typed_and_not_chosen_is_not_passed_over(duration):
    """Who types ten minutes and gets thirty believes otherwise."""
    form = OrderForm(ACTIONS["hold"], {"duration": duration, "other": "10m"})
    assert form.errors == {
        "other": ["Choose “Another time” for what you have typed, or take it out."]
    }


def test_without_a_duration_there_is_none():
    form = OrderForm(ACTIONS["reset"], {"reason": "x"})
    assert form.is_valid()
    assert form.cleaned_data == {"reason": "x", "duration": None}


def test_a_reason_is_no_book():
    assert "reason" in OrderForm(ACTIONS["reset"], {"reason": "x" * (MAX_TEXT + 1)}).errors


# -- carrying it out --------------------------------------------------------------------------


def epochs(worker, *keys):
    seen = worker.backend.overview()
    found = seen.circuits
    return {key: found[key.name].epoch if key.name in found else seen.floor for key in keys}


def send(kind, epochs, duration=None):
    return carry_out(ACTIONS[kind], epochs, duration=duration, actor="anna", reason="a drill")


def test_an_order_is_carried_out(worker):
    [done] = send("hold", epochs(worker, PAYMENTS, SEARCH), 60 * MICROS)
    assert (done.applied, done.error, done.processes) == (True, None, 1)
    assert [status.name for status in done.statuses] == ["payments", "search"]
    assert worker.payments.state is worker.search.state is CircuitState.OPEN


def test_also_for_one_that_nothing_has_happened_to(worker):
    expected = epochs(worker, SEARCH)
    assert "search" not in worker.backend.overview().circuits
    assert send("trip", expected)[0].applied
    [again] = send("trip", expected)
    assert isinstance(again.error, CircuitConflictError)


def test_of_several_all_or_none(worker):
    expected = epochs(worker, PAYMENTS, SEARCH)
    worker.search.trip()
    [done] = send("hold", expected)
    assert (done.applied, type(done.error)) == (False, CircuitConflictError)
    assert worker.payments.state is CircuitState.CLOSED


def test_each_registry_for_itself(worker, settings, location):
    settings.CIRCUIT_BREAKERS = {
        **settings.CIRCUIT_BREAKERS,
        "other": {"LOCATION": f"{location}.other", "BREAKERS": {"stock": {}}},
    }
    stock = Key("other", "stock")
    one, other = send("trip", {stock: 1, **epochs(worker, PAYMENTS)})
    assert (one.keys, one.applied, type(one.error)) == ((stock,), False, CannotSteer)
    assert (other.keys, other.applied) == ((PAYMENTS,), True)


@pytest.mark.parametrize("name", ["*", "nobody", "pay*"])
def test_a_name_is_no_pattern(worker, name):
    [done] = send("trip", {Key("default", name): 1})
    assert (done.applied, type(done.error)) == (False, UnknownBreakerError)
    assert worker.backend.overview().circuits == {}


def test_what_the_store_cannot_confirm_is_not_claimed(worker, monkeypatch):
    def order(self, orders):
        raise CircuitBackendError("nothing was applied: it is busy")

    expected = epochs(worker, PAYMENTS)
    monkeypatch.setattr(SQLiteBackend, "order", order)
    [done] = send("trip", expected)
    assert (done.applied, str(done.error)) == (False, "nothing was applied: it is busy")


def test_what_was_applied_is_claimed_even_if_nobody_can_look(worker, monkeypatch):
    overview = SQLiteBackend.overview
    looks = []

    def lost(self):
        looks.append(self)
        if looks.count(self) > 1:
            raise CircuitBackendError("gone")
        return overview(self)

    expected = epochs(worker, PAYMENTS)
    monkeypatch.setattr(SQLiteBackend, "overview", lost)
    [done] = send("trip", expected)
    assert (done.applied, str(done.error)) == (True, "it was applied, but then: gone")
    assert worker.payments.state is CircuitState.OPEN
