"""Registries: which breaker a name means, what it is like, and where its circuit lives."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import sys
import threading
import time

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from circuitbreaker_django import (
    CircuitBreakerError,
    CircuitOpenError,
    CircuitState,
    UnknownBreakerError,
    breakers,
    circuit_protected,
    conf,
    environment,
    held,
    registries,
)
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.registry import Registry
from circuitbreaker_django.testing import FakeClock, live_breakers

MEMORY = "circuitbreaker_django.backends.memory.MemoryBackend"


def fail():
    raise OSError


def fail_times(call, times):
    for _ in range(times):
        with pytest.raises(OSError):
            call()


def configured(**registry):
    return override_settings(CIRCUIT_BREAKERS={"default": registry})


class SlowBackend(MemoryBackend):
    """Makes it likely that all threads come while the first one is at it."""

    made = 0

    def __init__(self):
        type(self).made += 1
        time.sleep(0.02)
        super().__init__()


# -- names --------------------------------------------------------------------------------------


def test_a_declared_breaker_is_found_by_its_name():
    breakers.declare("search", failure_threshold=3)

    assert breakers["search"].name == "search"
    assert breakers["search"].policy.failure_threshold == 3
    assert registries["default"]["search"] is breakers["search"]


@configured(BREAKERS={"payments": {"failure_threshold": 2}, "mail": {}})
def test_names_are_those_of_the_settings_and_of_the_code():
    breakers.declare("search")
    breakers.declare("payments")

    assert {"payments", "mail", "search"} <= set(breakers)
    assert list(breakers) == sorted(breakers) == list(registries["default"])
    assert len(breakers) == len(list(breakers)) == len(registries["default"])
    assert "payments" in breakers
    assert "search" in breakers
    assert "nothing" not in breakers
    assert 5 not in breakers  # type: ignore[comparison-overlap]
    assert breakers.get("nothing") is None


@configured(BREAKERS={"payments": {}})
def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(UnknownBreakerError) as raised:
        breakers["paymets"]

    assert isinstance(raised.value, CircuitBreakerError)
    assert isinstance(raised.value, KeyError)
    assert str(raised.value) == (
        "no breaker 'paymets' in registry 'default'; did you mean 'payments'?"
    )


def test_an_unknown_name_without_a_near_one_says_what_to_do():
    with pytest.raises(
        UnknownBreakerError, match=r"'xyz' in .*; declare it, import the module that does, or add"
    ):
        breakers["xyz"]


def test_an_unknown_registry_is_told_with_the_nearest():
    with override_settings(CIRCUIT_BREAKERS={"search": {}}):
        with pytest.raises(ImproperlyConfigured, match=r"no registry 'serch' .*mean 'search'"):
            registries["serch"]
        with pytest.raises(ImproperlyConfigured, match=r"no registry 'xyz' .*; add it there"):
            registries["xyz"]
        assert "search" in registries
        assert "serch" not in registries
        assert list(registries) == ["default", "search"]
        assert len(registries) == 2


def test_registries_keep_names_apart():
    with override_settings(CIRCUIT_BREAKERS={"default": {}, "other": {"BREAKERS": {"a": {}}}}):
        breakers.declare("a", failure_threshold=3)
        assert breakers["a"].policy.failure_threshold == 3
        registries["other"].declare("b")

        assert registries["other"]["a"] is not breakers["a"]
        assert registries["other"]["a"].policy.failure_threshold == 5
        assert list(registries["other"]) == ["a", "b"]
        assert "b" not in breakers
        assert repr(registries["other"]) == "<Registry 'other'>"


@pytest.mark.parametrize(
    ("name", "error"), [("", ValueError), ("x" * 201, ValueError), (5, TypeError)]
)
def test_a_name_that_is_not_usable_is_refused_at_its_declaration(name, error):
    with pytest.raises(error, match="name must be a string of 1 to 200"):
        breakers.declare(name)


# -- what it is like ----------------------------------------------------------------------------


def test_precedence_key_by_key():
    breakers.declare("code", failure_window=3.0, recovery_timeout=3.0, success_threshold=3)
    settings = {
        "DEFAULTS": {"failure_threshold": 2, "failure_window": 2.0, "recovery_timeout": 2.0},
        "BREAKERS": {"code": {"recovery_timeout": 4.0}, "settings": {"failure_window": 4.0}},
    }
    with configured(**settings):
        code, only_settings = breakers["code"].policy, breakers["settings"].policy

    assert code.half_open_max_calls == 1  # of the package
    assert code.failure_threshold == 2  # of DEFAULTS
    assert code.failure_window == 3.0  # of the code
    assert code.success_threshold == 3
    assert code.recovery_timeout == 4.0  # of BREAKERS
    assert only_settings.failure_window == 4.0
    assert only_settings.recovery_timeout == 2.0


@pytest.mark.parametrize(
    ("defaults", "code", "breaker", "expected"),
    [
        ({}, {}, {}, (Exception,)),
        ({"exceptions": [OSError]}, {}, {}, (OSError,)),
        ({"exceptions": [OSError]}, {"exceptions": [KeyError]}, {}, (KeyError,)),
        ({}, {"exceptions": [KeyError]}, {"exceptions": "a.B"}, ("a.B",)),
    ],
    ids=["package", "defaults", "code", "settings"],
)
def test_precedence_of_exceptions(defaults, code, breaker, expected):
    breakers.declare("payments", **code)
    with configured(DEFAULTS=defaults, BREAKERS={"payments": breaker}):
        assert breakers["payments"].classifier.exceptions.specs == expected


def test_what_operators_are_told_is_the_policy_in_force():
    breakers.declare("payments", failure_threshold=3, exceptions=[OSError])
    line = sys._getframe().f_lineno - 1
    with configured(BREAKERS={"payments": {"failure_window": 7.0}, "mail": {}}):
        told = registries["default"].declaration("payments")

        assert told.where == f"{__file__}:{line}"
        assert told.policy["failure_threshold"] == 3
        assert told.policy["failure_window"] == 7.0
        assert told.policy["exceptions"] == ["builtins.OSError"]
        assert json.loads(json.dumps(told.policy)) == told.policy
        assert registries["default"].declaration("mail").where == "settings.CIRCUIT_BREAKERS"


# -- declarations -------------------------------------------------------------------------------


def test_two_declarations_that_differ_are_refused_at_the_second_naming_both_places():
    breakers.declare("payments", failure_threshold=3)
    first = sys._getframe().f_lineno - 1
    with pytest.raises(ImproperlyConfigured) as raised:
        breakers.declare("payments", failure_threshold=4)

    assert f"{__file__}:{first} and at {__file__}:{first + 3}" in str(raised.value)
    assert "'payments' is declared twice" in str(raised.value)
    assert breakers["payments"].policy.failure_threshold == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"failure_threshold": 5}, {"failure_window": 60.0}),  # both as the package's defaults
        ({"exceptions": [OSError]}, {"exceptions": [KeyError]}),
        ({"recovery_timeout": 1}, {"recovery_timeout": 1, "failure_threshold": 5}),
    ],
)
def test_declarations_differ_by_what_they_say(one, other):
    breakers.declare("payments", **one)
    with pytest.raises(ImproperlyConfigured):
        breakers.declare("payments", **other)


def test_two_declarations_that_say_the_same_are_one():
    breakers.declare("payments", recovery_timeout=10, exceptions=[OSError])
    breakers.declare("payments", recovery_timeout=10.0, exceptions=("builtins.OSError",))

    assert breakers["payments"].policy.recovery_timeout == 10


def test_a_declaration_without_options_only_names_the_breaker():
    breakers.declare("before")
    breakers.declare("before", failure_threshold=3)
    breakers.declare("after", failure_threshold=3)
    breakers.declare("after")

    assert breakers["before"].policy.failure_threshold == 3
    assert breakers["after"].policy.failure_threshold == 3


def test_declarations_in_two_registries_may_differ():
    with override_settings(CIRCUIT_BREAKERS={"other": {}}):
        breakers.declare("payments", failure_threshold=3)
        registries["other"].declare("payments", failure_threshold=4)

        assert breakers["payments"].policy.failure_threshold == 3
        assert registries["other"]["payments"].policy.failure_threshold == 4


SERVICES = """
from circuitbreaker_django import circuit_protected

