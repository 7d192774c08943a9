"""What the command says of processes that are cut off, or that run with other settings."""

from __future__ import annotations

import os
import re

from django.utils import translation

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.store import Declaration, ProcessInfo
from circuitbreaker_django.operations.room import silence as silence_in_words
from tests.management.conftest import HOST, states

SILENT = (
    rf"1 process was not heard of for \d+ s \(pid {os.getpid()}\): it may be cut off from the "
    r"store and go on alone \(its log says why\), be idle where no threads run, or be gone"
)


def test_a_process_that_was_not_heard_of_is_told_as_such_and_not_as_live(run, worker, silence):
    silence(40)
    out = run("status").out
    assert "Attached: no live process\n" in out
    assert re.search(f"^{SILENT}\\.$", out, re.MULTILINE)


def test_an_order_is_refused_that_only_silent_processes_would_hear_of(run, worker, silence):
    silence(9)
    result = run("trip", "payments", "--hold")
    assert result.code == 2
    advice = "The command breaker does it anyway with --force"
    assert re.search(f"nothing was done: no live process .*\\. {SILENT}\\. {advice}", result.err)
    assert states(worker) == ["closed", "closed"]


def test_an_order_says_whom_it_does_not_reach(run, worker, silence, tmp_path):
    silence(40)
    other = SQLiteBackend(tmp_path / "circuits.sqlite3")
    other.threads = False
    CircuitBreaker("payments", backend=other).call(lambda: None)
    result = run("trip", "payments", "--hold")
    other.close()
    assert result.code == 0
    assert "it reaches 1 live process (" in result.out
    assert re.search(f"^Not reached: {SILENT}\\.$", result.out, re.MULTILINE)


def test_many_silent_processes_are_counted_and_some_are_named():
    crowd = {ProcessInfo("a", pid, "job", 1.0, "", ""): 10.0 + pid for pid in range(1, 13)}
    assert silence_in_words(crowd).startswith(
        "12 processes were not heard of for 22 s (pid 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …): they may "
    )


def test_it_says_all_of_it_in_english(run, worker, monkeypatch):
    """Also what the dashboard says in the reader's language."""

    def translated(text):
        return text if translation.get_language() is None else f"translated {text}"

    monkeypatch.setattr("circuitbreaker_django.operations.words._", translated)
    worker.payments.trip()
    assert "0 s ago" in run("status").out
    assert "translated" not in run("status").out


# -- processes that run with other settings ---------------------------------------------------


def test_where_settings_differ_it_says_whose_are_shown_and_what_others_have(
    run, rows, worker, settings_of_breakers
):
    settings_of_breakers["default"]["BREAKERS"]["payments"] = {"failure_threshold": 7}
    worker.backend.digest = "x"
    policy = {"failure_threshold": 3, "success_threshold": 1, "quorum": "\x1b[2J"}
    worker.backend.declare(Declaration("payments", policy, "shop.py:1"))
    worker.backend.publish()
    result = run("status")
    assert "payments  closed  0 of 7" in result.out
    assert (
        "Other settings than this command's are in force in 1 of 1 live processes "
        f"({HOST}:{os.getpid()}); what is shown goes by this command's, where the others have "
        r"payments: failure_threshold 3, payments: quorum \x1b[2J." in result.out
    )
    assert rows("payments")["payments"]["elsewhere"] == {
        "failure_threshold": 3,
        "quorum": "\x1b[2J",
    }


def test_what_was_told_by_processes_that_are_gone_differs_from_nothing(
    run, rows, worker, settings_of_breakers
):
    settings_of_breakers["default"]["BREAKERS"]["payments"] = {"failure_threshold": 7}
    worker.backend.digest = "x"
    worker.backend.declare(Declaration("payments", {"failure_threshold": 3}, "shop.py:1"))
    worker.backend.publish()
    worker.backend.close()
    assert rows()["payments"]["elsewhere"] == {}
    assert "Other settings" not in run("status").out


def test_of_many_that_differ_some_are_listed_and_more_verbose_all(
    run, worker, settings_of_breakers
):
    settings_of_breakers["default"]["BREAKERS"] = {
        f"b{number}": {"failure_threshold": 7} for number in range(7)
    }
    worker.backend.digest = "x"
    for number in range(7):
        worker.backend.declare(Declaration(f"b{number}", {"failure_threshold": 3}, "shop.py:1"))
    worker.backend.publish()
    assert "b4: failure_threshold 3, …." in run("status").out
    assert "b6: failure_threshold 3." in run("status", "-v2").out
