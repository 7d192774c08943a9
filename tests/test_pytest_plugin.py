"""The pytest plugin: its fixtures, and that it costs other suites nothing."""

from __future__ import annotations

import pytest

from circuitbreaker_django import (
    CircuitOpenError,
    CircuitState,
    breakers,
    pytest_plugin,
    registries,
)
from circuitbreaker_django.testing import FakeClock

#: pytest with this plugin and few others; it says which parts of Django it has met.
PYTEST = """
import sys, pytest
from circuitbreaker_django import pytest_plugin

class ByName:
    def pytest_configure(self, config):
        if not config.pluginmanager.has_plugin("circuitbreaker_django"):
            config.pluginmanager.register(pytest_plugin, "circuitbreaker_django")

options = ["-pno:cacheprovider", "-pno:asyncio", "-c/dev/null", *sys.argv[1:]]
code = pytest.main(options, plugins=[ByName()])
print("django:", [name for name in sys.modules if name.partition(".")[0] == "django"])
sys.exit(code)
"""


@pytest.fixture(autouse=True)
def _payments():
    breakers.declare("payments", failure_threshold=1)


def state():
    return breakers["payments"].state


def test_live_breakers(live_breakers):
    assert isinstance(live_breakers, FakeClock)
    with pytest.raises(OSError), breakers["payments"]:
        raise OSError
    with pytest.raises(CircuitOpenError), breakers["payments"]:
        pass
    live_breakers.advance(31)
    assert state() is CircuitState.HALF_OPEN


def test_live_breakers_are_switched_off_afterwards():
    assert registries["default"].passive
    assert state() is CircuitState.CLOSED


@pytest.mark.usefixtures("live_breakers")
class TestAsAMark:
    @pytest.mark.parametrize("_", range(2))
    def test_state_is_fresh_each_time(self, _):
        assert state() is CircuitState.CLOSED
        breakers["payments"].trip()
        assert state() is CircuitState.OPEN


async def test_live_breakers_in_an_async_test(live_breakers):
    breakers["payments"].trip()
    with pytest.raises(CircuitOpenError):
        async with breakers["payments"]:
            pass


def test_override_breaker(override_breaker):
    with override_breaker("payments", state="open"):
        assert state() is CircuitState.OPEN
    assert state() is CircuitState.CLOSED


def test_override_breaker_with_live_breakers(override_breaker, live_breakers):
    with override_breaker("payments", state="half_open") as breaker:
        with pytest.raises(OSError), breaker:
            raise OSError
        assert state() is CircuitState.OPEN
        live_breakers.advance(31)
        assert state() is CircuitState.HALF_OPEN


def test_the_plugin_is_loaded_once(pytestconfig):
    assert pytestconfig.pluginmanager.get_plugin("circuitbreaker_django") is pytest_plugin


def test_loading_the_plugin_imports_nothing_of_django(run):
    out = run(
        """
import sys
import circuitbreaker_django.pytest_plugin
print([name for name in sys.modules if name.partition(".")[0] in ("django", "asgiref")])
"""
    )

    assert out.strip() == "[]"


def test_a_breaker_that_a_project_holds_since_its_import_is_off_before_the_first_test(
    run, tmp_path
):
    run(
        PYTEST,
        "--ds=shop_settings",
        str(tmp_path / "test_shop.py"),
        files={
            "shop_settings.py": """
from pathlib import Path
SECRET_KEY = "x"
INSTALLED_APPS = ["circuitbreaker_django"]
CIRCUIT_BREAKERS = {"default": {
    "LOCATION": Path(__file__).parent / "circuits.sqlite3",
    "BREAKERS": {"payments": {"failure_threshold": 1}},
}}
""",
            "test_shop.py": """
import pytest
from circuitbreaker_django import breakers

payments = breakers["payments"]
assert not payments.passive

def fail():
    raise OSError

@pytest.mark.parametrize("attempt", range(3))
def test_all_calls_pass(attempt):
    assert payments.passive
    with pytest.raises(OSError):
        payments.call(fail)
""",
        },
    )

    assert not [path for path in tmp_path.iterdir() if "circuits" in path.name]


def test_a_suite_that_has_nothing_to_do_with_django_does_not_meet_it(run, tmp_path):
    out = run(
        PYTEST,
        "-pno:django",
        str(tmp_path / "test_plain.py"),
        files={"test_plain.py": "def test_plain(): pass"},
    )

    assert "1 passed" in out
    assert "django: []" in out
