"""What the sub-commands take: durations, and Django's own options before and after them."""

from __future__ import annotations

import re

import pytest

from circuitbreaker_django import (
    CircuitState,
)
from tests.management.conftest import TIME

# -- options of Django's, before and after the sub-command -------------------------------------


@pytest.mark.parametrize(
    "words",
    [("--traceback", "status", "unheard-of"), ("status", "unheard-of", "--traceback")],
)
def test_traceback(run, words):
    result = run(*words)
    assert result.code == 2
    assert "Traceback" in result.err
    assert "UnknownBreakerError" in result.err


@pytest.mark.parametrize(
    "words",
    [
        ("--force-color", "status"),
        ("status", "--force-color"),
        ("status", "--force-color", "payments"),
    ],
)
def test_force_color(run, worker, words):
    assert "\x1b[32;1mpayments" in run(*words).out


def test_no_color_may_be_said_by_the_environment(run, worker, monkeypatch):
    monkeypatch.setattr("django.core.management.color.supports_color", lambda: True)
    monkeypatch.delenv("DJANGO_COLORS", raising=False)
    monkeypatch.setenv("NO_COLOR", "")
    assert "\x1b" in run("status").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("status").out
    assert "\x1b" not in run("status", "unheard-of").err
    assert "\x1b" in run("status", "--force-color").out


@pytest.mark.parametrize(
    "words", [("-v0", "trip", "payments"), ("trip", "payments", "--verbosity", "0")]
)
def test_verbosity_0_is_silent(run, worker, words):
    result = run(*words)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert worker.payments.state is CircuitState.OPEN


@pytest.mark.parametrize("name", ["status", "trip", "reset"])
def test_every_sub_command_takes_all_of_them(run, worker, name):
    options = ["--no-color", "-v", "1", "--settings", "tests.settings", "--pythonpath", "/tmp"]
    assert run(name, "payments", *options).code == 0


@pytest.mark.parametrize("words", [("--help",), ("status", "--help"), ("trip", "-h")])
def test_help(run, words):
    result = run(*words)
    assert result.code == 0
    assert "breaker" in result.out


# -- trip and reset ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90s", 90),
        ("10m", 600),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1h1m1s", 3661),
        ("1h0m5s", 3605),
        ("277777h", 277777 * 3600),
    ],
)
def test_hold_for_a_while(run, worker, rows, text, length):
    result = run("trip", "payments", "--for", text)
    assert re.search(rf"payments: held open until {TIME}\.\n", result.out)
    assert rows()["payments"]["retry_after"] == pytest.approx(length, abs=5)


@pytest.mark.parametrize(
    "text",
    [
        *("90", "", " 5m", "5 m", "m", "1d", "1.5h", "-5m", "30m1h", "5M", "٣h"),
        *("9" * 5000, "1h\x1b[31m"),
    ],
)
def test_what_is_no_duration_is_refused(run, worker, text):
    result = run("trip", "payments", f"--for={text}")
    assert (result.code, result.out) == (2, "")
    assert "give a duration with its unit, as 90s, 10m, 2h or 1h30m" in result.err
    assert "\x1b" not in result.err
    assert worker.payments.state is CircuitState.CLOSED


@pytest.mark.parametrize("text", ["0s", "0h0m", "277778h", "999999999h"])
def test_a_duration_of_nothing_or_for_ever_is_refused(run, worker, text):
    result = run("trip", "payments", f"--for={text}")
    assert (result.code, result.out) == (2, "")
    assert f"--for {text}: give a duration with its unit, as 90s" in result.err
    assert "from 1s to 277777h" in result.err
