"""What the tests of projects use: breakers that are off, live, or in a given state."""

from __future__ import annotations

import inspect
import os
import unittest
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import SimpleTestCase, override_settings

from circuitbreaker_django import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    UnknownBreakerError,
    breakers,
    circuit_protected,
    registries,
)
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.testing import FakeClock, live_breakers, override_breaker

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.fixture(autouse=True)
def _payments():
    breakers.declare("payments", failure_threshold=1, recovery_timeout=30)
    breakers.declare("mail", failure_threshold=1, recovery_timeout=30)


def fail(name="payments"):
    """Let the breaker of this name see a failure."""
    with pytest.raises(OSError), breakers[name]:
        raise OSError


def passes(name="payments"):
    try:
        with breakers[name]:
            return True
    except CircuitOpenError:
        return False


# -- switched off -------------------------------------------------------------------------------


def test_without_a_helper_all_calls_pass_and_every_breaker_is_closed():
    fail()
    assert passes()
    breakers["payments"].trip(hold=True)
    assert passes()
    assert breakers["payments"].state is CLOSED
    assert breakers["payments"].mode == "auto"


# -- live ---------------------------------------------------------------------------------------


def test_live_breakers_work_by_a_clock_that_the_test_controls():
    with live_breakers() as clock:
        fail()
        assert not passes()
        assert breakers["payments"].state is OPEN
        assert passes("mail")
        clock.advance(29.9)
        assert not passes()
        clock.advance(0.2)
        assert breakers["payments"].state is HALF_OPEN
        assert passes()
        assert breakers["payments"].state is CLOSED
    fail()
    assert passes()


def test_live_circuits_are_fresh_each_time():
    for _ in range(2):
        with live_breakers():
            assert passes()
            fail()
            assert not passes()


def test_live_circuits_are_in_memory_whatever_the_settings_say(tmp_path):
    location = str(tmp_path / "circuits")
    with (
        override_settings(CIRCUIT_BREAKERS={"default": {"LOCATION": location}}),
        live_breakers(),
    ):
        fail()
        assert not passes()
        assert type(breakers["payments"].backend) is MemoryBackend
    assert list(tmp_path.iterdir()) == []


def test_the_clock_goes_forward_only():
    clock = FakeClock()
    before = clock()
    clock.advance(0)
    clock.advance(1.5)
    with pytest.raises(ValueError, match="must not be negative, not -1"):
        clock.advance(-1)

    assert clock() == before + 1_500_000


@pytest.mark.parametrize("order", ["settings inside", "settings outside"])
def test_settings_that_are_overridden_inside_are_in_force_and_keep_it_live(order):
    settings = override_settings(
        CIRCUIT_BREAKERS={"default": {"BREAKERS": {"payments": {"recovery_timeout": 300}}}}
    )
    live = live_breakers()
    outer, inner = (live, settings) if order == "settings inside" else (settings, live)
    with outer as outer_context, inner as inner_context:
        clock = inner_context if order == "settings outside" else outer_context
        assert isinstance(clock, FakeClock)
        fail()
        clock.advance(299)
        assert not passes()
        clock.advance(2)
        assert passes()
    fail()
    assert passes()


def test_settings_that_switch_off_do_so_also_inside():
    with live_breakers(), override_settings(CIRCUIT_BREAKERS={"default": {"ENABLED": False}}):
        fail()
        assert passes()


def test_other_settings_that_are_overridden_inside_leave_circuits_as_they_are():
    with live_breakers():
        fail()
        with override_settings(DEBUG=True, LANGUAGE_CODE="de"):
            assert not passes()


def test_live_breakers_nested_are_fresh_inside_and_as_before_outside():
    with live_breakers() as outer:
        fail()
        with live_breakers() as inner:
            assert passes()
            fail("mail")
            inner.advance(1000)
        assert not passes()
        assert passes("mail")
        outer.advance(31)
        assert passes()


def test_functions_that_were_called_before_see_what_is_switched_on_later():
    succeed = circuit_protected("payments")(lambda: 5)
    held = breakers["payments"]
    by_breaker = held(lambda: 5)

    def rejected():
        with pytest.raises(CircuitOpenError):
            succeed()
        with pytest.raises(CircuitOpenError):
            by_breaker()
        return True

    with live_breakers():
        for _ in range(3):  # by now the closed path is the short one
            assert succeed() == by_breaker() == 5
        with live_breakers():
            held.trip(hold=True)
            assert rejected()
        assert succeed() == by_breaker() == 5
        with override_breaker("payments", state="open"):
            assert rejected()
        assert succeed() == by_breaker() == 5


def test_live_breakers_may_end_in_another_order_than_they_began():
    first, second = live_breakers(), live_breakers()
    first.enable()
    second.enable()
    fail()
    first.disable()
    assert not passes()
    second.disable()
    assert passes()


