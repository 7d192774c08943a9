"""Holds after a SQLite store has lost everything (rule 21)."""

from __future__ import annotations

import pytest

from circuitbreaker_django import CircuitState
from circuitbreaker_django.backends import host
from circuitbreaker_django.backends.store import StoreBusy
from circuitbreaker_django.core.states import Mode
from tests.backends import sqlite_store
from tests.backends.sqlite_store import (
    process_of,
    rejected,
    remove,
    tick,
)
from tests.core.calls import ok

backend = sqlite_store.backend
breaker = sqlite_store.breaker
other = sqlite_store.other
later = sqlite_store.later


@pytest.fixture
def held(breaker, other):
    breaker.trip(hold=True, actor="ann", reason="maintenance")
    assert rejected(other)
    return breaker


def test_a_hold_is_put_back_by_those_who_know_of_it(held, other):
    remove(held.backend.place)
    tick(other)
    tick(held)
    assert held.mode is other.mode is Mode.FORCED_OPEN
    hold = other.backend.overview().circuits["payments"].override
    assert (hold.actor, hold.reason, hold.until) == ("ann", "maintenance", None)


def test_a_hold_with_an_end_keeps_it(breaker, clock):
    breaker.trip(duration=100)
    until_then = breaker.view.circuit.override.until
    clock.advance(40)
    remove(breaker.backend.place)
    tick(breaker)
    assert breaker.backend.overview().circuits["payments"].override.until == until_then


def test_a_hold_that_is_over_is_not_put_back(breaker, clock):
    breaker.trip(duration=100)
    clock.advance(100)
    remove(breaker.backend.place)
    tick(breaker)
    assert breaker.backend.overview().circuits == {}


def test_a_reset_in_the_new_store_is_not_undone(held, other):
    remove(held.backend.place)
    other.backend._remember_holds = lambda process, rows: None
    tick(other)
    other.reset()
    tick(held)
    assert held.state is other.state is CircuitState.CLOSED
    assert [event.cause for _, event in held.backend.events()] == ["reset"]


def test_a_reset_in_the_meantime_is_not_undone(held, other):
    remove(held.backend.place)
    put_back = held.backend._put_holds_back
    held.backend._put_holds_back = other.backend._put_holds_back = lambda process, patience: None
    tick(held)
    tick(other)
    other.reset()
    put_back(process_of(held), 0)
    assert held.state is other.state is CircuitState.CLOSED


def test_a_reset_in_the_old_store_that_was_not_seen_yet_is_not_undone(held, other):
    other.reset()
    remove(held.backend.place)
    tick(held)
    assert held.state is CircuitState.CLOSED
    assert held.backend.overview().circuits == {}


def test_a_hold_is_put_back_within_ten_seconds_or_not_at_all(held, later, monkeypatch):
    remove(held.backend.place)
    put_back = held.backend._put_holds_back
    held.backend._put_holds_back = lambda process, patience: None
    tick(held)
    held.backend._put_holds_back = put_back
    later(11)
    tick(held)
    assert not process_of(held).holds
    assert held.backend.overview().circuits == {}


def test_a_hold_that_could_not_be_put_back_is_tried_again(held, monkeypatch):
    remove(held.backend.place)
    transaction = held.backend._transaction

    def busy(process, patience):
        raise StoreBusy("busy")

    held.backend._transaction = busy
    tick(held)
    with process_of(held).writing.taken(0):
        held.backend._put_holds_back(process_of(held), 0)
    held.backend._transaction = transaction
    tick(held)
    assert held.mode is Mode.FORCED_OPEN


def test_a_hold_survives_a_second_loss_before_it_was_put_back(held):
    put_back = held.backend._put_holds_back
    held.backend._put_holds_back = lambda process, patience: None
    for _ in range(2):
        remove(held.backend.place)
        tick(held)
    held.backend._put_holds_back = put_back
    tick(held)
    assert held.mode is Mode.FORCED_OPEN


def test_what_was_known_before_a_close_is_no_reason_for_a_hold(held, other):
    held.backend.close()
    other.reset()
    other.backend.close()
    remove(held.backend.place)
    assert held.call(ok) == "ok"
    assert held.backend.overview().circuits == {}


def test_another_boot_keeps_holds_and_makes_what_is_open_triable(
    held, other, make, sqlite, clock, monkeypatch
):
    make(sqlite(), "search").trip()
    for member in (held, other):
        member.backend.close()
    monkeypatch.setattr(host, "boot_identity", lambda: "another boot")
    clock.now = 5000
    backend = sqlite()
    assert make(backend).mode is Mode.FORCED_OPEN
    search = make(backend, "search")
    assert not rejected(search)
    assert search.state is CircuitState.CLOSED


@pytest.mark.parametrize("mode", ["disable", "metrics_only", "enable"])
def test_every_mode_is_put_back(sqlite, make, location, mode):
    begins = {"initial_mode": "metrics_only"} if mode == "enable" else {}
    breaker = make(sqlite(), **begins)
    getattr(breaker, mode)(actor="ann", reason="rollout")
    before = breaker.mode
    remove(breaker.backend.place)
    tick(breaker)
    assert breaker.mode is before
    override = breaker.backend.overview().circuits["payments"].override
    assert (override.mode, override.actor, override.reason) == (before, "ann", "rollout")


def test_another_boot_keeps_what_was_set_aside_too(sqlite, make, clock, monkeypatch):
    breaker = make(sqlite())
    breaker.trip()
    breaker.metrics_only()
    breaker.backend.close()
    monkeypatch.setattr(host, "boot_identity", lambda: "another boot")
    clock.now = 5000
    breaker = make(sqlite())
    assert breaker.mode is Mode.METRICS_ONLY
    breaker.enable()
    assert breaker.state is CircuitState.HALF_OPEN
