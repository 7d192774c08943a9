"""Rows of a SQLite store that nobody needs (rule 2)."""

from __future__ import annotations

import math
import threading

import pytest

from circuitbreaker_django import CircuitState
from circuitbreaker_django.backends import (
    published,
    sqlite,
    sqlite_tables,
)
from circuitbreaker_django.backends.store import Declaration, StoreLost
from circuitbreaker_django.core.states import Mode
from tests.backends import sqlite_store
from tests.backends.sqlite_store import (
    process_of,
    rejected,
    tick,
)
from tests.core.calls import failing, ok

backend = sqlite_store.backend
breaker = sqlite_store.breaker
other = sqlite_store.other
stranger = sqlite_store.stranger
later = sqlite_store.later


@pytest.fixture
def few(monkeypatch):
    """Three rows and three declarations are too many."""
    monkeypatch.setattr(sqlite_tables, "MAX_ROWS", 2)
    monkeypatch.setattr(sqlite_tables, "MAX_DECLARED", 2)


@pytest.fixture
def clean(later):
    """Lets a member look for what may go."""

    def clean(breaker):
        later(published.CLEAN_EVERY)
        tick(breaker)

    return clean


def names(breaker):
    return set(breaker.backend.overview().circuits)


def test_rows_in_which_nothing_counts_go_when_there_are_too_many(
    few, clean, make, backend, other, clock
):
    a, b, c, d = (make(backend, name) for name in "abcd")
    a.trip()
    failing(b)
    failing(b)
    b.reset()
    c.disable()
    clock.advance(50)
    failing(d)
    clean(a)
    assert names(a) == {"a", "c", "d"}
    clock.advance(59)
    clean(a)
    assert names(a) == {"a", "c", "d"}
    clock.advance(1)
    clean(a)
    assert names(a) == {"a", "c"}
    assert a.state is CircuitState.HALF_OPEN
    assert c.mode is Mode.DISABLED


@pytest.mark.parametrize("moved", [True, False])
def test_every_process_forgets_the_rows_that_go(few, clean, make, backend, other, clock, moved):
    for name in "abc":
        theirs = make(other.backend, name)
        failing(theirs)
        if moved:
            theirs.reset()
    clock.advance(60)
    ours = make(backend, "a")
    clean(ours)
    assert ours.call(ok) == other.call(ok) == "ok"
    assert other.backend._rows == backend._rows == {}
    assert ours.view.epoch == make(other.backend, "a").view.epoch


def test_two_rows_are_not_too_many(few, clean, make, backend):
    for name in "ab":
        make(backend, name).reset()
    clean(make(backend, "a"))
    assert names(make(backend, "a")) == {"a", "b"}


def test_whoever_had_a_dropped_row_goes_on_sharing(few, clean, make, backend, sqlite):
    theirs = [make(sqlite(), name) for name in "abc"]
    ours = [make(backend, name) for name in "abc"]
    for one in ours:
        one.reset()
    epochs = [one.view.shared_epoch for one in theirs if one.state]
    clean(ours[0])
    assert names(ours[0]) == set()
    failing(ours[2])
    failing(theirs[2])
    assert ours[2].state is theirs[2].state is CircuitState.OPEN
    assert theirs[0].view.shared_epoch >= max(epochs)


def test_a_call_under_way_when_its_row_is_dropped_counts_only_in_the_same_epoch(
    few, clean, make, backend, clock
):
    breakers = [make(backend, name, failure_threshold=1) for name in "abc"]

    def work():
        clean(breakers[1])
        raise OSError

    for breaker in breakers:
        breaker.reset()
        clock.advance(1)
    with pytest.raises(OSError):
        breakers[0].call(work)
    assert not rejected(breakers[0])
    failing(breakers[0])
    assert rejected(breakers[0])


def test_a_row_that_was_written_to_meanwhile_stays(few, clean, make, backend, other, monkeypatch):
    breakers = [make(backend, name) for name in ("a", "b", "payments")]
    for breaker in breakers:
        breaker.reset()
    real = sqlite_tables.find_waste
    assert not rejected(other)
    process_of(other).clean_at = math.inf

    def find_waste(reader, now):
        waste = real(reader, now)
        failing(other)
        return waste

    monkeypatch.setattr(sqlite, "find_waste", find_waste)
    clean(breakers[0])
    assert names(breakers[0]) == {"payments"}
    failing(breakers[2])
    assert other.state is CircuitState.OPEN


