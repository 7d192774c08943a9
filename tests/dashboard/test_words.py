from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from circuitbreaker_django import CircuitState, Mode
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import CommandKind, Event
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.traffic import Counts
from circuitbreaker_django.dashboard import words
from circuitbreaker_django.operations.looks import Look
from tests.dashboard.made import status


@pytest.fixture
def utc():
    with timezone.override(UTC):
        yield


def test_every_look_has_a_word_of_its_own():
    assert len({str(words.LOOKS[look]) for look in Look}) == len(Look)


@pytest.mark.parametrize("use_tz", [True, False])
def test_a_time_has_its_zone_and_one_for_machines(settings, use_tz):
    settings.USE_TZ = use_tz
    settings.TIME_ZONE = "Europe/Zurich"
    at = datetime(2026, 1, 31, 23, 30, 5, tzinfo=UTC)
    assert words.moment(at) == ("2026-02-01 00:30:05 CET", "2026-02-01T00:30:05+01:00")


def test_it_is_the_current_zone():
    with timezone.override("America/New_York"):
        text, iso = words.moment(datetime(2026, 7, 1, 12, tzinfo=UTC))
    assert (text, iso) == ("2026-07-01 08:00:00 EDT", "2026-07-01T08:00:00-04:00")


@pytest.mark.usefixtures("utc")
def test_of_today_the_date_is_left_out():
    now = datetime(2026, 11, 25, 12, tzinfo=UTC)
    assert words.moment(now, now) == ("12:00:00 UTC", "2026-11-25T12:00:00+00:00")
    assert words.moment(now - timedelta(days=1), now).text == "2026-11-24 12:00:00 UTC"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, ""),
        ({"mode": Mode.FORCED_OPEN}, "until it is reset"),
        ({"mode": Mode.DISABLED}, "until it is enabled"),
        (
            {"mode": Mode.METRICS_ONLY, "mode_until": datetime(2026, 1, 1, tzinfo=UTC)},
            "until 2026-01-01 00:00:00 UTC",
        ),
    ],
)
@pytest.mark.usefixtures("utc")
def test_until_when_a_mode_lasts(given, text):
    assert words.until(status(**given)) == text


RATES = {"failure_rate_threshold": 0.5, "slow_call_duration": 2.0, "slow_call_rate_threshold": 0.25}


@pytest.mark.parametrize(
    ("policy", "given", "text"),
    [
        ({}, {"failures": 2}, "2 of 5 failures"),
        ({"consecutive_failures": 3}, {"failures": 1}, "1 failure"),
        ({"consecutive_failures": 3}, {"failures": 0}, "0 failures"),
        ({"slow_call_duration": 2.0}, {"slow_rate": 0.5}, "50 % slow (opens at 100 %)"),
        (RATES, {"calls_needed": 4}, "rates need 4 more calls"),
        (
            {**RATES, "failure_threshold": 9},
            {"calls_needed": 1},
            "0 of 9 failures; rates need 1 more call",
        ),
        (
            RATES,
            {"failure_rate": 0.125, "slow_rate": 0.0},
            "12 % failed (opens at 50 %); 0 % slow (opens at 25 %)",
        ),
    ],
)
def test_how_near_it_is_to_opening(policy, given, text):
    assert words.failures(status(policy=Policy(**policy), **given)) == text


def test_what_cannot_open_is_not_near_it():
    assert words.failures(status(mode=Mode.DISABLED)) == ""
    assert words.failures(status(state=CircuitState.OPEN)) == ""


def test_what_it_would_have_rejected_is_told_on_paper_only():
    assert words.would_reject(status(would_reject=3)) == ""
    on_paper = {"mode": Mode.METRICS_ONLY}
    assert words.would_reject(status(would_reject=0, **on_paper)) == ""
    assert words.would_reject(status(would_reject=1, **on_paper)) == "would have rejected 1 call"
    assert words.would_reject(status(would_reject=2, **on_paper)) == "would have rejected 2 calls"


@pytest.mark.parametrize(("calls", "text"), [(0, ""), (0.04, "< 0.1 calls/s")])
def test_calls_have_their_unit(calls, text):
    assert words.per_second(calls) == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"updated_by": ""}, ""),
        ({"state": CircuitState.OPEN}, "opened by anna"),
        ({"state": CircuitState.OPEN, "mode": Mode.FORCED_OPEN}, "held open by anna"),
        ({"mode": Mode.DISABLED}, "disabled by anna"),
        ({"mode": Mode.METRICS_ONLY}, "set to metrics only by anna"),
        ({}, "reset by anna"),
    ],
)
def test_who_did_what(given, text):
    assert words.actor(status(**{"updated_by": "anna", **given})) == text


def test_rejections_and_errors():
    assert words.rejected(0, 30) == ""
    assert words.rejected(35, 30) == "35 rejected in 30 min"
    assert words.error("Timeout", "") == "Timeout"
    assert words.error("Timeout", "after 3 s") == "Timeout: after 3 s"


def test_what_counted_at_an_event():
    event = Event(1, 0, CircuitState.CLOSED, CircuitState.OPEN, Mode.AUTO, "5 failures")
    assert words.counted(event) == ""
    full = Event(
        1, 0, CircuitState.CLOSED, CircuitState.OPEN, Mode.AUTO, "", failures=1, calls=12, slow=2
    )
    assert words.counted(full) == "12 calls, 1 failure, 2 slow"


