"""System checks: each id, what it is told for, and that nothing is opened to find it out."""

from __future__ import annotations

import inspect
import re
import socket
import sqlite3
import sys
from pathlib import Path

import pytest
from django.apps import apps
from django.core.checks import ERROR, WARNING, run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from circuitbreaker_django import (
    breakers,
    checks,
    circuit_protected,
    conf,
    declarations,
    registries,
)
from circuitbreaker_django.backends.memory import MemoryBackend
from tests.backends.postgres import registered

MEMORY = "circuitbreaker_django.backends.memory.MemoryBackend"
TAG = "circuitbreaker_django"


def ids(messages):
    return [message.id.removeprefix(f"{TAG}.") for message in messages]


def found(settings, *, deploy=False):
    """The messages of our checks for these registries."""
    with override_settings(CIRCUIT_BREAKERS=settings):
        messages = run_checks(tags=[TAG], include_deployment_checks=deploy)
    for message in messages:
        assert str(message.hint).endswith((".", "?", "}"))
        assert message.msg.endswith((".", "?"))
    return messages


def found_ids(settings, *, deploy=False):
    return ids(found(settings, deploy=deploy))


@pytest.fixture(autouse=True)
def no_container(monkeypatch):
    monkeypatch.setattr(checks, "in_container", lambda: False)


@pytest.fixture(autouse=True)
def nothing_declared(monkeypatch):
    monkeypatch.setattr(declarations, "_declared", {})


def test_nothing_is_found_without_settings():
    assert run_checks(tags=[TAG]) == []


def test_nothing_is_found_in_good_settings():
    settings = {
        "default": {
            "NAMESPACE": "shop",
            "LOCATION": "/run/shop/circuits.sqlite3",
            "DEFAULTS": {"exceptions": ["OSError", "json.JSONDecodeError"]},
            "BREAKERS": {"payments": {"recovery_timeout": 10}},
        },
        "memory": {"BACKEND": MEMORY, "ENABLED": False},
    }
    circuit_protected("search", registry="memory", exceptions=["json.JSONDecodeError"])

    assert found(settings, deploy=True) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, ["E001"]),
        ({"default": None}, ["E001"]),
        ({"default": {"A": 1}}, ["E002"]),
        ({"default": {"ENABLED": 1}}, ["E003"]),
        ({"default": {"DEFAULTS": {"a": 1}}}, ["E004"]),
        ({"default": {"DEFAULTS": {"failure_threshold": 0}}}, ["E005"]),
        ({"default": {"BREAKERS": {"": {}}}}, ["E006"]),
        ({"default": {"BACKEND": "json.Backend"}}, ["E007"]),
        ({"default": {"BACKEND": "json.loads"}}, ["E007"]),
        ({"default": {"DEFAULTS": {"exceptions": "json.Nothing"}}}, ["E008"]),
        ({"default": {"LOCATION": "/a"}, "other": {"LOCATION": Path("/a")}}, ["E009"]),
        ({"default": {"LOCATION": "/a"}, "other": {"LOCATION": "/b"}}, []),
        ({"default": {"LOCATION": "/a"}, "other": {"LOCATION": "/a", "BACKEND": MEMORY}}, []),
        ({"default": {"BACKEND": "no.such", "LOCATION": "/a"}}, ["E007"]),
        ({"default": {"OPTIONS": {"sise": 1}}}, ["E010"]),
        ({"default": {"BACKEND": MEMORY, "OPTIONS": {"sise": 1}}}, ["E010"]),
        ({"default": {"DEFAULTS": {"exceptions": "no_such_library.Error"}}}, ["W001"]),
        ({"default": {"DEFAULTS": {"retry_after": "json.no_such_function"}}}, ["E012"]),
        ({"default": {"ERROR_DETAIL": "json.no_such_function"}}, ["E012"]),
        ({"default": {"ERROR_DETAIL": "json.dumps"}}, []),
        ({"default": {"STATS_INTERVAL": 0.1}}, ["E003"]),
        ({"default": {"DEFAULTS": {"minimum_calls": 20}}}, ["W006"]),
        ({"default": {}, "other": {"A": 1}, "third": {"B": 1}}, ["E002", "E002"]),
    ],
    ids=str,
)
def test_each_mistake_has_its_id(settings, expected):
    assert found_ids(settings) == expected


