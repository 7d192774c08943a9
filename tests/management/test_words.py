"""What the command says of processes that are cut off."""

from __future__ import annotations

import os
import re

from django.utils import translation

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.store import ProcessInfo
from circuitbreaker_django.operations.room import silence as silence_in_words
from tests.management.conftest import states

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
    assert re.search(f"so nothing was done\\. {SILENT}\\. {advice}", result.err)
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

    monkeypatch.setattr("circuitbreaker_django.dashboard.words._", translated)
    worker.payments.trip()
    assert "0 s ago" in run("status").out
    assert "translated" not in run("status").out