def test_a_chart_in_numbers():
    counts = [Counts(calls=10, failures=2, slow=1), Counts(calls=5, rejected=7)]
    assert words.figure(counts, 12, 900) == {
        "sum_calls": "15 calls",
        "sum_failed": "2 failed",
        "sum_rejected": "7 rejected",
        "sum_slow": "1 slow",
        "most": "up to 12 in 15 min",
    }
    assert words.figure([], 1, 60)["sum_calls"] == "0 calls"


def test_for_how_long_it_was_what():
    assert (
        words.lengths({Look.CLOSED: 3480.2, Look.OPEN: 119.6, Look.HALF_OPEN: 0.1})
        == "Open 2 min, Closed 58 min"
    )


def test_a_countdown():
    assert words.next_trial(status()) == "next trial now"
    assert words.next_trial(status(retry_after=11.2)) == "next trial in 12 s"


def test_while_trials_run_no_call_is_promised_to_pass():
    assert words.next_trial(status(retry_after=0.0, trials_running=1)) == "1 trial is running"
    assert words.next_trial(status(retry_after=0.0, trials_running=2)) == "2 trials are running"


def test_what_other_processes_have_set_is_told():
    assert words.elsewhere(status()) == ""
    assert (
        words.elsewhere(status(elsewhere={"failure_threshold": 5, "quorum": 2}))
        == "other processes have failure_threshold = 5, quorum = 2"
    )
    many = {f"option_{number}": number for number in range(9)}
    assert words.elsewhere(status(elsewhere=many)).endswith("option_4 = 4, …")


def test_the_common_breaker_of_a_family_is_called_so():
    assert words.common(status()) == ""
    assert words.common(status(common_to="tenant:*")) == "common breaker of tenant:*"


# -- causes -----------------------------------------------------------------------------------


def test_all_orders_have_a_name():
    assert set(words.COMMANDS) == set(CommandKind)
    assert words.cause("reset") == "Reset"


def test_a_sentence_that_ends_with_an_error_is_translatable_too(monkeypatch):
    monkeypatch.setitem(words.CAUSES, "a trial failed", "ein Versuch schlug fehl")
    assert words.cause("a trial failed, last Down") == "ein Versuch schlug fehl, last Down"
    assert words.cause("3 failures within 60 s, last Down") == "3 failures within 60 s, last Down"


def test_fixed_sentences_of_the_core_are_translatable():
    written = (Path(core.__file__)).read_text()
    sentences = set(re.findall(r'(?:cause|why|why: str \| None) ?= ?"([^"]+)"', written))
    assert len(sentences) == 4
    assert sentences < words.CAUSES.keys()


def test_what_is_no_fixed_sentence_stays_as_it_is_kept():
    assert words.cause("3 failures within 60 s") == "3 failures within 60 s"
    assert words.reason(status(reason="trip")) == "Trip"
    assert words.reason(status(reason="trip", updated_by="ben")) == "trip"


# -- policies ---------------------------------------------------------------------------------


def sentences(**options):
    return [text for text, names in words.policy(Policy(**options))]


def test_the_default_policy_in_words():
    assert sentences() == [
        "Opens when 5 failures fall within 1 min.",
        "Tries again after 30 s.",
        "Closes after 1 successful trial.",
        "Lets 1 trial run at a time, and counts it as lost after 1 min.",
    ]


def test_a_rule_that_is_not_set_is_not_told():
    assert sentences(consecutive_failures=1)[0] == "Opens after 1 failure in one process."


def test_every_rule_in_words():
    assert sentences(
        failure_threshold=1,
        failure_rate_threshold=0.5,
        minimum_calls=20,
        slow_call_duration=2.5,
        slow_call_rate_threshold=0.25,
        consecutive_failures=3,
        quorum=2,
        recovery_backoff=1.5,
        recovery_timeout_max=600,
        recovery_jitter=0.1,
        half_open_max_calls=2,
        success_threshold=4,
        ramp_up=20,
        initial_mode="metrics_only",
    ) == [
        "Opens when 1 failure falls within 1 min.",
        "Opens when 50 % of at least 20 calls within 1 min fail.",
        "Opens when 25 % of at least 20 calls within 1 min take 2.5 s or longer.",
        "Opens after 3 failures in a row in one process.",
        "Opens for all only when 2 hosts have seen failures.",
        "Tries again after 30 s.",
        "Waits 1.5 times as long after each failed trial, up to 10 min.",
        "Waits up to 10 % longer by chance.",
        "Closes after 4 successful trials.",
        "Lets 2 trials run at a time, and counts each as lost after 1 min.",
        "Admits a growing share of the calls in the 20 s after it has closed.",
        "Begins in the mode “Metrics only”.",
    ]


def test_each_sentence_names_its_settings_and_where_they_are_set():
    [first, *_] = words.policy_with(Policy(failure_threshold=3), {"failure_threshold": "shop.py:3"})
    assert first == (
        "Opens when 3 failures fall within 1 min.",
        [("failure_threshold", "3", "shop.py:3"), ("failure_window", "60.0", "")],
    )
