"""``manage.py breaker``: what it prints, asks, refuses and exits with."""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import socket
import sqlite3
import sys
import types
from contextlib import closing
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from circuitbreaker_django import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Mode,
)
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.store import Declaration, ProcessInfo
from circuitbreaker_django.core.circuit import MAX_TEXT
from circuitbreaker_django.core.traffic import Counts
from circuitbreaker_django.management.commands import breaker as module
from circuitbreaker_django.management.table import per_second
from circuitbreaker_django.operations.catalogue import Catalogue
from circuitbreaker_django.operations.room import ControlRoom
from circuitbreaker_django.operations.room import silence as silence_in_words
from tests.core.calls import fail

HOST = socket.gethostname()
NOTHING = Counts()._asdict()
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@pytest.fixture
def settings_of_breakers(tmp_path):
    """``CIRCUIT_BREAKERS`` of the command; a test may change it."""
    return {
        "default": {
            "LOCATION": str(tmp_path / "circuits.sqlite3"),
            "BREAKERS": {"payments": {"recovery_timeout": 300}, "search": {}},
        }
    }


@pytest.fixture(autouse=True)
def outside(monkeypatch, settings_of_breakers):
    """Not inside of Django's test environment, for the command: it looks at real stores."""
    monkeypatch.setattr("circuitbreaker_django.operations.room.in_test_environment", lambda: False)
    monkeypatch.delenv("SUDO_USER", raising=False)


@pytest.fixture
def worker(tmp_path):
    """A process that serves: a backend of its own at the same place, and breakers in use."""
    backend = SQLiteBackend(tmp_path / "circuits.sqlite3")
    backend.threads = False
    worker = types.SimpleNamespace(
        backend=backend,
        payments=CircuitBreaker("payments", recovery_timeout=300, backend=backend),
        search=CircuitBreaker("search", backend=backend),
    )
    worker.payments.call(lambda: None)
    yield worker
    backend.close()


def states(worker):
    return [worker.payments.state, worker.search.state]


@pytest.fixture
def run(settings_of_breakers, capsys):
    """Runs the command as from a command line."""

    def run_command(*words):
        out, err = io.StringIO(), io.StringIO()
        command = module.Command(stdout=out, stderr=err)
        code: object = 0
        with override_settings(CIRCUIT_BREAKERS=settings_of_breakers):
            try:
                command.run_from_argv(["manage.py", "breaker", *words])
            except SystemExit as end:
                code = end.code
        usage = capsys.readouterr()
        return types.SimpleNamespace(
            code=code, out=out.getvalue() + usage.out, err=err.getvalue() + usage.err
        )

    return run_command


@pytest.fixture
def rows(run):
    """What ``status --format json`` says, by name."""

    def read(*words):
        return {row["name"]: row for row in json.loads(run("status", "--format=json", *words).out)}

    return read


@pytest.fixture
def silence(tmp_path):
    """Makes all processes ones that were not heard of for so many seconds."""

    def age(seconds):
        with closing(sqlite3.connect(tmp_path / "circuits.v1.sqlite3")) as connection, connection:
            connection.execute("UPDATE processes SET seen_at = seen_at - ?", (seconds * 1_000_000,))

    return age


# -- processes that are cut off ---------------------------------------------------------------


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


# -- status, text -----------------------------------------------------------------------------


def test_status_is_a_table_and_what_it_was_read_from(run, worker, tmp_path):
    worker.backend.digest = "x"
    worker.payments.trip(reason="a drill", actor="anna")
    result = run("status")
    assert result.code == 0
    assert re.sub(r"\d s", "0 s", result.out) == (
        "BREAKER   STATE   RETRY IN  FAILURES  SINCE    WHY      WHO\n"
        "payments  open    5 min               0 s ago  a drill  anna\n"
        "search    closed            0 of 5\n"
        "\n"
        f"Backend: SQLiteBackend at {tmp_path}/circuits.v1.sqlite3\n"
        f"Attached: 1 live process ({worker_kind(worker)})\n"
        "Other settings than this command's are in force in 1 of 1 live processes.\n"
        "\n"
    )


def test_more_verbose_it_says_which_processes_run_with_other_settings(run, worker):
    worker.backend.digest = "x"
    worker.payments.trip()
    worker.backend.publish()
    line = "Other settings than this command's are in force in 1 of 1 live processes"
    assert f"{line} ({HOST}:{os.getpid()}).\n" in run("status", "-v", "2").out
    assert f"{line}.\n" in run("status").out