def test_one_helper_may_be_used_within_itself():
    live = live_breakers()
    with live:
        fail()
        with live:
            assert passes()
        assert not passes()
    assert passes()


def test_an_exception_passes_and_switches_off():
    with pytest.raises(OSError, match="of the test"), live_breakers():  # noqa: PT012
        fail()
        raise OSError("of the test")
    assert passes()


# -- one breaker in a given state ---------------------------------------------------------------


@pytest.mark.parametrize("state", ["closed", "open", "half_open"])
def test_a_breaker_is_put_into_a_state(state, caplog):
    with override_breaker("payments", state=state) as breaker:
        assert breaker is breakers["payments"]
        assert breaker.state == state
        assert passes() is (state != "open")
    assert breaker.state is CLOSED
    assert passes()
    assert "OPEN" not in caplog.text
    assert not [record for record in caplog.records if "is open" in record.message]


def test_open_is_held_without_an_end():
    with live_breakers() as clock, override_breaker("payments", state="open") as breaker:
        clock.advance(1e8)
        with pytest.raises(CircuitOpenError) as raised, breaker:
            pass
        assert raised.value.retry_after is None


def test_half_open_lets_one_trial_decide():
    with override_breaker("payments", state="half_open") as breaker:
        with breaker:
            assert not passes() or breaker.state is HALF_OPEN
        assert breaker.state is CLOSED
    with override_breaker("payments", state="half_open") as breaker:
        fail()
        assert breaker.state is OPEN


def test_closed_is_at_work():
    with override_breaker("payments", state="closed"):
        fail()
        assert not passes()


def test_all_others_go_on_as_they_are():
    with override_breaker("payments", state="closed"):
        fail("mail")
        assert passes("mail")
    with live_breakers(), override_breaker("payments", state="closed"):
        fail("mail")
        assert not passes("mail")


def test_functions_decorated_before_and_breakers_held_before_see_it():
    held = breakers["payments"]
    protected = circuit_protected("payments")(lambda: 5)
    by_breaker = held(lambda: 5)
    for _ in range(2):
        assert protected() == by_breaker() == held.call(lambda: 5) == 5
        with override_breaker("payments", state="open"):
            for rejected in (protected, by_breaker, lambda: held.call(lambda: 5)):
                with pytest.raises(CircuitOpenError):
                    rejected()


def test_another_registrys_breaker():
    with override_settings(CIRCUIT_BREAKERS={"other": {"BREAKERS": {"payments": {}}}}):
        with override_breaker("payments", state="open", registry="other"):
            assert registries["other"]["payments"].state is OPEN
            assert breakers["payments"].state is CLOSED
        with pytest.raises(ImproperlyConfigured, match="no registry 'othr'"):
            override_breaker("payments", state="open", registry="othr").enable()


def test_an_override_works_where_breakers_are_switched_off():
    with (
        override_settings(CIRCUIT_BREAKERS={"default": {"ENABLED": False}}),
        override_breaker("payments", state="open"),
    ):
        assert not passes()


def test_an_unknown_name_is_told_when_the_test_begins_and_leaves_nothing_behind():
    helper = override_breaker("paymets", state="open")
    with pytest.raises(UnknownBreakerError, match="did you mean 'payments'"):
        helper.enable()

    assert registries._overrides == []


def test_an_unknown_state():
    with pytest.raises(ValueError, match="ajar"):
        override_breaker("payments", state="ajar")


def test_a_name_that_only_a_view_declares_is_found(run):
    """Views are imported at the first request, which is later than a test begins."""
    out = run(
        """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["circuitbreaker_django"], ROOT_URLCONF="shop_urls")
django.setup()
from django.test import Client
from django.test.utils import setup_test_environment
setup_test_environment()
from circuitbreaker_django.testing import override_breaker
with override_breaker("checkout", state="open"):
    print(Client().get("/").status_code)
print(Client().get("/").status_code)
""",
        files={
            "shop_urls.py": """
from django.http import HttpResponse
from django.urls import path
from circuitbreaker_django import circuit_protected

@circuit_protected("checkout")
def checkout(request):
    return HttpResponse("paid")

urlpatterns = [path("", checkout)]
"""
        },
    )

    assert out.split() == ["503", "200"]


# -- nested -------------------------------------------------------------------------------------


def test_an_override_within_live_breakers_leaves_their_circuits_as_they_were():
    with live_breakers() as clock:
        fail()
        with override_breaker("payments", state="closed"):
            assert passes()
        assert not passes()
        clock.advance(31)
        with override_breaker("payments", state="open"):
            assert not passes()
        assert passes()


