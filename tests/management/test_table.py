"""The table of ``breaker status``."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from circuitbreaker_django import (
    CircuitBreaker,
    CircuitOpenError,
)
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.core.circuit import MAX_TEXT
from circuitbreaker_django.core.policy import Policy
from tests.management.conftest import HOST, NOTHING, TIME, calls


def test_columns_without_a_word_are_left_out(run, worker):
    assert run("status").out.splitlines()[:3] == [
        "BREAKER   STATE   FAILURES",
        "payments  closed  0 of 5",
        "search    closed  0 of 5",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "open  +5 min"),
        ({"hold": True}, "held open until reset"),
        ({"duration": 7200.0}, f"held open until {TIME}  2 h"),
        ({"duration": 1e-5}, "half-open  now"),
    ],
)
def test_states_are_in_words(run, worker, options, words):
    worker.payments.trip(**options)
    assert re.search(f"payments +{words}", run("status", "payments").out)


def test_long_texts_are_cut_in_the_table_only(run, worker, rows):
    worker.payments.trip(reason="why " * 1000)
    line = run("status").out.splitlines()[1]
    assert len(line) < 200
    assert line.endswith("why why…")
    assert rows()["payments"]["reason"] == ("why " * 1000)[:MAX_TEXT]


def test_what_would_have_been_rejected_is_shown(run, rows, worker):
    worker.payments.metrics_only()
    worker.payments.trip()
    for _ in range(3):
        worker.payments.call(lambda: None)
    worker.backend._flush(worker.backend._here(), 1)
    assert rows()["payments"]["would_reject"] == 3
    assert "WOULD REJECT" in run("status").out
    assert "3 calls" in run("status").out


def test_failures_have_no_threshold_where_a_rate_decides(run, worker, settings_of_breakers):
    settings_of_breakers["default"]["BREAKERS"]["search"] = {"failure_rate_threshold": 0.5}
    assert re.search(r"^search +closed +0 of 50 %$", run("status").out, re.M)


def test_calls_per_second_and_rejections_are_shown(run, rows, worker):
    calls(worker.search, 600)
    worker.payments.trip()
    for _ in range(7):
        with pytest.raises(CircuitOpenError):
            worker.payments.call(lambda: None)
    worker.backend.publish()
    shown = rows()
    assert 5 <= shown["search"]["calls_per_second"] <= 10
    assert shown["search"]["last_hour"] == {**NOTHING, "calls": 600}
    assert shown["payments"]["last_hour"] == {**NOTHING, "calls": 1, "rejected": 7}
    table = run("status").out
    assert "CALLS/S  REJECTED/H" in table
    assert re.search(r"^payments +open +5 min +< 0.1 +7 ", table, re.M)


def test_nothing_is_shown_of_calls_that_nobody_counts(run, rows, worker, settings_of_breakers):
    worker.backend.publish()
    settings_of_breakers["default"]["STATS_INTERVAL"] = 0
    row = rows()["payments"]
    assert [row[key] for key in ("calls_per_second", "last_minute", "last_hour")] == [None] * 3
    assert "CALLS/S" not in run("status").out


def test_rates_are_shown_and_what_they_lack(run, rows, worker, settings_of_breakers):
    policy: dict[str, Any] = {
        "failure_threshold": None,
        "failure_rate_threshold": 0.5,
        "slow_call_duration": 9,
        "minimum_calls": 10,
    }
    settings_of_breakers["default"]["BREAKERS"]["pay"] = policy
    breaker = CircuitBreaker("pay", backend=worker.backend, **policy)
    calls(breaker, 3, OSError("refused"))
    row = rows()["pay"]
    assert (row["failure_rate"], row["slow_rate"], row["calls_needed"]) == (0.25, 0.0, 6)
    assert re.search(r"^pay +closed +rates need 6 more calls\b", run("status").out, re.M)
    calls(breaker, 5, OSError("refused"))
    worker.backend._keep_contributions()
    worker.backend._flush(worker.backend._here(), 1)
    row = rows()["pay"]
    assert (row["failure_rate"], row["calls_needed"]) == (0.2, 0)
    table = run("status").out
    assert re.search(r"^pay +closed +20 of 50 %, slow 0 of 100 %", table, re.M)
    breaker.trip()
    row = rows()["pay"]
    assert (row["failure_rate"], row["slow_rate"], row["calls_needed"]) == (None, None, 0)


def test_failures_in_a_row_are_of_each_process_and_nothing_to_show(
    run, worker, settings_of_breakers
):
    settings_of_breakers["default"]["BREAKERS"]["search"] = {"consecutive_failures": 3}
    assert re.search(r"^search +closed$", run("status").out, re.M)


def test_the_wide_table_says_the_time_and_the_place(run, worker):
    worker.payments.trip()
    assert re.search(rf" 0 s ago \({TIME}\) .*settings", run("status", "-v", "2").out)


def test_a_circuit_that_one_process_has_open_alone_says_so(
    run, rows, worker, settings_of_breakers, tmp_path
):
    settings_of_breakers["default"]["BREAKERS"]["pay"] = {"quorum": 2}
    sick = SQLiteBackend(tmp_path / "circuits.sqlite3")
    sick.threads = False
    breaker = CircuitBreaker("pay", failure_threshold=1, quorum=2, backend=sick)
    calls(breaker, 0, OSError())
    sick.publish()
    row = rows()["pay"]
    assert (row["state"], row["open_alone_in"]) == ("closed", [f"{HOST}:{os.getpid()}"])
    table = run("status").out
    assert re.search(r"^pay +closed, open alone in 1 of 2 processes +1 of 5", table, re.M)
    assert "Attached: 2 live processes" in table
    sick.close()
    assert rows()["pay"]["open_alone_in"] == []


def test_a_trial_that_runs_is_seen(run, rows, worker, settings_of_breakers):
    settings_of_breakers["default"]["BREAKERS"]["payments"] = {"half_open_max_calls": 2}
    worker.payments.policy = Policy(half_open_max_calls=2)
    worker.payments.trip(duration=1e-5)

    def look():
        return rows()["payments"]["trials_running"], run("status").out.splitlines()[1]

    def inner_trial():
        count, line = look()
        assert (count, re.sub(r" +", " ", line)[:46]) == (
            2,
            "payments half-open, 2 trials running 0 s ago t",
        )

    def outer_trial():
        count, line = look()
        assert count == 1
        assert re.match(r"payments +half-open, 1 trial running +now +", line)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(worker.payments.call, inner_trial).result()

    worker.payments.call(outer_trial)
    assert look()[0] == 0


def test_what_is_open_comes_first_and_equals_by_name(run, rows, worker, settings_of_breakers):
    names = ["closed", "disabled", "half-open", "held", "metrics", "open-1", "open-2"]
    settings_of_breakers["default"]["BREAKERS"] = {name: {} for name in names}
    breakers = {name: CircuitBreaker(name, backend=worker.backend) for name in names}
    breakers["disabled"].disable()
    breakers["half-open"].trip(duration=1e-5)
    breakers["held"].trip(hold=True)
    breakers["metrics"].metrics_only()
    breakers["open-2"].trip()
    breakers["open-1"].trip()
    shown = [line.split()[0] for line in run("status").out.splitlines()[1:8]]
    assert shown == ["open-1", "open-2", "held", "half-open", "disabled", "metrics", "closed"]
    assert list(rows()) == names