@pytest.mark.parametrize(
    ("policy", "goes"),
    [
        ({"failure_window": 100}, False),
        ({"ramp_up": 100.5}, False),
        ({"failure_window": 99}, True),
        ({"failure_window": 10}, True),
        ({"failure_window": float("nan")}, True),
        ({"failure_window": float("inf")}, True),
        ({"failure_window": "1000", "ramp_up": None}, True),
        ({"ramp_up": True}, True),
    ],
    ids=str,
)
def test_what_counts_for_the_longest_window_of_anybody_counts(
    few, clean, make, backend, clock, policy, goes
):
    breakers = [make(backend, name) for name in "abc"]
    backend.declare(Declaration("x", policy, "here"))
    for breaker in breakers:
        failing(breaker)
    clock.advance(99.5)
    clean(breakers[0])
    assert names(breakers[0]) == (set() if goes else set("abc"))


def test_of_too_many_declarations_those_by_key_go_that_are_the_oldest(
    few, clean, breaker, backend, clock, monkeypatch
):
    keyed = {"keyed": True}
    for name in ("tenant:old", "tenant", "host:x", "tenant:new"):
        backend.declare(Declaration(name, {} if name.startswith("host") else keyed, "here"))
        breaker.call(ok)
        backend.close()
        backend._declared.clear()
        clock.advance(1)
    monkeypatch.setattr(sqlite_tables, "MAX_DECLARED", 3)
    breaker.call(ok)
    clean(breaker)
    assert set(backend.overview().declarations) == {"tenant", "host:x", "tenant:new"}
    monkeypatch.setattr(sqlite_tables, "MAX_DECLARED", 1)
    clean(breaker)
    assert set(backend.overview().declarations) == {"tenant", "host:x"}


def test_what_was_declared_unreadably_is_left(few, clean, breaker, backend, stranger):
    rows = [(b"tenant:a", 0, "{}", ""), ("tenant:b", 1, "[", ""), (3, 2, '{"keyed": true}', "")]
    stranger.executemany("INSERT INTO declarations VALUES (?, ?, ?, ?)", rows)
    stranger.execute("UPDATE declarations SET seen_at = ?", (backend.clock(),))
    clean(breaker)
    (left,) = stranger.execute("SELECT count(*) FROM declarations").fetchone()
    assert left == len(rows)


def test_of_too_many_counts_of_calls_the_oldest_go_of_breakers_by_key(
    few, clean, sqlite, make, backend, clock, monkeypatch
):
    monkeypatch.setattr(sqlite_tables, "MAX_TRAFFIC", 3)
    for name in ("payments", "tenant:a", "tenant:b", "tenant:c"):
        make(backend, name).call(ok)
        backend.publish()
        clock.advance(60)
    clean(make(backend))
    assert (
        set(backend.stats())
        == set(backend.stats(day=True))
        == {
            "payments",
            "tenant:b",
            "tenant:c",
        }
    )


def test_an_observer_drops_nothing(few, clean, make, sqlite, backend):
    for name in "abc":
        make(backend, name).reset()
    observer = make(sqlite(observer=True), "a")
    clean(observer)
    assert names(observer) == set("abc")


def test_it_is_looked_for_once_in_a_minute(few, clean, later, make, backend, monkeypatch):
    breaker = make(backend)
    breaker.call(ok)
    looks = []
    monkeypatch.setattr(sqlite, "find_waste", lambda reader, now: looks.append(now))
    clean(breaker)
    later(published.CLEAN_EVERY - 1)
    tick(breaker)
    assert len(looks) == 1
    later(2)
    tick(breaker)
    assert len(looks) == 2


@pytest.mark.parametrize("turn", ["reading", "writing"])
def test_who_does_not_get_a_turn_drops_nothing(few, clean, make, backend, turn):
    for name in "abc":
        make(backend, name).reset()
    breaker = make(backend, "a")
    process = process_of(breaker)
    file = process.file
    taken, go = threading.Event(), threading.Event()

    def take():
        with getattr(process, turn).taken(1):
            taken.set()
            go.wait(10)

    thread = threading.Thread(target=take)
    thread.start()
    taken.wait(10)
    process.clean_at = 0.0
    backend._clean_tables(process, file, 0)
    go.set()
    thread.join()
    assert names(breaker) == set("abc")


def test_a_busy_store_is_cleaned_later(few, clean, later, make, backend, stranger):
    for name in "abc":
        make(backend, name).reset()
    breaker = make(backend, "a")
    process = process_of(breaker)
    process.clean_at = 0.0
    stranger.execute("BEGIN IMMEDIATE")
    backend._clean_tables(process, process.file, 0)
    stranger.execute("ROLLBACK")
    assert names(breaker) == set("abc")
    clean(breaker)
    assert names(breaker) == set()


def test_a_store_that_is_lost_at_the_cleaning_is_left(few, make, backend, monkeypatch):
    breaker = make(backend)
    breaker.call(ok)

    def lose(reader, now):
        raise StoreLost("a fault")

    monkeypatch.setattr(sqlite, "find_waste", lose)
    process = process_of(breaker)
    process.clean_at = 0.0
    backend._clean_tables(process, process.file, 0)
    assert process.file is None
    assert backend.problem == "a fault"