@circuit_protected("payments", failure_threshold={threshold})
def pay():
    raise OSError
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path / "shop_services.py"
    sys.modules.pop("shop_services", None)


def test_a_module_that_is_reloaded_replaces_its_declaration(module):
    module.write_text(SERVICES.format(threshold=3))
    services = importlib.import_module("shop_services")
    assert breakers["payments"].policy.failure_threshold == 3

    module.write_text(SERVICES.format(threshold=4))
    importlib.reload(services)
    assert breakers["payments"].policy.failure_threshold == 4


def test_a_module_that_is_imported_anew_replaces_its_declaration(module):
    module.write_text(SERVICES.format(threshold=3))
    importlib.import_module("shop_services")
    del sys.modules["shop_services"]
    module.write_text(SERVICES.format(threshold=4))
    importlib.import_module("shop_services")

    assert breakers["payments"].policy.failure_threshold == 4


def protected_by_a_helper(name, **policy):
    return circuit_protected(name, **policy)


def test_two_declarations_through_one_helper_are_two_places():
    protected_by_a_helper("payments", failure_threshold=3)
    first = sys._getframe().f_lineno - 1
    with pytest.raises(ImproperlyConfigured) as raised:
        protected_by_a_helper("payments", failure_threshold=4)

    helper = protected_by_a_helper.__code__.co_firstlineno + 1
    assert f"at {__file__}:{helper}, called at " in str(raised.value)
    assert first != helper