def test_a_declaration_for_a_registry_that_is_not_there():
    circuit_protected("payments", registry="serch")
    [message] = found({"search": {}})

    assert message.id == f"{TAG}.E011"
    assert re.search(r"breaker 'payments', declared at .*test_checks.py:\d+, is for", message.msg)
    assert message.hint == "Did you mean 'search'?"


def test_a_declaration_for_a_registry_without_a_like_one_says_what_to_write():
    circuit_protected("payments", registry="xyz")
    [message] = found({})

    assert message.hint == 'Add CIRCUIT_BREAKERS["xyz"] = {}.'


# -- exceptions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected", "words"),
    [
        ("no_such_library.Error", ["W001"], "no_such_library is not installed, so it counts as"),
        ("no_such_library.errors.Error", ["W001"], "no_such_library is not installed"),
        ("json.NoSuchError", ["E008"], "json has no exception class 'NoSuchError'"),
        ("json.dumps", ["E008"], "json has no exception class 'dumps'"),
        ("json.no_such_module.Error", ["E008"], "json.no_such_module"),
        ("NoSuchBuiltin", ["E008"], "NoSuchBuiltin"),
        ("json.JSONDecodeError", [], ""),
        ("OSError", [], ""),
    ],
)
def test_exceptions_are_resolved(path, expected, words):
    messages = found({"default": {"BREAKERS": {"payments": {"exceptions": [path]}}}})

    assert ids(messages) == expected
    for message in messages:
        assert message.msg.startswith('CIRCUIT_BREAKERS["default"]["BREAKERS"]["payments"]: exc')
        assert repr(path) in message.msg
        assert words in message.msg


def test_a_library_that_fails_at_its_import_is_told(tmp_path, monkeypatch):
    (tmp_path / "shop_broken_library.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    [message] = found({"default": {"DEFAULTS": {"exceptions": ["shop_broken_library.Error"]}}})

    assert message.id == f"{TAG}.E008"
    assert "division by zero" in message.msg


def test_a_mistake_in_defaults_is_told_once_however_many_breakers_there_are():
    settings = {
        "DEFAULTS": {"exceptions": ["json.NoSuchError", OSError]},
        "BREAKERS": {"a": {}, "b": {}, "c": {}},
    }
    [message] = found({"default": settings})

    assert message.msg.startswith('CIRCUIT_BREAKERS["default"]["DEFAULTS"]: exception')


def test_exceptions_that_code_declares_are_resolved_with_the_place():
    breakers.declare("payments", exceptions=["json.NoSuchError"])
    line = sys._getframe().f_lineno - 1
    [message] = found({})

    assert message.msg.startswith(f"breaker 'payments', declared at {__file__}:{line}: exception")


def test_exceptions_of_code_that_the_settings_override_are_not_told():
    breakers.declare("payments", exceptions=["json.NoSuchError"])

    assert found({"default": {"BREAKERS": {"payments": {"exceptions": [OSError]}}}}) == []


def test_exceptions_to_ignore_are_resolved_too():
    assert found_ids({"default": {"DEFAULTS": {"ignore_exceptions": "json.NoSuchError"}}}) == [
        "E008"
    ]


@pytest.mark.parametrize("option", ["failure_predicate", "result_predicate"])
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("json.dumps", None),
        ("bool", None),
        ("json.no_such_function", "json has no sync callable 'no_such_function'."),
        ("json.__name__", "json has no sync callable '__name__'."),
        ("no_such_library.is_late", "no_such_library is not installed."),
    ],
)
def test_predicates_are_resolved(option, path, words):
    messages = found({"default": {"BREAKERS": {"payments": {option: path}}}})

    place = 'CIRCUIT_BREAKERS["default"]["BREAKERS"]["payments"]'
    expected = [f"{place}: {option} {path!r}: {words}"] if words else []
    assert [message.msg for message in messages] == expected
    assert ids(messages) == ["E012"] * len(expected)


def test_a_predicate_that_code_declares_is_resolved_unless_the_settings_override_it():
    breakers.declare("payments", failure_predicate="json.no_such_function")

    [message] = found({})
    assert message.id == f"{TAG}.E012"
    assert re.search(r"^breaker 'payments', declared at .*test_checks.py:\d+: fail", message.msg)
    assert found({"default": {"BREAKERS": {"payments": {"failure_predicate": None}}}}) == []
    assert found({"default": {"BREAKERS": {"pay*": {"failure_predicate": None}}}}) == []
    assert found_ids({"default": {"BREAKERS": {"pax*": {"failure_predicate": None}}}}) == ["E012"]


