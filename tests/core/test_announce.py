from __future__ import annotations

import logging

import pytest

from circuitbreaker_django import CircuitState, Mode
from circuitbreaker_django.core.announce import log_news, printable
from circuitbreaker_django.core.circuit import Event
from circuitbreaker_django.core.news import BackendDegraded, BackendRecovered, StateChanged
from tests.core.calls import failing, ok

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def log_event(name, event):
    log_news(StateChanged(None, name, event, None, origin=True))


@pytest.mark.parametrize(
    ("event", "level", "line"),
    [
        (
            Event(2, 0, CLOSED, OPEN, Mode.AUTO, "5 failures within 60 s", last_error="Down"),
            logging.WARNING,
            "circuit pay is open: 5 failures within 60 s - last error: Down",
        ),
        (
            Event(
                2, 0, CLOSED, OPEN, Mode.AUTO, "trial", last_error="Down", last_message="refused"
            ),
            logging.WARNING,
            "circuit pay is open: trial - last error: Down: refused",
        ),
        (
            Event(2, 0, CLOSED, OPEN, Mode.FORCED_OPEN, "hold", actor="ann", reason="upgrade"),
            logging.WARNING,
            "circuit pay is open: hold by ann (upgrade)",
        ),
        (
            Event(2, 0, HALF_OPEN, CLOSED, Mode.AUTO, "a trial succeeded"),
            logging.INFO,
            "circuit pay is closed: a trial succeeded",
        ),
        (
            Event(2, 0, OPEN, HALF_OPEN, Mode.AUTO, "first trial"),
            logging.DEBUG,
            "circuit pay is half-open: first trial",
        ),
        (
            Event(2, 0, CLOSED, OPEN, Mode.METRICS_ONLY, "5 failures within 60 s"),
            logging.WARNING,
            "circuit pay is open (metrics_only): 5 failures within 60 s",
        ),
        (
            Event(2, 0, OPEN, CLOSED, Mode.DISABLED, "disable", actor="ann"),
            logging.INFO,
            "circuit pay is closed (disabled): disable by ann",
        ),
    ],
)
def test_a_transition_is_one_line_of_the_right_level(caplog, event, level, line):
    caplog.set_level(logging.DEBUG, "circuitbreaker_django")
    log_event("pay", event)
    assert caplog.record_tuples == [("circuitbreaker_django", level, line)]


def test_what_others_have_brought_about_is_theirs_to_log(caplog):
    caplog.set_level(logging.DEBUG, "circuitbreaker_django")
    event = Event(2, 0, CLOSED, OPEN, Mode.AUTO, "2 failures within 60 s", last_error="Down")
    log_news(StateChanged(None, "pay", event, 30.0))
    assert caplog.messages == []
    log_news(StateChanged(None, "pay", event, 30.0, alone=True))
    assert caplog.messages == [
        "circuit pay is open: 2 failures within 60 s, in this process alone - last error: Down"
    ]


def test_the_loss_of_the_store_is_a_warning_and_its_return_is_not(caplog):
    caplog.set_level(logging.DEBUG, "circuitbreaker_django")
    log_news(BackendDegraded("default", "/srv/c.sqlite3", "the disk is full"))
    log_news(BackendRecovered("default", "/srv/c.sqlite3"))
    assert [f"{r.levelname} {r.getMessage()}" for r in caplog.records] == [
        "WARNING circuits are this process's own until the shared store is back: the disk is full",
        "INFO circuits are shared again: /srv/c.sqlite3",
    ]


def test_text_from_outside_cannot_forge_a_line_or_steer_a_terminal(caplog):
    evil = "x\r\nWARNING all is well \x1b[2J\u202e\u2028\x00"
    event = Event(2, 0, CLOSED, OPEN, Mode.AUTO, evil, actor=evil, reason=evil, last_error=evil)
    log_event(evil, event)
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert r"x\r\nWARNING all is well \x1b[2J\u202e\u2028\x00" in record.getMessage()


@pytest.mark.parametrize("text", ["", "plain", "Zürich: 東京", "100 %", "%s %d"])
def test_text_that_prints_stays_as_it_is(text, caplog):
    assert printable(text) == text
    log_event("pay", Event(2, 0, CLOSED, OPEN, Mode.AUTO, "trip", reason=text))
    assert text in caplog.messages[0]


def test_a_life_in_the_log(make, clock, caplog):
    caplog.set_level(logging.DEBUG, "circuitbreaker_django")
    breaker = make(failure_threshold=2)
    failing(breaker)
    failing(breaker)
    clock.advance(30)
    failing(breaker)
    clock.advance(30)
    breaker.call(ok)
    breaker.trip(hold=True, actor="ann", reason="upgrade")
    breaker.reset(actor="ann")
    assert [f"{r.levelname} {r.getMessage()}" for r in caplog.records] == [
        "WARNING circuit payments is open: 2 failures within 60 s - last error: Down",
        "DEBUG circuit payments is half-open: first trial",
        "WARNING circuit payments is open: a trial failed - last error: Down",
        "DEBUG circuit payments is half-open: first trial",
        "INFO circuit payments is closed: a trial succeeded",
        "WARNING circuit payments is open: hold by ann (upgrade)",
        "INFO circuit payments is closed: reset by ann",
    ]


def test_of_a_text_only_what_does_not_print_is_escaped():
    assert printable("Zürich\t東京") == r"Zürich\t東京"