def test_the_message_of_two_declarations_through_a_helper_names_the_modules_lines(run):
    text = run(
        """
from django.core.exceptions import ImproperlyConfigured
import one
try:
    import other
except ImproperlyConfigured as error:
    print(error)
""",
        files={
            "helper.py": "from circuitbreaker_django import breakers\n"
            "def make(n, **p): breakers.declare(n, **p)",
            "one.py": "import helper\nhelper.make('payments', failure_threshold=3)",
            "other.py": "import helper\n\nhelper.make('payments', failure_threshold=4)",
        },
    )

    assert "helper.py:2, called at " in text
    assert "one.py:2 and at " in text
    assert "other.py:3." in text


def test_a_bad_option_is_refused_at_its_declaration():
    with pytest.raises(TypeError, match=r"'failure_treshold' is no option .* 'failure_threshold'"):
        breakers.declare("payments", failure_treshold=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="failure_threshold must be"):
        breakers.declare("payments", failure_threshold=0)
    with pytest.raises(TypeError, match="exceptions must be a tuple or a list, not a generator"):
        breakers.declare("payments", exceptions=(error for error in (OSError,)))

    assert "payments" not in breakers


@live_breakers()
def test_a_later_declaration_takes_effect_on_a_breaker_in_use():
    with configured(BREAKERS={"payments": {"failure_window": 7.0}}):
        breaker = breakers["payments"]
        protected = breaker(fail)
        fail_times(protected, 2)
        breakers.declare("payments", failure_threshold=3, exceptions=[OSError])

        assert breakers["payments"] is breaker
        assert breaker.policy.failure_threshold == 3
        assert breaker.policy.failure_window == 7.0
        assert breaker.classifier.exceptions.specs == (OSError,)
        fail_times(protected, 1)  # with the two before it that is the threshold
        with pytest.raises(CircuitOpenError):
            protected()