# -- options without effect ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"slow_call_rate_threshold": 0.5}, "slow_call_rate_threshold has no effect without"),
        ({"slow_call_rate_threshold": 0.5, "slow_call_duration": 1}, None),
        ({"minimum_calls": 5}, "minimum_calls has no effect without failure_rate_threshold or"),
        ({"minimum_calls": 5, "slow_call_duration": 1}, None),
        ({"minimum_calls": 5, "failure_rate_threshold": 0.5}, None),
        (
            {"recovery_timeout_max": 9.5, "recovery_timeout": 10},
            "recovery_timeout_max 9.5 has no effect below recovery_timeout 10.",
        ),
        ({"recovery_timeout_max": 29}, "recovery_timeout_max 29 has no effect below"),
        ({"recovery_timeout_max": 30}, None),
        ({"recovery_timeout_max": None}, None),
        (
            {"retry_after": "bool", "recovery_timeout_max": 30},
            "retry_after has no effect, as no wait may be longer than recovery_timeout: set",
        ),
        ({"retry_after": "bool", "recovery_timeout_max": 31}, None),
    ],
)
def test_an_option_that_does_nothing_beside_the_others(policy, words):
    for registry, keys in [
        ({"DEFAULTS": policy}, '["DEFAULTS"]'),
        ({"BREAKERS": {"payments": policy}}, '["BREAKERS"]["payments"]'),
    ]:
        messages = found({"default": registry})
        assert ids(messages) == (["W006"] if words else [])
        for message in messages:
            assert message.level == WARNING
            assert message.msg.startswith(f'CIRCUIT_BREAKERS["default"]{keys}: {words}')


def test_an_option_may_have_its_effect_beside_those_of_the_defaults():
    for name, policy in [
        ("slow_call_duration", {"slow_call_rate_threshold": 0.5}),
        ("failure_rate_threshold", {"minimum_calls": 5}),
    ]:
        registry = {"DEFAULTS": {name: 0.5}, "BREAKERS": {"payments": policy}}
        assert found({"default": registry}) == []


def test_an_option_of_the_defaults_may_have_its_effect_for_one_breaker_only():
    defaults = {"minimum_calls": 5}
    breaker_settings = {"payments": {"failure_rate_threshold": 0.5}, "search": {}}
    assert found({"default": {"DEFAULTS": defaults, "BREAKERS": breaker_settings}}) == []
    assert found_ids({"default": {"DEFAULTS": defaults, "BREAKERS": {"search": {}}}}) == ["W006"]


def test_what_code_declares_may_give_an_option_its_effect():
    breakers.declare("payments", slow_call_duration=1)

    assert found({"default": {"DEFAULTS": {"minimum_calls": 5}}}) == []
    assert found({"default": {"BREAKERS": {"payments": {"minimum_calls": 5}}}}) == []


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"*": {"minimum_calls": 5}}, []),
        ({"ten*": {"minimum_calls": 5}}, []),
        ({"tenant:*": {"minimum_calls": 5}}, []),
        ({"*:acme": {"minimum_calls": 5}}, []),
        ({"pay*": {"minimum_calls": 5}}, ["W006"]),
        ({"pay*": {"minimum_calls": 5}, "payments": {"failure_rate_threshold": 0.5}}, []),
        ({"pay*:*": {"minimum_calls": 5}}, ["W006"]),
        ({"host:*": {"failure_rate_threshold": 0.5}, "host:a*": {"minimum_calls": 5}}, []),
        ({"host:a*": {"failure_rate_threshold": 0.5}, "host:*": {"minimum_calls": 5}}, []),
        ({"*": {"failure_rate_threshold": 0.5}, "host:*": {"minimum_calls": 5}}, []),
        ({"tenant:acme": {"minimum_calls": 5}}, []),
    ],
    ids=str,
)
def test_an_option_of_a_pattern_has_no_effect_if_it_has_none_anywhere(entries, expected):
    circuit_protected("tenant", slow_call_duration=1, key=str)
    breakers.declare("payments")

    assert found_ids({"default": {"BREAKERS": entries}}) == expected


def test_a_breaker_that_waits_longer_than_the_defaults_allow_is_told_at_the_breaker():
    registry = {
        "DEFAULTS": {"recovery_timeout_max": 60},
        "BREAKERS": {"payments": {"recovery_timeout": 90}, "search": {}},
    }
    [message] = found({"default": registry})

    assert message.id == f"{TAG}.W006"
    assert message.msg.startswith('CIRCUIT_BREAKERS["default"]["BREAKERS"]["payments"]: recovery_')


