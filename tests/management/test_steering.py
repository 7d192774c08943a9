"""The sub-commands that steer: what they bring about, refuse and say."""

from __future__ import annotations

import re

import pytest

from circuitbreaker_django import (
    CircuitBreaker,
    CircuitState,
    Mode,
)
from circuitbreaker_django.operations.room import ControlRoom
from tests.management.conftest import HOST, TIME, states, worker_kind

# -- status, several registries ----------------------------------------------------------------


@pytest.mark.usefixtures("two_registries")
def test_commands_are_for_one_registry(run, worker):
    assert run("trip", "stock").code == 2
    assert "no live process uses" in run("trip", "stock", "--registry", "other").err
    assert run("trip", "search").code == 0


# -- trip and reset ----------------------------------------------------------------------------


def test_trip_says_what_will_be_and_how_to_hold(run, worker, tmp_path):
    result = run("trip", "payments")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "payments: open. It will be tried again in 300 s, and may then close by itself; "
        "--hold or --for keeps it open.\n"
        f"Written to {tmp_path}/circuits.v1.sqlite3 on {HOST}; "
        f"it reaches 1 live process ({worker_kind(worker)}).\n"
    )
    assert worker.payments.state is CircuitState.OPEN
    assert worker.search.state is CircuitState.CLOSED


def test_trip_again_says_so_and_is_done(run, worker):
    run("trip", "payments")
    result = run("trip", "payments")
    assert result.code == 0
    assert "payments: open (it was open already). It will be tried again in 300 s" in result.out


def test_hold(run, worker, rows):
    result = run("trip", "payments", "--hold", "--reason", "moving house", "--actor", "anna")
    assert result.code == 0
    assert "payments: held open until reset.\n" in result.out
    assert worker.payments.mode is Mode.FORCED_OPEN
    row = rows()["payments"]
    assert (row["reason"], row["updated_by"]) == ("moving house", "anna")
    assert "held open until reset (it was open already)" in run("trip", "payments", "--hold").out


def test_trip_ends_no_hold(run, worker):
    run("trip", "payments", "--hold")
    result = run("trip", "payments")
    assert result.code == 0
    assert "payments: held open until reset, since a trip ends no hold.\n" in result.out


def test_reset(run, worker):
    run("trip", "payments", "--hold")
    assert run("reset", "payments").out.startswith("payments: closed.\n")
    assert worker.payments.state is CircuitState.CLOSED
    result = run("reset", "payments")
    assert result.code == 0
    assert result.out.startswith("payments: closed (it was already).\n")


def test_several_at_once(run, worker):
    assert run("trip", "payments", "search", "payments").out.count(": open. ") == 2
    assert states(worker) == [CircuitState.OPEN] * 2
    run("reset", "search", "payments")
    assert states(worker) == [CircuitState.CLOSED] * 2


def test_all_or_nothing(run, worker):
    result = run("trip", "payments", "serch")
    assert (result.code, result.out) == (2, "")
    assert "no breaker 'serch' in registry 'default'; did you mean search?" in result.err
    assert worker.payments.state is CircuitState.CLOSED


def test_trip_all_asks_nothing(run, worker, monkeypatch):
    monkeypatch.setattr("builtins.input", None)
    assert run("trip", "--all", "--no-input").code == 0
    assert states(worker) == [CircuitState.OPEN] * 2


def test_a_hold_in_memory_ends_with_a_restart(run, worker, monkeypatch):
    monkeypatch.setattr(ControlRoom, "in_memory", True)
    words = "It lies in memory: a restart of the host ends the hold."
    assert words in run("trip", "payments", "--hold").out
    assert words in run("trip", "payments", "--for", "1h").out
    assert words not in run("trip", "payments").out
    assert words not in run("reset", "payments").out


# -- the question ------------------------------------------------------------------------------


def test_a_trip_that_stops_nothing_says_so(run, worker):
    worker.payments.metrics_only()
    result = run("trip", "payments")
    assert result.code == 0
    assert result.out.startswith(
        "payments: metrics only still, since a trip ends no mode: its calls pass. "
        "--hold stops them.\n"
    )


# -- whom it reaches ---------------------------------------------------------------------------


def test_without_a_live_process_nothing_is_applied(run, worker, rows):
    worker.backend.close()
    result = run("trip", "payments")
    assert (result.code, result.out) == (2, "")
    assert "no live process uses" in result.err
    assert "another container" in result.err
    assert "--force" in result.err
    assert rows()["payments"]["state"] == "closed"


