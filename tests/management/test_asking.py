"""Who is at the command line, and what he is asked."""

from __future__ import annotations

import getpass

import pytest

from circuitbreaker_django import (
    CircuitState,
)
from tests.management.conftest import HOST, states

# -- the question ------------------------------------------------------------------------------


@pytest.fixture
def answer(monkeypatch):
    """What is typed, and what was asked."""
    asked = []

    def use(text):
        def ask(question):
            asked.append(question)
            if isinstance(text, str):
                return text
            raise text

        monkeypatch.setattr("builtins.input", ask)
        return asked

    return use


@pytest.mark.parametrize("text", ["y", "Yes", " YES "])
def test_reset_of_all_is_done_after_a_yes(run, worker, answer, text):
    asked = answer(text)
    worker.payments.trip()
    assert run("reset", "--all").code == 0
    assert asked == ["Close 2 circuits, for every process? [y/N] "]
    assert worker.payments.state is CircuitState.CLOSED


@pytest.mark.parametrize("names", ["--all", "*", "[ps]*"])
@pytest.mark.parametrize(
    ("words", "question"),
    [
        ("trip", "Open"),
        ("trip --hold", "Hold open"),
        ("trip --for 1h", "Hold open"),
        ("reset", "Close"),
        ("disable", "Disable"),
        ("metrics-only", "Let pass, and count only, the calls of"),
        ("enable", "End the modes of"),
    ],
)
def test_every_command_asks_before_breakers_that_were_not_named(
    run, worker, answer, names, words, question
):
    asked = answer("n")
    result = run(*words.split(), names)
    assert asked == [f"{question} 2 circuits, for every process? [y/N] "]
    assert (result.code, states(worker)) == (2, ["closed", "closed"])
    assert run(*words.split(), names, "--no-input").code == 0
    assert run(*words.split(), "payments", "search").code == 0
    assert run(*words.split(), "pay*").code == 0
    assert len(asked) == 1


@pytest.mark.parametrize("text", ["", "n", "yeah", EOFError, KeyboardInterrupt])
def test_and_after_nothing_else(run, worker, answer, text):
    answer(text)
    worker.payments.trip()
    result = run("reset", "--all")
    # What was never answered still ends its line.
    assert (result.code, result.out) == (2, "" if isinstance(text, str) else "\n")
    assert "nothing was done" in result.err
    assert worker.payments.state is CircuitState.OPEN


@pytest.mark.parametrize("words", [("--all", "--no-input"), ("--all", "--noinput"), ("payments",)])
def test_no_question(run, worker, answer, words):
    asked = answer(RuntimeError)
    worker.payments.trip()
    assert run("reset", *words).code == 0
    assert asked == []
    assert worker.payments.state is CircuitState.CLOSED


def test_nobody_is_asked_about_what_cannot_be_done(run, worker, answer):
    asked = answer("y")
    worker.backend.close()
    assert run("reset", "--all").code == 2
    assert asked == []


# -- who ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "login", "actor"),
    [
        ({"SUDO_USER": "anna"}, "root", f"anna@{HOST}"),
        ({"SUDO_USER": ""}, "bert", f"bert@{HOST}"),
        ({}, "bert", f"bert@{HOST}"),
        ({}, KeyError("uid not found"), f"uid:4711@{HOST}"),
        ({}, OSError("no username"), f"uid:4711@{HOST}"),
    ],
)
@pytest.mark.parametrize("words", [[], ["--actor", ""]])
def test_actor(run, worker, rows, monkeypatch, environment, login, actor, words):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)

    def getuser():
        if isinstance(login, str):
            return login
        raise login

    monkeypatch.setattr(getpass, "getuser", getuser)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    run("trip", "payments", *words)
    assert rows()["payments"]["updated_by"] == actor