# -- deployment ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["W003"]),
        ({"BACKEND": MEMORY}, ["W002"]),
        ({"BACKEND": MEMORY, "ENABLED": False}, []),
        ({"NAMESPACE": "shop"}, []),
        ({"LOCATION": "/run/shop/circuits"}, []),
        ({"LOCATION": "circuits"}, ["W005"]),
        ({"NAMESPACE": "shop", "LOCATION": "./circuits"}, ["W005"]),
        ({"BACKEND": "json.Backend"}, ["E007"]),
        ({"BACKENDS": "json.Backend"}, ["E002"]),
        ({"BACKEND": f"{__name__}.SharedBackend", "LOCATION": "redis://cache"}, ["W003"]),
    ],
    ids=str,
)
def test_deployment(settings, expected):
    assert found_ids({"default": settings}, deploy=True) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"NAMESPACE": "shop"}, ["W004"]),
        ({}, ["W003", "W004"]),
        ({"LOCATION": "/srv/circuits"}, []),
        ({"BACKEND": MEMORY}, ["W002"]),
        ({"BACKEND": f"{__name__}.SharedBackend", "NAMESPACE": "shop"}, []),
    ],
    ids=str,
)
def test_deployment_in_a_container(settings, expected, monkeypatch):
    monkeypatch.setattr(checks, "in_container", lambda: True)

    assert found_ids({"default": settings}, deploy=True) == expected


DATABASE = "circuitbreaker_django.backends.database.DatabaseBackend"


@pytest.fixture
def a_postgres():
    """An alias of a database that is never opened."""
    pytest.importorskip("psycopg")
    with registered("pg", {"ENGINE": "django.db.backends.postgresql", "NAME": "x", "HOST": "y"}):
        yield {"BACKEND": DATABASE, "LOCATION": "pg"}


class Elsewhere:
    """A router."""

    def allow_migrate(self, db, app_label, **hints):
        return None if app_label != "circuitbreaker_database" else db == "elsewhere"


def test_circuits_in_a_database(a_postgres, settings):
    assert found_ids({"default": a_postgres}) == []
    assert found_ids({"default": a_postgres, "other": a_postgres}) == []
    assert found_ids({"default": {"BACKEND": DATABASE}}) == ["E010"]  # which is SQLite
    assert found_ids({"default": {"BACKEND": DATABASE, "LOCATION": "no"}}) == ["E010"]
    with override_settings(DATABASE_ROUTERS=[f"{__name__}.Elsewhere"]):
        assert found_ids({"default": a_postgres}) == ["W007"]
    settings.INSTALLED_APPS = ["circuitbreaker_django"]
    assert found_ids({"default": a_postgres}) == ["E013"]


def test_deployment_on_windows_names_what_it_would_take(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    [message] = found({"default": {}}, deploy=True)

    assert message.id == f"{TAG}.W002"
    assert message.hint.endswith("SQLiteBackend needs Linux or macOS.")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["W003"]),
        ({"NAMESPACE": "config"}, []),
        ({"LOCATION": "/run/shop/circuits"}, []),
        ({"ENABLED": False}, []),
        ({"BACKEND": MEMORY}, []),
        ({"BACKEND": "json.Backend"}, ["E007"]),
    ],
    ids=str,
)
def test_a_namespace_that_many_projects_have_is_told_at_any_time(settings, expected):
    with override_settings(ROOT_URLCONF="config.urls"):
        assert found_ids({"default": settings}) == expected


def test_it_is_told_once_with_deploy_too():
    with override_settings(ROOT_URLCONF="config.urls"):
        assert found_ids({"default": {}}, deploy=True) == ["W003"]


def test_a_location_that_is_a_folder_is_told(tmp_path):
    [message] = found({"default": {"LOCATION": str(tmp_path)}})

    assert message.id == f"{TAG}.W008"
    assert message.hint == f"Give the path of a file, such as '{tmp_path}/circuits.sqlite3'."
    assert found_ids({"default": {"LOCATION": str(tmp_path / "circuits")}}) == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["scv"], ["W009"]),
        (["service_registy"], ["W009"]),
        (["svc"], []),
        (["svc", "scv"], []),  # another breaker
        (["svc2"], []),
        (["service_registrys"], []),
        (["my_svc"], []),
        (["service_registry_eu"], []),
        (["sv*"], []),
    ],
    ids=str,
)
def test_a_name_that_is_almost_a_declared_one_is_told_with_deploy(names, expected):
    breakers.declare("svc")
    breakers.declare("service_registry")
    registry = {"NAMESPACE": "shop", "BREAKERS": {name: {} for name in names}}

    assert found_ids({"default": registry}, deploy=True) == expected
    assert found_ids({"default": registry}) == []