def worker_kind(worker):
    [process] = worker.backend.overview().processes
    return f"1 {process.kind}"


def test_columns_without_a_word_are_left_out(run, worker):
    assert run("status").out.splitlines()[:3] == [
        "BREAKER   STATE   FAILURES",
        "payments  closed  0 of 5",
        "search    closed  0 of 5",
    ]


def test_more_verbose_it_says_where_they_are_declared(run, worker):
    assert "settings.CIRCUIT_BREAKERS" in run("status", "-v2").out
    assert "settings.CIRCUIT_BREAKERS" not in run("status").out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "open  +5 min"),
        ({"hold": True}, "held open until reset"),
        ({"duration": 7200.0}, f"held open until {TIME}  2 h"),
        ({"duration": 1e-5}, "half-open  0 s"),
    ],
)
def test_states_are_in_words(run, worker, options, words):
    worker.payments.trip(**options)
    assert re.search(f"payments +{words}", run("status", "payments").out)


@pytest.mark.parametrize(
    ("options", "colour"),
    [(None, "32"), ({}, "31"), ({"hold": True}, "31"), ({"duration": 1e-5}, "33")],
)
def test_and_in_colour(run, worker, options, colour):
    if options is not None:
        worker.payments.trip(**options)
    line = run("status", "--force-color").out.splitlines()[1]
    assert line.startswith(f"\x1b[{colour};1mpayments")
    assert line.endswith("\x1b[0m")
    assert "\x1b" not in run("status", "--no-color").out


def test_only_the_names_asked_for(run, worker):
    assert "payments" not in run("status", "search").out.partition("Backend")[0]


def test_where_nothing_is_known(run, settings_of_breakers, tmp_path):
    settings_of_breakers["default"]["BREAKERS"] = {}
    result = run("status")
    assert result.code == 0
    assert result.out.startswith("No breakers are known. Those of BREAKERS in the settings")
    assert "No process has used a breaker yet: there is no " in result.out
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_worker_disappears(run, worker):
    worker.backend.close()
    assert "Attached: no live process\n" in run("status").out


def test_a_switched_off_registry_says_so(run, worker, settings_of_breakers):
    settings_of_breakers["default"]["ENABLED"] = False
    assert (
        "Registry 'default' is switched off (ENABLED is False): all calls pass."
        in run("status").out
    )


@pytest.fixture
def process_local(settings_of_breakers):
    settings_of_breakers["default"]["BACKEND"] = (
        "circuitbreaker_django.backends.memory.MemoryBackend"
    )


@pytest.mark.usefixtures("process_local")
def test_a_process_local_registry_says_so(run):
    result = run("status")
    assert result.code == 0
    assert "Backend: MemoryBackend at the memory of this process" in result.out
    assert "keeps circuits in each process alone" in result.out
    assert "Attached" not in result.out
    result = run("status", "--format", "json")
    assert "keeps circuits in each process alone" in result.err
    assert len(json.loads(result.out)) == 2


# -- status, several registries ---------------------------------------------------------------


@pytest.fixture
def two_registries(settings_of_breakers, tmp_path):
    settings_of_breakers["other"] = {
        "LOCATION": str(tmp_path / "other.sqlite3"),
        "BREAKERS": {"search": {}, "stock": {}},
    }


@pytest.mark.usefixtures("two_registries")
def test_every_registry_is_shown(run, rows):
    out = run("status").out
    assert out.index("Registry default") < out.index("payments") < out.index("Registry other")
    shown = json.loads(run("status", "--format=json").out)
    assert [(row["registry"], row["name"]) for row in shown] == [
        ("default", "payments"),
        ("default", "search"),
        ("other", "search"),
        ("other", "stock"),
    ]


@pytest.mark.usefixtures("two_registries")
def test_or_the_one_asked_for(run, rows):
    assert set(rows("--registry", "other")) == {"search", "stock"}
    assert run("status", "--registry=other", "payments").code == 2


@pytest.mark.usefixtures("two_registries")
def test_a_name_need_be_known_in_one_of_them(run, rows):
    assert set(rows("stock")) == {"stock"}
    result = run("status", "stock", "paymnts")
    assert result.code == 2
    assert (
        "no breaker 'paymnts' in registry 'default' or registry 'other'; did you mean payments?"
        in result.err
    )