@pytest.mark.usefixtures("outside_of_tests")
def test_declarations_reach_the_backend_also_late_ones(tmp_path):
    breakers.declare("early", failure_threshold=2)
    settings = {"LOCATION": str(tmp_path / "circuits"), "BREAKERS": {"settings": {}}}
    with configured(**settings), breakers["early"]:
        breakers.declare("late", failure_threshold=3)
        breakers.declare("settings", failure_threshold=4)
        with breakers["late"]:
            pass
        backend = registries["default"].backend
        backend.close()
        breakers["early"].call(len, "")  # opens it again, and publishes all at once
        published = backend.overview().declarations

    assert {"early", "late", "settings"} <= set(published)
    assert published["early"].policy["failure_threshold"] == 2
    assert published["late"].policy["failure_threshold"] == 3
    assert published["settings"].policy["failure_threshold"] == 4
    assert published["late"].where.startswith(__file__)


def test_a_late_declaration_makes_an_unknown_name_known():
    with pytest.raises(UnknownBreakerError):
        breakers["late"]
    breakers.declare("late")

    assert breakers["late"].name == "late"


# -- one for all threads, when it is needed -----------------------------------------------------


@pytest.mark.usefixtures("outside_of_tests")
@configured(BACKEND=f"{__name__}.SlowBackend")
def test_32_threads_get_one_registry_one_backend_and_one_breaker():
    circuit_protected("payments")
    SlowBackend.made = 0
    barrier = threading.Barrier(32)
    got = []

    def look_up():
        barrier.wait()
        breaker = breakers["payments"]
        got.append((breaker, breaker.backend, breaker.view, id(registries["default"])))

    threads = [threading.Thread(target=look_up) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == 32
    assert len(set(got)) == 1
    assert got[0][1] is registries["default"].backend
    assert got[0][1]._views.keys() == {"payments"}
    assert len(got[0][1]._views["payments"]) == 1


@pytest.mark.usefixtures("outside_of_tests")
def test_nothing_is_made_before_it_is_used(tmp_path):
    with configured(LOCATION=str(tmp_path / "store" / "circuits")):
        protected = circuit_protected("payments")(time.monotonic)
        assert registries.built() == []

        breaker = breakers["payments"]
        assert isinstance(breaker.backend, SQLiteBackend)
        assert list(tmp_path.iterdir()) == []

        protected()
        assert list(tmp_path.iterdir()) == [tmp_path / "store"]


def test_with_no_setting_at_all_everything_works(run):
    namespace = f"circuitbreaker_test_{os.getpid()}"
    code = f"""
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["circuitbreaker_django"], ROOT_URLCONF="{namespace}.urls")
django.setup()
from django.core.management import call_command
call_command("check")
from circuitbreaker_django import CircuitOpenError, breakers, circuit_protected

@circuit_protected("payments")
def pay():
    raise OSError

for _ in range(6):
    try:
        pay()
    except (OSError, CircuitOpenError) as error:
        print(type(error).__name__)
print(breakers["payments"].backend.describe())
"""
    try:
        out = run(code, files={f"{namespace}/urls.py": "urlpatterns = []"}).splitlines()
    finally:
        for base in ("/dev/shm", "/tmp", "/private/tmp"):
            shutil.rmtree(f"{base}/circuitbreaker_django/{namespace}", ignore_errors=True)

    assert [line for line in out if line.endswith("Error")] == ["OSError"] * 5 + [
        "CircuitOpenError"
    ]
    assert f"/circuitbreaker_django/{namespace}/" in out[-1]


def test_the_package_may_be_imported_and_used_for_declaring_in_settings(run):
    out = run(
        """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "shop_settings"
import django
from django.conf import settings
from circuitbreaker_django import breakers, circuit_protected, registries, CircuitBreaker
from circuitbreaker_django.conf import PolicySettings, RegistrySettings
import circuitbreaker_django.decorators, circuitbreaker_django.middleware
assert not settings.configured
breakers.declare("a")
circuit_protected("b")(len)
assert not settings.configured
django.setup()
print(list(breakers), list(registries))
""",
        files={
            "shop_settings.py": """
from circuitbreaker_django import breakers, circuit_protected, registries, CircuitBreaker
from circuitbreaker_django.conf import PolicySettings, RegistrySettings
breakers.declare("c")
circuit_protected("d")(len)
INSTALLED_APPS = ["circuitbreaker_django"]
CIRCUIT_BREAKERS: dict[str, RegistrySettings] = {"other": {}}
"""
        },
    )

    assert out.strip() == "['a', 'b', 'c', 'd'] ['default', 'other']"


# -- settings that change -----------------------------------------------------------------------


@live_breakers()
def test_a_breaker_follows_the_settings_wherever_it_is_held():
    by_name = circuit_protected("payments")(fail)
    held = breakers["payments"]
    by_breaker = held(fail)
    fail_times(by_name, 2)
    with configured(BREAKERS={"payments": {"failure_threshold": 2}}):
        assert breakers["payments"] is held
        assert held.policy.failure_threshold == 2
        fail_times(by_breaker, 1)
        fail_times(by_name, 1)
        for rejected in (by_name, by_breaker, lambda: held.call(fail)):
            with pytest.raises(CircuitOpenError):
                rejected()
        assert breakers["payments"].state is CircuitState.OPEN

    assert held.policy.failure_threshold == 5
    assert held.state is CircuitState.CLOSED
    fail_times(by_name, 4)
    fail_times(by_breaker, 1)
    with pytest.raises(CircuitOpenError), held:
        pass


def test_a_registry_that_somebody_has_kept_leads_to_the_breaker_in_force():
    kept = registries["default"]
    with configured(BREAKERS={"payments": {"failure_threshold": 2}}):
        assert kept["payments"] is breakers["payments"]
        assert breakers["payments"].policy.failure_threshold == 2


def test_a_breaker_whose_name_is_gone_from_the_settings_goes_on_by_the_defaults():
    with configured(BREAKERS={"payments": {"failure_threshold": 2}}):
        held = breakers["payments"]

    assert held.policy.failure_threshold == 5
    with pytest.raises(UnknownBreakerError):
        breakers["payments"]


@live_breakers()
def test_while_the_settings_are_wrong_lookups_say_so_and_calls_of_held_breakers_pass():
    breakers.declare("payments", failure_threshold=1)
    held = breakers["payments"]
    with configured(ENABLED="yes"):
        with pytest.raises(ImproperlyConfigured, match="ENABLED"):
            breakers["payments"]
        fail_times(lambda: held.call(fail), 3)

    fail_times(lambda: held.call(fail), 1)
    with pytest.raises(CircuitOpenError):
        held.call(fail)


def test_the_namespace_follows_the_urlconf():
    assert registries["default"].config.namespace == "tests"
    with override_settings(ROOT_URLCONF="shop.urls"):
        assert registries["default"].config.namespace == "shop"


def test_settings_that_are_not_ours_change_nothing():
    before = registries["default"]
    with override_settings(DEBUG=True, USE_TZ=False):
        assert registries["default"] is before


@pytest.mark.usefixtures("outside_of_tests")
def test_the_store_is_let_go_when_settings_change(tmp_path):
    breakers.declare("payments")
    with configured(LOCATION=str(tmp_path / "circuits")):
        backend = breakers["payments"].backend
        with breakers["payments"]:
            pass
        assert backend.available
    assert not backend.available


# -- where circuits live ------------------------------------------------------------------------


def touches_no_store(tmp_path):
    protected = circuit_protected("payments", failure_threshold=1)(fail)
    fail_times(protected, 3)
    held = breakers["payments"]
    fail_times(lambda: held.call(fail), 3)
    held.trip(hold=True)

    assert held.state is CircuitState.CLOSED
    assert held.view.failures == held.view.gate.calls == 0
    assert isinstance(held.backend, MemoryBackend)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("outside_of_tests")
def test_switched_off_calls_pass_and_nothing_is_counted_and_no_store_opened(tmp_path):
    with configured(ENABLED=False, LOCATION=str(tmp_path / "circuits")):
        touches_no_store(tmp_path)


@pytest.mark.parametrize("settings", [{}, {"ENABLED": True}, {"BACKEND": "no.such.Backend"}])
def test_inside_the_test_environment_all_calls_pass_whatever_the_settings_say(tmp_path, settings):
    with configured(LOCATION=str(tmp_path / "circuits"), **settings):
        touches_no_store(tmp_path)


def test_a_registry_made_before_the_test_environment_began_does_not_outlive_that(
    tmp_path, monkeypatch
):
    location = str(tmp_path / "circuits")
    with configured(LOCATION=location):
        with monkeypatch.context() as outside:
            outside.setattr(environment, "in_test_environment", lambda: False)
            held = circuit_protected("payments", failure_threshold=1)(fail)
            assert isinstance(breakers["payments"].backend, SQLiteBackend)
        fail_times(held, 3)
        assert list(tmp_path.iterdir()) == []
        assert isinstance(breakers["payments"].backend, MemoryBackend)


@pytest.mark.usefixtures("outside_of_tests")
@pytest.mark.parametrize(
    ("arguments", "child", "expected"),
    [
        (["manage.py", "runserver"], None, MemoryBackend),
        (["manage.py", "runserver"], "true", SQLiteBackend),
        (["manage.py", "runserver", "--noreload"], None, SQLiteBackend),
        (["manage.py", "migrate"], None, SQLiteBackend),
        (["manage.py"], None, SQLiteBackend),
    ],
)
def test_the_autoreloaders_parent_opens_no_store(tmp_path, monkeypatch, arguments, child, expected):
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.delenv("RUN_MAIN", raising=False)
    if child:
        monkeypatch.setenv("RUN_MAIN", child)
    breakers.declare("payments")
    with configured(LOCATION=str(tmp_path / "circuits")):
        with breakers["payments"]:
            pass
        assert type(breakers["payments"].backend) is expected
        assert (list(tmp_path.iterdir()) == []) == (expected is MemoryBackend)


@pytest.mark.usefixtures("outside_of_tests")
def test_manage_py_test_loads_the_project_as_inside_of_tests(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["manage.py", "test"])
    with configured(LOCATION=str(tmp_path / "circuits")):
        touches_no_store(tmp_path)


class StrictBackend(MemoryBackend):
    def __init__(self, *, size=1):
        if size < 0:
            raise ValueError("size must not be negative")
        super().__init__()


@pytest.mark.usefixtures("outside_of_tests")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"BACKEND": "nothing"}, r'\["BACKEND"\]: nothing doesn\'t look like a module path'),
        ({"BACKEND": "no.such.Backend"}, r"\[\"BACKEND\"\]: No module named 'no'\."),
        ({"BACKEND": "json.Backend"}, '"BACKEND".*does not define a "Backend"'),
        ({"BACKEND": "json.dumps"}, "'json.dumps' is no backend class"),
        ({"BACKEND": "json.JSONDecoder"}, "'json.JSONDecoder' is no backend class"),
        ({"OPTIONS": {"xyz": 1}}, r'\["OPTIONS"\]: .*unexpected keyword argument .xyz'),
        ({"OPTIONS": {"namespace": "a"}}, '"OPTIONS".*multiple values.*namespace'),
        ({"OPTIONS": {"location": "a"}}, '"OPTIONS".*multiple values.*location'),
        ({"OPTIONS": {5: 1}}, '"OPTIONS".*keywords must be strings'),
        ({"BACKEND": f"{__name__}.StrictBackend", "OPTIONS": {"size": -1}}, "OPTIONS.*negative"),
        ({"BACKEND": f"{__name__}.StrictBackend", "OPTIONS": {"sise": 1}}, "OPTIONS.*sise"),
    ],
    ids=str,
)
def test_a_backend_that_cannot_be_made(settings, message):
    breakers.declare("payments")
    with configured(**settings), pytest.raises(ImproperlyConfigured, match=message):
        breakers["payments"]


