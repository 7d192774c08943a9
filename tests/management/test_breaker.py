"""``manage.py breaker``: what it ends with, strangers' texts, and its use from code."""

from __future__ import annotations

import io
import json
import sqlite3
import sys

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from circuitbreaker_django import (
    CircuitState,
    Mode,
)
from circuitbreaker_django.operations.catalogue import Catalogue
from tests.management.conftest import states

# -- exit codes --------------------------------------------------------------------------------


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


# -- strangers' texts --------------------------------------------------------------------------


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


# -- from code ---------------------------------------------------------------------------------


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


def test_a_stream_of_somebodys_is_printed_to_as_it_is(run, worker, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert run("status").code == 0