def test_deployment_warnings_are_not_told_without_deploy(monkeypatch):
    monkeypatch.setattr(checks, "in_container", lambda: True)

    assert found({"default": {"LOCATION": "circuits"}, "m": {"BACKEND": MEMORY}}) == []


class SharedBackend(MemoryBackend):
    shared = True


@pytest.mark.parametrize(
    "mark", ["/.dockerenv", "/run/.containerenv", "KUBERNETES_SERVICE_HOST", ""]
)
def test_a_container_is_known_by_its_marks(mark, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr("os.path.exists", lambda path: path == mark)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if mark == "KUBERNETES_SERVICE_HOST":
        monkeypatch.setenv(mark, "10.0.0.1")

    assert checks.in_container() is bool(mark)


# -- how they are told --------------------------------------------------------------------------


def test_manage_py_check_fails():
    with (
        override_settings(CIRCUIT_BREAKERS={"default": {"BACKENDS": "a"}}),
        pytest.raises(SystemCheckError, match=r"circuitbreaker_django\.E002.*did you mean"),
    ):
        call_command("check")


def test_deployment_warnings_are_told_by_manage_py_check():
    with (
        override_settings(CIRCUIT_BREAKERS={"default": {"BACKEND": MEMORY, "NAMESPACE": "shop"}}),
        pytest.raises(SystemCheckError, match=r"circuitbreaker_django\.W002"),
    ):
        call_command("check", deploy=True, fail_level="WARNING", tags=[TAG])


def test_a_warning_can_be_silenced():
    with (
        override_settings(
            CIRCUIT_BREAKERS={"default": {"BACKEND": MEMORY}},
            SILENCED_SYSTEM_CHECKS=[f"{TAG}.W002"],
        ),
    ):
        call_command("check", deploy=True, fail_level="WARNING", tags=[TAG])


def test_every_id_is_told_somewhere_and_every_id_told_is_in_the_table():
    source = "".join(inspect.getsource(module) for module in (checks, conf))
    told = set(re.findall(r'^\s.*"([EW]\d{3})"(?!:)', source, re.MULTILINE))

    assert told == set(checks.IDS)


def test_ids_are_unique_and_in_order():
    source = inspect.getsource(checks)
    table = re.findall(r'^    "([EW]\d{3})": ', source, re.MULTILINE)

    assert table == sorted(set(table))
    assert len(set(checks.IDS.values())) == len(table) == len(checks.IDS)


def test_errors_have_an_e_and_warnings_a_w():
    settings = {"a": {"A": 1}, "b": {"DEFAULTS": {"exceptions": ["nothing_installed.Error"]}}}
    levels = {message.id.rpartition(".")[2][0]: message.level for message in found(settings)}

    assert levels["W"] == WARNING
    assert levels["E"] == ERROR


@pytest.mark.usefixtures("outside_of_tests")
def test_checks_open_no_file_and_no_socket(tmp_path):
    opened = []
    watching = False

    def watch(event, arguments):
        if watching and event.startswith(("open", "os.", "socket.", "sqlite3.", "subprocess.")):
            opened.append((event, arguments))

    sys.addaudithook(watch)
    settings = {
        "default": {"DEFAULTS": {"exceptions": ["json.JSONDecodeError"]}},
        "place": {"LOCATION": str(tmp_path / "circuits"), "BREAKERS": {"payments": {}}},
        "memory": {"BACKEND": MEMORY},
    }
    breakers.declare("payments", exceptions=["OSError"])
    with override_settings(CIRCUIT_BREAKERS=settings):
        run_checks(tags=[TAG], include_deployment_checks=True)  # has imported all that it needs
        watching = True
        run_checks(tags=[TAG], include_deployment_checks=True)
        assert opened == []
        sqlite3.connect(":memory:").close()
        socket.socket().close()
        watching = False
        assert opened  # by the two lines above: the watch is awake
        assert registries.built() == []
    assert list(tmp_path.iterdir()) == []


def test_the_app_is_the_one_that_is_checked():
    assert apps.get_app_config(TAG).name == TAG