@pytest.mark.usefixtures("outside_of_tests")
def test_the_backend_gets_what_the_settings_say(tmp_path):
    location = tmp_path / "circuits.db"
    with configured(LOCATION=location, NAMESPACE="shop"):
        backend = registries["default"].backend
        assert str(tmp_path) in backend.describe()
        assert backend.digest == registries["default"].config.digest()
    with configured(BACKEND=f"{__name__}.StrictBackend", OPTIONS={"size": 5}):
        assert type(registries["default"].backend) is StrictBackend
    with override_settings(CIRCUIT_BREAKERS={"search": {"NAMESPACE": "shop"}}):
        assert "/shop/search." in registries["search"].backend.describe()


@pytest.mark.usefixtures("outside_of_tests")
def test_on_windows_circuits_live_in_memory_with_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(sys, "platform", "win32")
    with configured(OPTIONS={"observer": True}, LOCATION="C:\\circuits"):
        breakers.declare("payments", failure_threshold=1)
        fail_times(lambda: breakers["payments"].call(fail), 1)
        with pytest.raises(CircuitOpenError):
            breakers["payments"].call(fail)
        assert type(breakers["payments"].backend) is MemoryBackend
        warnings = [record for record in caplog.records if "Windows" in record.message]

    assert [record.message for record in warnings] == [
        'CIRCUIT_BREAKERS["default"]: on Windows each process has circuits of its own'
    ]
    assert warnings[0].levelno == logging.WARNING


