"""``breaker history``."""

from __future__ import annotations

import json
import re

from tests.management.conftest import TIME


def test_history_says_what_when_and_who(run, worker):
    assert run("history").out == "Nothing has happened yet.\n"
    worker.payments.trip(reason="a drill", actor="anna")
    worker.search.disable()
    lines = run("history").out.splitlines()
    assert [re.sub(TIME, "TIME", line) for line in lines] == [
        "TIME  search  closed -> closed  [disabled]  disable",
        "TIME  payments  closed -> open  trip by anna (a drill)",
    ]
    assert run("history", "--limit", "1").out.splitlines() == lines[:1]
    assert run("history", "payments").out.splitlines() == lines[1:]


def test_history_as_json(run, worker):
    worker.payments.trip(reason="a drill", actor="anna")
    [event] = json.loads(run("history", "--format", "json").out)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event.pop("at"))
    assert event == {
        "registry": "default",
        "name": "payments",
        "before": "closed",
        "after": "open",
        "mode": "auto",
        "cause": "trip",
        "actor": "anna",
        "reason": "a drill",
        "failures": 0,
        "calls": 0,
        "slow": 0,
        "last_error": None,
        "last_error_message": None,
    }


def test_history_of_nobody_and_of_no_length_is_refused(run, worker):
    assert run("history", "unheard-of").code == 2
    assert "give a number of at least 1" in run("history", "--limit", "0").err


def test_history_without_a_store(run):
    assert run("history").out == "Nothing has happened yet.\n"
