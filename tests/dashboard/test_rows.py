from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from circuitbreaker_django import CircuitState, Mode
from circuitbreaker_django.backends.store import Stats
from circuitbreaker_django.core.circuit import Event
from circuitbreaker_django.core.traffic import MINUTE, Bucket, Counts
from circuitbreaker_django.dashboard import charts, rows
from circuitbreaker_django.dashboard.charts import SPANS
from circuitbreaker_django.dashboard.keys import Key
from circuitbreaker_django.dashboard.readings import Reading, Watch
from tests.dashboard.made import status

OPEN, CLOSED, HALF_OPEN = CircuitState.OPEN, CircuitState.CLOSED, CircuitState.HALF_OPEN
AUTO = Mode.AUTO
HELD: Any = {"state": OPEN, "mode": Mode.FORCED_OPEN}


NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


class Read(Reading):
    """Of a registry that four processes share."""

    processes = 4


class Seen(Watch):
    """What is there to be sorted."""

    def __init__(self):
        super().__init__([])

    def glance(self):
        return {
            Key("default", "a"): (CLOSED, AUTO),
            Key("default", "Mail smtp"): (HALF_OPEN, AUTO),
            Key("default", "held"): (OPEN, Mode.FORCED_OPEN),
            Key("default", "off"): (CLOSED, Mode.DISABLED),
            Key("default", "open"): (OPEN, AUTO),
            Key("other", "lost"): None,
        }


ALL = rows.entries(Seen())


def names(found):
    return [entry.key.name for entry in found]


def test_the_most_urgent_come_first():
    assert names(ALL) == ["open", "held", "Mail smtp", "lost", "off", "a"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, ["open", "held", "Mail smtp", "lost", "off", "a"]),
        ({"search": "SMTP mai"}, ["Mail smtp"]),
        ({"search": "nobody"}, []),
        ({"registry": "other"}, ["lost"]),
        ({"state": "open"}, ["open", "held"]),
        ({"state": "half_open"}, ["Mail smtp"]),
        ({"state": "closed"}, ["a"]),
        ({"state": "steered"}, ["held", "off"]),
        ({"state": "nonsense"}, ["open", "held", "Mail smtp", "lost", "off", "a"]),
    ],
)
def test_the_list_is_narrowed_down(asked, found):
    assert names(rows.narrowed(ALL, **asked)) == found


def test_they_are_counted():
    assert rows.counts(ALL) == {"all": 6, "open": 2, "half_open": 1, "closed": 1, "steered": 2}


def row(**given):
    return rows.row(Key("default", "payments"), status(**given), Read("default", None, NOON, NOON))


def test_of_a_closed_circuit_there_is_little_to_say():
    shown = row(failures=1)
    assert {key: value for key, value in shown["cells"].items() if value} == {
        "failures": "1 of 5 failures",
    }
    assert (shown["look"], shown["state"], shown["retry_in"]) == ("closed", "Closed", None)
    assert shown["at"] == NOON.timestamp()
    assert shown["paths"] == {}


def test_of_an_open_one_there_is_more():
    now = datetime.now(UTC)
    shown = row(
        state=OPEN,
        since=now - timedelta(minutes=3),
        retry_after=12.0,
        reason="5 failures within 60 s",
        updated_by="anna",
        last_error="Timeout",
        last_message="after 3 s",
        last_error_at=now,
        failures=5,
    )
    cells = shown["cells"]
    assert (shown["look"], shown["retry_in"], cells["retry"]) == (
        "open",
        12.0,
        "next trial in 12 s",
    )
    assert (cells["reason"], cells["actor"], cells["age"]) == (
        "5 failures within 60 s",
        "opened by anna",
        "3 min ago",
    )
    assert cells["since"]["iso"][:10] in {str((now + timedelta(days=n)).date()) for n in (-1, 0, 1)}
    assert cells["error"] == "Timeout: after 3 s"
    assert cells["failures"] == ""