def test_the_package_can_be_imported_and_used_on_windows(run):
    out = run(
        """
# Before this is "Windows".
import asyncio, os, sqlite3, subprocess, tempfile, multiprocessing, django.test
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "pwd", "grp", "resource", "termios"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
for name in ("fcntl", "pwd", "grp", "resource", "termios"):
    sys.modules.pop(name, None)
del os.register_at_fork
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["circuitbreaker_django"],
    MIDDLEWARE=["circuitbreaker_django.middleware.CircuitBreakerMiddleware"],
)
sys.platform = "win32"
django.setup()
from django.core.management import call_command
call_command("check")
from circuitbreaker_django import CircuitOpenError, breakers, circuit_protected
import circuitbreaker_django.middleware, circuitbreaker_django.operations.room
import circuitbreaker_django.testing, circuitbreaker_django.pytest_plugin

@circuit_protected("payments", failure_threshold=1)
def pay():
    raise OSError

for _ in range(2):
    try:
        pay()
    except (OSError, CircuitOpenError) as error:
        print(type(error).__name__)
print(type(breakers["payments"].backend).__name__)
call_command("breaker", "status", no_color=True)
"""
    )

    assert "OSError\nCircuitOpenError\nMemoryBackend" in out


# -- what a developer is told -------------------------------------------------------------------