@pytest.mark.usefixtures("two_registries")
def test_commands_are_for_one_registry(run, worker):
    assert run("trip", "stock").code == 2
    assert "no live process uses" in run("trip", "stock", "--registry", "other").err
    assert run("trip", "search").code == 0


def test_a_registry_that_is_not_there(run):
    result = run("status", "--registry", "defualt")
    assert result.code == 2
    assert "there is no registry 'defualt'" in result.err


# -- status, JSON -----------------------------------------------------------------------------


def test_json_of_a_closed_circuit(rows, worker):
    assert rows()["search"] == {
        "registry": "default",
        "name": "search",
        "state": "closed",
        "mode": "auto",
        "mode_until": None,
        "reason": None,
        "updated_by": None,
        "since": None,
        "retry_after": None,
        "failures": 0,
        "would_reject": 0,
        "failure_rate": None,
        "slow_rate": None,
        "calls_needed": 0,
        "calls_per_second": 0.0,
        "last_minute": NOTHING,
        "last_hour": NOTHING,
        "open_alone_in": [],
        "last_error": None,
        "last_error_message": None,
        "last_error_at": None,
        "family": None,
    }


def test_json_of_an_open_circuit(rows, worker):
    worker.payments.trip(reason="a drill", actor="anna")
    row = rows()["payments"]
    assert (row["state"], row["mode"], row["mode_until"]) == ("open", "auto", None)
    assert (row["reason"], row["updated_by"]) == ("a drill", "anna")
    assert re.fullmatch(ISO, row["since"])
    assert 290 < row["retry_after"] <= 300


def test_json_of_a_held_circuit(rows, worker):
    worker.payments.trip(hold=True)
    row = rows()["payments"]
    assert (row["state"], row["mode"]) == ("open", "forced_open")
    assert (row["mode_until"], row["retry_after"]) == (None, None)
    worker.payments.trip(duration=60)
    row = rows()["payments"]
    assert re.fullmatch(ISO, row["mode_until"])
    assert 50 < row["retry_after"] <= 60


def test_json_of_a_half_open_circuit(rows, worker):
    worker.payments.trip(duration=1e-5)
    row = rows()["payments"]
    assert (row["state"], row["mode"], row["retry_after"]) == ("half_open", "auto", 0)


def test_json_counts_failures(rows, worker):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            worker.search.call(lambda: 1 / 0)
    assert rows()["search"]["failures"] == 2


# -- exit codes -------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize(
    ("options", "code"), [(None, 0), ({}, 1), ({"hold": True}, 1), ({"duration": 1e-5}, 0)]
)
def test_fail_on_open(run, worker, options, code, format):
    if options is not None:
        worker.payments.trip(**options)
    result = run("status", "--fail-on-open", "--format", format)
    assert result.code == code
    assert "search" in result.out
    assert run("status", "--fail-on-open", "search").code == 0
    assert run("status").code == 0


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("explode",),
        ("trip",),
        ("reset",),
        ("trip", "--all", "payments"),
        ("trip", "payments", "--hold", "--for", "1m"),
        ("trip", "unheard-of"),
        ("status", "unheard-of"),
        ("status", "--format", "yaml"),
        ("status", "--no-color", "--force-color"),
        ("--no-color", "status", "--force-color"),
        ("trip", "payments", "--nonsense"),
    ],
)
def test_whatever_is_asked_wrongly_ends_with_2(run, worker, words):
    result = run(*words)
    assert (result.code, result.out) == (2, "")
    assert worker.payments.state is CircuitState.CLOSED


def test_wrong_settings_are_told_in_one_line(run, settings_of_breakers):
    settings_of_breakers["default"].update(NAMEPSACE="x", BREAKERS={"x": {"treshold": 1}})
    result = run("status")
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert result.err.startswith("CommandError: ")
    assert "NAMEPSACE" in result.err
    assert "treshold" in result.err


def test_a_corrupt_store_is_told_in_one_line(run, worker, tmp_path):
    worker.payments.trip()
    with sqlite3.connect(tmp_path / "circuits.v1.sqlite3") as connection:
        connection.execute("UPDATE circuits SET record = 'garbage'")
    connection.close()
    for words in (["status"], ["trip", "payments"]):
        result = run(*words)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert f"{tmp_path}/circuits.v1.sqlite3 cannot be used: " in result.err