def test_of_a_lost_store_the_wait_goes_on():
    at = datetime.now(UTC) - timedelta(seconds=10)
    lost = Read("default", None, at, at, lost_at=at)
    known = status(state=OPEN, retry_after=30.0)
    shown = rows.row(Key("default", "payments"), known, lost)
    assert 18 < shown["retry_in"] <= 20
    assert shown["cells"]["retry"] == f"next trial in {math.ceil(shown['retry_in'])} s"
    over = rows.row(Key("default", "payments"), replace(known, retry_after=3.0), lost)
    assert (over["retry_in"], over["cells"]["retry"]) == (0, "next trial now")


def test_what_people_write_steers_nobodys_page():
    forged = "a\u202eb\nc"
    cells = row(state=OPEN, reason=forged, updated_by=forged, last_error=forged)["cells"]
    assert cells["reason"] == cells["error"] == r"a\u202eb\nc"
    assert cells["actor"] == r"opened by a\u202eb\nc"


def test_a_result_that_failed_has_no_error_and_no_time_of_one():
    cells = row(state=OPEN, last_error="", last_error_at=NOON)["cells"]
    assert (cells["error"], cells["error_at"]) == ("", None)


def test_an_endless_hold_has_no_next_trial():
    cells = row(**HELD)["cells"]
    assert (cells["retry"], cells["until"]) == ("", "until it is reset")


def test_processes_that_are_open_alone_are_told():
    assert row(alone_in=("one",))["cells"]["alone"] == "open alone in 1 of 4 processes"


def test_of_an_unknown_one_the_name_is_all():
    shown = rows.row(Key("default", "lost"), None, Read("default", None, NOON, NOON))
    assert (shown["look"], shown["cells"], shown["paths"]) == ("unknown", {}, {})
    assert shown["at"] == 0


NOW = 100_000 * MINUTE
STATS = Stats(NOW, 1e9, (Bucket(NOW - MINUTE, Counts(calls=60, rejected=3)),))


def test_calls_are_drawn_where_they_are_counted():
    shown = row(stats=STATS)
    assert (shown["cells"]["calls"], shown["cells"]["rejected"]) == (
        "1.0 calls/s",
        "3 rejected in 30 min",
    )
    assert shown["paths"]["spark"].startswith("M0 100L1 100L")


def test_rejections_of_before_the_line_are_not_counted():
    before = Bucket(NOW - charts.SPARKS * MINUTE, Counts(rejected=9))
    assert row(stats=Stats(NOW, 1e9, (before,)))["cells"]["rejected"] == ""


def figure(**given):
    known = status(**given) if given else None
    shown = rows.row(Key("default", "payments"), known, Read("default", None, NOON, NOON))
    return rows.with_figure(shown, known, [], SPANS["hour"])


def test_a_figure_is_of_calls_and_states():
    shown = figure(stats=STATS)
    assert shown["cells"]["sum_calls"] == "60 calls"
    assert shown["cells"]["states"] == "Closed 1 h"
    assert shown["cells"]["failures"] == "0 of 5 failures"
    assert shown["paths"]["bar_ok"]
    assert shown["paths"]["strip_closed"] == "M0.0 0.0h1000.0v100.0h-1000.0z"


@pytest.mark.parametrize("given", [{"reason": "uncounted"}, {}], ids=["uncounted", "unknown"])
def test_or_of_states_only(given):
    shown = figure(**given)
    assert "sum_calls" not in shown["cells"]
    assert "bar_ok" not in shown["paths"]


def test_a_line_of_the_history():
    event = Event(
        1,
        0,
        OPEN,
        OPEN,
        Mode.FORCED_OPEN,
        "hold",
        actor="anna",
        reason="a drill",
        last_error="Timeout",
        last_message="after 3 s",
        failures=2,
    )
    line = rows.history_line(datetime.now(UTC), event)
    assert (line["before"], line["after"], str(line["after_text"])) == ("open", "held", "Held open")
    assert (line["actor"], line["reason"], line["cause"]) == ("anna", "a drill", "Hold open")
    assert (line["last_error"], line["counts"]) == ("Timeout: after 3 s", "2 failures")