@pytest.mark.usefixtures("outside_of_tests")
def test_under_debug_the_first_rejection_is_told_once_with_the_way_out(tmp_path, caplog):
    location = str(tmp_path / "circuits")
    with configured(LOCATION=location), override_settings(DEBUG=True):
        breakers.declare("card payments", failure_threshold=1, recovery_timeout=300)
        for _ in range(2):
            fail_times(lambda: breakers["card payments"].call(fail), 1)
            for _ in range(3):
                with pytest.raises(CircuitOpenError):
                    breakers["card payments"].call(fail)
            breakers["card payments"].reset()
    told = [record.getMessage() for record in caplog.records if "develop" in record.message]

    assert (
        told
        == [
            "circuit card payments: while you develop, "
            "`python manage.py breaker reset 'card payments'` closes it."
        ]
        * 2
    )


@pytest.mark.usefixtures("outside_of_tests")
def test_the_way_out_names_a_registry_that_is_not_the_default(tmp_path, caplog):
    other = {"LOCATION": str(tmp_path / "circuits")}
    with override_settings(CIRCUIT_BREAKERS={"other": other}, DEBUG=True):
        registries["other"].declare("payments")
        registries["other"]["payments"].trip(hold=True)
        with pytest.raises(CircuitOpenError):
            registries["other"]["payments"].call(fail)

    assert (
        "circuit payments: while you develop, "
        "`python manage.py breaker reset payments --registry other` closes it." in caplog.messages
    )