def test_live_breakers_within_an_override_keep_it_and_have_it_by_their_clock():
    with override_breaker("payments", state="half_open") as breaker:
        with live_breakers() as clock:
            assert breaker.state is HALF_OPEN
            fail()
            assert breaker.state is OPEN
            clock.advance(31)
            assert breaker.state is HALF_OPEN
            fail("mail")
            assert not passes("mail")
        assert breaker.state in (OPEN, HALF_OPEN)
        assert passes("mail")
    assert breaker.state is CLOSED
    assert passes()


def test_overrides_nested_are_as_before_when_the_inner_one_ends():
    with override_breaker("payments", state="open"):
        with override_breaker("payments", state="closed"):
            fail()
            with override_breaker("payments", state="half_open") as breaker:
                assert breaker.state is HALF_OPEN
            assert breaker.state is OPEN
            assert breaker.mode == "auto"
        assert breaker.mode == "forced_open"
    assert passes()


def test_overrides_of_two_breakers():
    with override_breaker("payments", state="open"), override_breaker("mail", state="half_open"):
        assert (breakers["payments"].state, breakers["mail"].state) == (OPEN, HALF_OPEN)


def test_an_override_outlives_a_change_of_settings():
    with override_breaker("payments", state="open"):
        with override_settings(CIRCUIT_BREAKERS={"default": {}}):
            assert not passes()
        assert not passes()
    assert passes()


def test_an_override_has_the_policy_in_force():
    settings = {"default": {"BREAKERS": {"payments": {"failure_threshold": 2}}}}
    with override_breaker("payments", state="closed"):
        with override_settings(CIRCUIT_BREAKERS=settings):
            fail()
            assert passes()
            fail()
            assert not passes()
        assert breakers["payments"].policy.failure_threshold == 1


# -- as decorators ------------------------------------------------------------------------------


@live_breakers()
def test_decorated_function():
    fail()
    assert not passes()


@live_breakers(kwarg_name="clock")
def with_clock(argument, *, clock=None):
    fail()
    clock.advance(31)
    return argument, passes()


def test_decorated_function_with_the_clock():
    assert with_clock(5) == (5, True)
    assert passes()


@override_breaker("payments", state="open", kwarg_name="breaker")
def with_breaker(*, breaker=None):
    return breaker.state


def test_decorated_function_with_the_breaker():
    assert with_breaker() is OPEN


@live_breakers()
async def test_decorated_async_function():
    fail()
    with pytest.raises(CircuitOpenError):
        async with breakers["payments"]:
            pass


@override_breaker("payments", state="open")
async def test_async_function_with_an_override():
    assert breakers["payments"].state is OPEN


def test_a_decorated_coroutine_function_stays_one():
    assert inspect.iscoroutinefunction(test_decorated_async_function)


@override_breaker("payments", state="open")
@live_breakers()
def test_both_decorators():
    fail("mail")
    assert not passes("mail")
    assert not passes()


@live_breakers()
@override_breaker("payments", state="open")
def test_both_decorators_in_the_other_order():
    fail("mail")
    assert not passes("mail")
    assert not passes()


def open_now(name="payments"):
    return breakers[name].state is OPEN


@live_breakers(attr_name="clock")
class LiveTests(SimpleTestCase):
    clock: FakeClock

    def setUp(self):
        assert not open_now()
        fail()

    def test_one(self):
        assert open_now()
        self.clock.advance(31)
        assert not open_now()

    def test_other(self):
        assert open_now()

    @override_breaker("payments", state="half_open")
    async def test_async_with_an_override(self):
        assert breakers["payments"].state is HALF_OPEN


@override_breaker("payments", state="open", attr_name="breaker")
class OverriddenTests(unittest.TestCase):
    breaker: CircuitBreaker

    def test_one(self):
        assert open_now()
        assert self.breaker is breakers["payments"]

    @override_breaker("payments", state="closed")
    def test_other(self):
        assert not open_now()


@live_breakers(attr_name="clock")
class TestLive:
    clock: FakeClock

    @pytest.fixture(autouse=True)
    def _broken(self):
        fail()

    def test_one(self):
        assert open_now()
        self.clock.advance(31)
        assert not open_now()

    def test_other(self):
        assert open_now()

    async def test_async(self):
        assert open_now()

    @staticmethod
    def test_static():
        assert open_now()

    @override_breaker("payments", state="closed")
    def test_with_an_override(self):
        assert not open_now()

    @pytest.mark.parametrize("name", ["mail"])
    def test_with_parameters(self, name):
        assert not open_now(name)


class TestInherited(TestLive):
    def test_more(self):
        assert open_now()


@live_breakers()
@override_breaker("payments", state="half_open")
@override_breaker("mail", state="open")
class TestSeveral:
    def test_all_are_in_force(self):
        assert breakers["payments"].state is HALF_OPEN
        assert open_now("mail")