def test_a_busy_store_confirms_nothing(run, worker, tmp_path):
    connection = sqlite3.connect(tmp_path / "circuits.v1.sqlite3", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    result = run("trip", "payments", "search")
    connection.execute("ROLLBACK")
    connection.close()
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "nothing was applied: another process is writing" in result.err
    assert states(worker) == [CircuitState.CLOSED] * 2


def test_a_fault_of_ours_ends_with_2_and_says_all(run, monkeypatch):
    monkeypatch.setattr(Catalogue, "names", lambda *args: 1 / 0)
    result = run("status", "--fail-on-open")
    assert result.code == 2
    assert "Traceback" in result.err
    assert "ZeroDivisionError" in result.err


# -- options of Django's, before and after the sub-command ------------------------------------


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


# -- trip and reset ---------------------------------------------------------------------------


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
    assert f"--for {text}: give a duration from 1s to 277777h" in result.err


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


# -- the question -----------------------------------------------------------------------------


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


def test_a_trip_that_stops_nothing_says_so(run, worker):
    worker.payments.metrics_only()
    result = run("trip", "payments")
    assert result.code == 0
    assert result.out.startswith(
        "payments: metrics only still, since a trip ends no mode: its calls pass. "
        "--hold stops them.\n"
    )


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


# -- whom it reaches --------------------------------------------------------------------------


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
    assert "keeps circuits in each process alone" in result.err


@pytest.mark.parametrize("name", ["trip", "reset"])
def test_a_switched_off_registry_is_not_steered(run, worker, settings_of_breakers, name):
    settings_of_breakers["default"]["ENABLED"] = False
    result = run(name, "payments", "--force")
    assert (result.code, result.out) == (2, "")
    assert "switched off" in result.err


# -- who --------------------------------------------------------------------------------------


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


# -- strangers' texts -------------------------------------------------------------------------

HOSTILE = "a\nBREAKER all\r\x1b[2J\x1b]0;x\x07\u202egnp\u200b\u2028b\t\x00\ud800"


def test_hostile_texts_do_no_harm(run, worker, rows):
    worker.payments.trip(reason=HOSTILE, actor="eve\x1b[31m")
    lines = run("status").out.splitlines()
    assert len(lines) == 8
    assert all(line.isprintable() for line in lines)
    assert r"a\nBREAKER all\r\x1b[2J" in lines[1]
    assert r"\u202egnp" in lines[1]
    raw = run("status", "--format", "json").out
    assert raw.replace("\n", "").isprintable()
    row = rows()["payments"]
    assert (row["reason"], row["updated_by"]) == (HOSTILE, "eve\x1b[31m")


def test_hostile_words_do_no_harm(run, worker):
    for words in (["trip", HOSTILE], ["status", HOSTILE], ["trip", "--registry", HOSTILE, "x"]):
        result = run(*words)
        assert result.code == 2
        assert result.err.removesuffix("\n").isprintable()
    result = run("trip", "payments", "--reason", HOSTILE, "--actor", HOSTILE)
    assert result.code == 0
    assert result.out.replace("\n", "").isprintable()


def test_long_texts_are_cut_in_the_table_only(run, worker, rows):
    worker.payments.trip(reason="why " * 1000)
    line = run("status").out.splitlines()[1]
    assert len(line) < 200
    assert line.endswith("why why…")
    assert rows()["payments"]["reason"] == ("why " * 1000)[:MAX_TEXT]


# -- from code --------------------------------------------------------------------------------


@pytest.fixture
def call(settings_of_breakers):
    def call_it(*words, **options):
        out = io.StringIO()
        with override_settings(CIRCUIT_BREAKERS=settings_of_breakers):
            call_command("breaker", *words, stdout=out, **options)
        return out.getvalue()

    return call_it


def test_call_command(call, worker):
    assert json.loads(call("status", format="json"))[0]["name"] == "payments"
    assert "payments: held open" in call("trip", "payments", hold=True, reason="x", actor="code")
    assert worker.payments.mode is Mode.FORCED_OPEN
    assert "payments: held open" in call("trip", "payments", **{"for": "10m"})
    assert call("reset", all=True, interactive=False, verbosity=0) == ""
    assert worker.payments.state is CircuitState.CLOSED
    assert "payments: open" in call("trip", "payments", no_color=True, force=True)
    with pytest.raises(SystemExit) as ended:
        call("status", fail_on_open=True)
    assert ended.value.code == 1


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["status", "unheard-of"], {}),
        (["trip"], {}),
        (["trip", "payments"], {"for": 600}),
        (["status"], {"no_color": True, "force_color": True}),
        (["status"], {"registry": "unheard-of"}),
    ],
)
def test_call_command_raises_with_code_2(call, words, options):
    with pytest.raises(CommandError) as caught:
        call(*words, **options)
    assert caught.value.returncode == 2


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