@live_breakers()
@override_settings(DEBUG=True)
def test_of_a_circuit_of_this_process_no_command_is_told_that_could_not_reach_it(caplog):
    breakers.declare("payments")
    breakers["payments"].trip(hold=True)
    with pytest.raises(CircuitOpenError):
        breakers["payments"].call(fail)

    assert "while you develop, a restart closes it" in caplog.text
    assert "manage.py" not in caplog.text


@live_breakers()
def test_without_debug_rejections_are_told_to_nobody(caplog):
    breakers.declare("payments")
    breakers["payments"].trip(hold=True)
    caplog.clear()
    caplog.set_level(logging.INFO)
    with pytest.raises(CircuitOpenError):
        breakers["payments"].call(fail)

    assert caplog.messages == []


# -- exceptions that cannot be found ------------------------------------------------------------


def test_exceptions_by_path_are_imported_at_the_first_exception(run):
    out = run(
        """
import sys
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["circuitbreaker_django"],
    CIRCUIT_BREAKERS={"default": {
        "BACKEND": "circuitbreaker_django.backends.memory.MemoryBackend",
        "DEFAULTS": {"exceptions": ["shop_library.Broken"]},
        "BREAKERS": {"a": {}},
    }},
)
django.setup()
from circuitbreaker_django import breakers, circuit_protected
circuit_protected("b", exceptions=["shop_library.Broken"])
for name in breakers:
    breakers[name].call(len, "")
print("shop_library" in sys.modules)
try:
    breakers["a"].call("".index, "x")
except ValueError:
    pass
print("shop_library" in sys.modules)
""",
        files={"shop_library.py": "class Broken(Exception): pass"},
    )

    assert out.split() == ["False", "True"]


@live_breakers()
def test_a_path_that_leads_nowhere_is_one_error_in_the_log_and_the_rest_counts(caplog):
    paths = ["no_such_library.Error", "json.NoSuchError", "OSError"]
    protected = circuit_protected("payments", failure_threshold=2, exceptions=paths)(fail)
    fail_times(protected, 2)
    with pytest.raises(CircuitOpenError):
        protected()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]

    assert len(errors) == 1
    assert "json.NoSuchError" in errors[0]
    assert "no_such_library" not in caplog.text


# -- processes ----------------------------------------------------------------------------------


def test_a_fork_does_not_inherit_a_lock_that_another_thread_holds():
    taken, done = threading.Event(), threading.Event()

    def hold():
        with held.lock:
            taken.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    pid = os.fork()
    if pid == 0:
        breakers.declare("payments")
        os._exit(0 if breakers["payments"].name == "payments" else 1)
    try:
        deadline = time.monotonic() + 30
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < deadline, "the child waits for a lock that nobody holds"
            time.sleep(0.01)
    finally:
        done.set()
        thread.join()

    assert os.waitstatus_to_exitcode(ended[1]) == 0


# -- the clock ----------------------------------------------------------------------------------


def test_the_clock_in_force_is_the_innermost_one():
    assert abs(registries.now() - time.monotonic_ns() // 1000) < 60_000_000
    with live_breakers() as outer:
        outer.advance(1000)
        assert registries.now() == outer()
        with live_breakers() as inner:
            assert registries.now() == inner() != outer()
        assert registries.now() == outer()


def test_a_registry_has_the_clock_it_is_given():
    clock = FakeClock()
    made = Registry(conf.RegistryConfig("default"), registries, clock=clock)

    assert made.backend.clock is clock
    assert not made.passive