@override_breaker("payments", state="open")
@override_breaker("payments", state="half_open")
class TestTwice:
    def test_the_inner_one_counts(self):
        assert breakers["payments"].state is HALF_OPEN


class TestAfterThem:
    def test_nothing_is_left(self):
        fail()
        assert passes()
        assert len(registries._layers) == 1
        assert registries._overrides == []


def test_something_that_cannot_be_decorated():
    with pytest.raises(TypeError, match="Cannot decorate"):
        live_breakers()(5)  # type: ignore[type-var]


# -- outside of the test environment ------------------------------------------------------------


@pytest.mark.usefixtures("outside_of_tests")
@pytest.mark.parametrize("helper", [live_breakers(), override_breaker("payments", state="open")])
def test_refused_outside_of_the_test_environment(helper):
    with pytest.raises(RuntimeError, match="is for tests: Django's setup_test_environment has not"):
        helper.enable()
    assert len(registries._layers) == 1
    assert registries._overrides == []


def test_refused_in_a_real_process_until_the_test_environment_is_set_up(run):
    out = run(
        """
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["circuitbreaker_django"],
    CIRCUIT_BREAKERS={"default": {"LOCATION": __file__ + ".circuits"}},
)
django.setup()
from django.test.utils import setup_test_environment, teardown_test_environment
from circuitbreaker_django import breakers
from circuitbreaker_django.testing import live_breakers
breakers.declare("payments")
held = breakers["payments"]

def attempt():
    try:
        with live_breakers():
            return "live", held.passive
    except RuntimeError:
        breakers["payments"]
        return "refused", held.passive, type(held.backend).__name__

print(attempt())
setup_test_environment()
print(attempt(), held.passive, type(held.backend).__name__)
teardown_test_environment()
print(attempt())
"""
    )

    assert out.splitlines() == [
        "('refused', False, 'SQLiteBackend')",
        "('live', False) True MemoryBackend",
        "('refused', False, 'SQLiteBackend')",
    ]


# -- tests in parallel --------------------------------------------------------------------------

SHOP = {
    "shop/__init__.py": "",
    "shop/models.py": """
from circuitbreaker_django import breakers, circuit_protected

payments = breakers["payments"]  # before the tests' environment begins

@circuit_protected("payments")
def pay():
    raise OSError
""",
    "shop/breakers.py": """
from circuitbreaker_django import breakers
breakers.declare("payments", failure_threshold=1)
""",
    "shop/tests.py": """
from django.test import SimpleTestCase
from circuitbreaker_django import CircuitOpenError, breakers
from circuitbreaker_django.testing import live_breakers
from shop.models import pay, payments

class Case:
    def test_a(self):
        for call in (pay, pay, lambda: payments.call(pay)):
            with self.assertRaises(OSError):
                call()

    @live_breakers()
    def test_live(self):
        with self.assertRaises(OSError):
            pay()
        for call in (pay, lambda: payments.call(pay)):
            with self.assertRaises(CircuitOpenError):
                call()

    def test_z(self):
        self.test_a()

class One(Case, SimpleTestCase): pass
class Two(Case, SimpleTestCase): pass
class Three(Case, SimpleTestCase): pass
""",
    "shop_settings.py": """
from pathlib import Path
SECRET_KEY = "x"
INSTALLED_APPS = ["shop", "circuitbreaker_django"]
CIRCUIT_BREAKERS = {"default": {
    "LOCATION": Path(__file__).parent / "circuits.sqlite3",
    "BREAKERS": {"payments": {"recovery_timeout": 300}},
}}
""",
}
MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "shop_settings"
from django.core.management import execute_from_command_line
if __name__ == "__main__":
    execute_from_command_line(sys.argv)
"""


@pytest.mark.parametrize("options", [[], ["--parallel", "2"]], ids=["serial", "parallel"])
def test_a_projects_own_suite_meets_no_worker_and_no_other_test(run, tmp_path, options):
    run(MANAGE, "test", "shop", *options, files=SHOP)

    assert not [path for path in tmp_path.iterdir() if "circuits" in path.name]


def test_a_project_run_by_pytest_meets_no_worker_and_no_other_test(run, tmp_path):
    """The project is imported before pytest-django begins the test environment."""
    run(
        "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))",
        *["-p", "no:cacheprovider", "-p", "no:asyncio", f"--rootdir={tmp_path}", "-c", os.devnull],
        *["--ds=shop_settings", str(tmp_path / "shop" / "tests.py")],
        files=SHOP,
    )

    assert not [path for path in tmp_path.iterdir() if "circuits" in path.name]


def test_the_examples_of_this_suite_leave_nothing_in_the_folder_of_the_tests():
    assert not [path for path in Path(__file__).parent.iterdir() if "circuits" in path.name]