# -- figures ----------------------------------------------------------------------------------


def calls(breaker, number, error=None, times=1):
    """Calls that succeed, and then some that fail."""
    for _ in range(number):
        breaker.call(lambda: None)
    for _ in range(times if error else 0):
        with pytest.raises(type(error)):
            breaker.call(fail, error)


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


@pytest.mark.parametrize(
    ("rate", "shown"), [(0, ""), (0.04, "< 0.1"), (0.26, "0.3"), (9.96, "10.0"), (1234.5, "1234")]
)
def test_a_rate_is_as_exact_as_it_is_small(rate, shown):
    assert per_second(rate) == shown


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


def test_class_and_message_of_the_last_error_are_apart(rows, run, worker):
    calls(worker.payments, 0, OSError("refused"), times=5)
    row = rows()["payments"]
    assert (row["last_error"], row["last_error_message"]) == ("OSError", "refused")
    assert re.fullmatch(ISO, row["last_error_at"])
    [event] = json.loads(run("history", "--format", "json").out)
    assert (event["last_error"], event["last_error_message"]) == ("OSError", "refused")
    assert run("history").out.endswith(" - last error: OSError: refused\n")


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


# -- breakers by key ---------------------------------------------------------------------------


@pytest.fixture
def family(worker):
    """A thousand breakers by key that another process has told of; four of them are of interest."""
    keyed = {"keyed": True}
    worker.backend.declare(Declaration("tenant", keyed, "shop.py:1"))
    for number in range(1000):
        worker.backend.declare(Declaration(f"tenant:{number}", keyed, "shop.py:1"))
    worker.backend._publish(worker.backend._here(), 1)
    by_key = {
        number: CircuitBreaker(f"tenant:{number}", backend=worker.backend) for number in range(4)
    }
    by_key[0].trip()
    by_key[1].disable()
    by_key[2].record_failure()
    by_key[3].trip()
    by_key[3].reset()
    return by_key


def first_words(text):
    return [line.split()[0] for line in text.splitlines() if line]


def test_of_many_breakers_by_key_those_are_shown_of_which_there_is_something_to_say(run, family):
    shown = run("status").out
    assert first_words(shown)[:7] == [
        *("BREAKER", "payments", "search", "tenant", "tenant:0", "tenant:1", "tenant:2")
    ]
    assert (
        "\ntenant: 997 more breakers by key, closed; `breaker status 'tenant:*'` shows all.\n"
        in shown
    )


def test_those_asked_for_are_all_shown(run, rows, family):
    assert len(first_words(run("status", "tenant:*").out)) == 1004
    assert first_words(run("status", "tenant:99").out)[1] == "tenant:99"
    assert "more breaker" not in run("status", "tenant:*", "payments").out
    assert len(rows()) == 1003
    assert {row["family"] for name, row in rows().items() if ":" in name} == {"tenant"}
    assert rows()["tenant"]["family"] is None


def test_those_that_the_settings_name_are_always_shown(run, family, settings_of_breakers):
    settings_of_breakers["default"]["BREAKERS"]["tenant:99"] = {}
    assert "tenant:99" in first_words(run("status").out)
    assert "tenant: 996 more" in run("status").out


def test_where_only_the_settings_know_of_a_family_its_quiet_breakers_are_counted(
    run, worker, settings_of_breakers
):
    settings_of_breakers["default"]["BREAKERS"] = {"host:*": {}}
    worker.backend.declare(Declaration("host:a", {}, ""))
    worker.backend._publish(worker.backend._here(), 1)
    shown = run("status").out
    assert shown.startswith("host: 1 more breaker by key, closed; `breaker status 'host:*'` shows")
    assert "No breakers are known" not in shown


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


def test_a_stream_of_somebodys_is_printed_to_as_it_is(run, worker, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert run("status").code == 0
