"""``breaker status``: which breakers are shown, in text and JSON, and what is said below."""

from __future__ import annotations

import json
import os
import re

import pytest

from circuitbreaker_django.backends.store import Declaration
from tests.management.conftest import HOST, ISO, NOTHING, calls, first_words, worker_kind

# -- status, text ------------------------------------------------------------------------------


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
        "Other settings than this command's are in force in 1 of 1 live processes "
        f"({HOST}:{os.getpid()}); what is shown goes by this command's.\n"
        "\n"
    )


def test_more_verbose_it_says_where_they_are_declared(run, worker):
    assert "settings.CIRCUIT_BREAKERS" in run("status", "-v2").out
    assert "settings.CIRCUIT_BREAKERS" not in run("status").out


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


@pytest.mark.usefixtures("process_local")
def test_a_process_local_registry_says_so(run):
    result = run("status")
    assert result.code == 0
    assert "Backend: MemoryBackend at the memory of this process" in result.out
    assert "keeps separate circuits in each process" in result.out
    assert "Attached" not in result.out
    result = run("status", "--format", "json")
    assert "keeps separate circuits in each process" in result.err
    assert len(json.loads(result.out)) == 2


# -- status, several registries ----------------------------------------------------------------


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
def test_one_whose_store_cannot_be_used_hides_no_other(run, worker, tmp_path):
    (tmp_path / "other.v1.sqlite3").write_text("something else" * 100)
    worker.payments.trip()
    for words in (["status"], ["status", "--format", "json"], ["status", "--fail-on-open"]):
        result = run(*words)
        assert result.code == 2
        assert "payments" in result.out
        problem, *_, summary = result.err.splitlines()
        assert problem.startswith(f"{tmp_path}/other.v1.sqlite3 cannot be used: ")
        assert summary == "CommandError: not all registries could be seen"
    assert run("status", "--registry", "default").code == 0


@pytest.mark.usefixtures("two_registries")
def test_where_no_store_can_be_used_it_says_why_of_the_first(run, tmp_path):
    for name in ("circuits", "other"):
        (tmp_path / f"{name}.v1.sqlite3").write_text("something else" * 100)
    result = run("status")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "circuits.v1.sqlite3 cannot be used: " in result.err


def test_a_registry_that_is_not_there(run):
    result = run("status", "--registry", "defualt")
    assert result.code == 2
    assert "there is no registry 'defualt'" in result.err


# -- status, JSON ------------------------------------------------------------------------------


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
        "common_breaker_of": None,
        "elsewhere": {},
        "trials_running": 0,
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


# -- figures -----------------------------------------------------------------------------------


def test_class_and_message_of_the_last_error_are_apart(rows, run, worker):
    calls(worker.payments, 0, OSError("refused"), times=5)
    row = rows()["payments"]
    assert (row["last_error"], row["last_error_message"]) == ("OSError", "refused")
    assert re.fullmatch(ISO, row["last_error_at"])
    [event] = json.loads(run("history", "--format", "json").out)
    assert (event["last_error"], event["last_error_message"]) == ("OSError", "refused")
    assert run("history").out.endswith(" - last error: OSError: refused\n")


# -- breakers by key ---------------------------------------------------------------------------


def test_of_many_breakers_by_key_those_are_shown_of_which_there_is_something_to_say(run, family):
    shown = run("status").out
    assert first_words(shown)[:7] == [
        *("BREAKER", "tenant:0", "tenant:1", "payments", "search", "tenant", "tenant:2")
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


def test_a_familys_common_breaker_is_told_from_those_by_key(run, rows, family):
    assert re.search(r"^tenant \(common breaker of tenant:\*\) +closed", run("status").out, re.M)
    assert rows()["tenant"]["common_breaker_of"] == "tenant:*"
    assert {row["common_breaker_of"] for name, row in rows().items() if name != "tenant"} == {None}


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