def test_force(run, worker, rows):
    worker.backend.close()
    result = run("trip", "payments", "--force")
    assert result.code == 0
    assert "it reaches no live process." in result.out
    assert rows()["payments"]["state"] == "open"


def test_only_force_makes_a_store(run, rows, tmp_path):
    for words in (
        ("status",),
        ("trip", "payments"),
        ("reset", "payments"),
        ("trip", "x", "--force"),
    ):
        run(*words)
        assert list(tmp_path.iterdir()) == []
    assert run("trip", "payments", "--force", "--hold").code == 0
    assert rows()["payments"]["mode"] == "forced_open"


@pytest.mark.usefixtures("process_local")
@pytest.mark.parametrize("name", ["trip", "reset"])
def test_a_process_local_registry_is_not_steered(run, name):
    result = run(name, "payments", "--force")
    assert (result.code, result.out) == (2, "")
    assert "keeps separate circuits in each process" in result.err


@pytest.mark.parametrize("name", ["trip", "reset"])
def test_a_switched_off_registry_is_not_steered(run, worker, settings_of_breakers, name):
    settings_of_breakers["default"]["ENABLED"] = False
    result = run(name, "payments", "--force")
    assert (result.code, result.out) == (2, "")
    assert "switched off" in result.err


# -- modes and history -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "mode"), [("disable", "disabled"), ("metrics-only", "metrics_only")]
)
def test_a_mode_is_begun_and_ended(run, rows, worker, word, mode):
    result = run(word, "payments", "--reason", "rollout", "--actor", "anna")
    words = mode.replace("_", " ")
    assert (result.code, result.out.splitlines()[0]) == (0, f"payments: {words}.")
    row = rows()["payments"]
    assert (row["state"], row["mode"], row["reason"], row["updated_by"]) == (
        "closed",
        mode,
        "rollout",
        "anna",
    )
    assert worker.payments.mode == mode
    result = run("enable", "payments")
    assert result.out.splitlines()[0] == "payments: closed."
    assert worker.payments.mode == "auto"
    assert run("enable", "payments").out.startswith("payments: closed (it was in no mode).")


@pytest.mark.parametrize("word", ["disable", "metrics-only"])
def test_a_mode_may_have_an_end(run, rows, worker, word):
    result = run(word, "payments", "--for", "10m")
    assert re.fullmatch(
        rf"payments: {word.removesuffix('-only')}.* until {TIME}\.", result.out.splitlines()[0]
    )
    assert rows()["payments"]["mode_until"] is not None
    assert run(word, "payments", "--for", "10").code == 2


def test_a_trip_ends_no_mode_and_says_so(run, worker):
    run("disable", "payments")
    assert run("trip", "payments").out.startswith(
        "payments: disabled still, since a trip ends no mode: its calls pass. --hold stops them."
    )


def test_a_mode_in_memory_is_said_to_end_with_the_host(run, worker, monkeypatch):
    monkeypatch.setattr(ControlRoom, "in_memory", True)
    assert "a restart of the host ends the mode." in run("disable", "payments").out
    assert "a restart of the host ends the hold." in run("trip", "payments", "--hold").out


# -- breakers by key ---------------------------------------------------------------------------


def test_one_that_nobody_has_told_of_can_be_steered_and_it_is_said(run, rows, family):
    result = run("trip", "tenant:new", "tenant:99", "--hold")
    assert result.code == 0
    assert result.out.splitlines()[:3] == [
        "tenant:new: held open until reset.",
        "tenant:99: held open until reset.",
        "No process has told of tenant:new yet.",
    ]
    assert rows("tenant:new")["tenant:new"]["state"] == "open"
    assert CircuitBreaker("tenant:new", backend=family[0].backend).state is CircuitState.OPEN
    assert "told of" not in run("reset", "tenant:new").out
    assert "new" in run("history", "tenant:new").out


def test_one_of_no_family_is_still_unknown(run, family):
    for name in ("host:a", "payments:a", "tenant:", "tenant:a~b", "tenant:\n"):
        assert run("trip", name).code == 2
        assert run("status", name).code == 2


def test_a_pattern_steers_all_that_are_known(run, rows, family):
    assert run("trip", "tenant:99?", "--hold", "--no-input").code == 0
    assert {name for name, row in rows().items() if row["mode"] == "forced_open"} == {
        f"tenant:99{digit}" for digit in range(10)
    }
    assert "no breaker fits 'tenant:x*'" in run("trip", "tenant:x*").err
