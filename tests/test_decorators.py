"""``@circuit_protected`` on services: the name, the declaration, what counts, what is refused."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured, PermissionDenied, ValidationError
from django.http import Http404, HttpResponse
from django.test import RequestFactory, override_settings
from django.utils.decorators import method_decorator
from django.utils.functional import SimpleLazyObject

from circuitbreaker_django import (
    CircuitOpenError,
    CircuitState,
    breakers,
    circuit_protected,
    registries,
    registry,
)
from circuitbreaker_django.testing import live_breakers


@pytest.fixture(autouse=True)
def clock():
    with live_breakers() as clock:
        yield clock


def state():
    return breakers["payments"].state


class Down(Exception):
    pass


def broken(*args, **kwargs):
    raise Down


def fail(func, *args):
    with pytest.raises(Down):
        func(*args)


# -- the name and the declaration -------------------------------------------------------------


def test_bare_use_is_refused_with_what_to_write():
    with pytest.raises(
        TypeError, match=r'a name is needed: write @circuit_protected\("payments"\)'
    ):
        circuit_protected(broken)  # type: ignore[arg-type]


def test_use_without_a_name_is_refused():
    with pytest.raises(TypeError, match="name"):
        circuit_protected()  # type: ignore[call-arg]


@pytest.mark.parametrize("name", [None, 5, "", "two\nlines", "x" * 201])
def test_what_cannot_be_a_name_is_refused(name):
    with pytest.raises((TypeError, ValueError), match="name must be a string of 1 to 200"):
        circuit_protected(name)


@pytest.mark.parametrize("view", ["yes", 1, 0])
def test_view_is_true_false_or_none(view):
    with pytest.raises(TypeError, match="view must be True, False or None, not"):
        circuit_protected("payments", view=view)


def test_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(TypeError, match=r"failure_treshold.*did you mean 'failure_threshold'"):
        circuit_protected("payments", failure_treshold=3)  # type: ignore[call-arg]


def test_option_out_of_range_is_refused():
    with pytest.raises(ValueError, match="recovery_timeout must be"):
        circuit_protected("payments", recovery_timeout=0)


def test_the_breaker_is_declared_before_anything_is_decorated():
    circuit_protected("payments", failure_threshold=2)
    assert "payments" in breakers
    assert breakers["payments"].policy.failure_threshold == 2


def test_the_declaration_says_where_it_stands():
    circuit_protected("payments")
    line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]
    declared = registries["default"].declared("payments")
    assert declared is not None
    assert declared.where == f"{__file__}:{line}"


def test_decorating_declares_nothing(monkeypatch):
    """``method_decorator`` decorates anew at every request."""
    decorate = circuit_protected("payments", failure_threshold=1)
    monkeypatch.setattr(registry, "declare", broken)
    fail(decorate(broken))
    with pytest.raises(CircuitOpenError):
        decorate(broken)()


def test_two_declarations_that_differ_are_refused_at_the_second():
    circuit_protected("payments", failure_threshold=2)
    with pytest.raises(ImproperlyConfigured, match="declared twice"):
        circuit_protected("payments", failure_threshold=3)


def test_the_settings_override_the_decorator():
    circuit_protected("payments", failure_threshold=2, recovery_timeout=7)
    mine = {"default": {"BREAKERS": {"payments": {"failure_threshold": 9}}}}
    with override_settings(CIRCUIT_BREAKERS=mine):
        policy = breakers["payments"].policy
        assert (policy.failure_threshold, policy.recovery_timeout) == (9, 7)


def test_the_breaker_is_looked_up_at_the_call_and_not_before():
    service = circuit_protected("search", registry="later", failure_threshold=1)(broken)
    with pytest.raises(ImproperlyConfigured, match="no registry 'later'"):
        service()
    with override_settings(CIRCUIT_BREAKERS={"default": {}, "later": {}}):
        fail(service)
        assert registries["later"]["search"].state is CircuitState.OPEN
        assert "search" not in breakers


def test_a_settings_module_may_use_it():
    """It is imported before there are settings, and touches none."""
    code = (
        "from circuitbreaker_django import circuit_protected\n"
        "@circuit_protected('payments', recovery_timeout=5)\n"
        "def pay(): pass\n"
        "from django.conf import settings\n"
        "assert not settings.configured\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- what is protected ------------------------------------------------------------------------


def test_function():
    @circuit_protected("payments", failure_threshold=2)
    def pay(amount, *, currency):
        """Pay."""
        if amount < 0:
            raise Down
        return amount, currency

    assert pay(3, currency="EUR") == (3, "EUR")
    assert (pay.__name__, pay.__doc__) == ("pay", "Pay.")
    assert str(inspect.signature(pay)) == "(amount, *, currency)"
    for _ in range(2):
        with pytest.raises(Down):
            pay(-1, currency="EUR")
    with pytest.raises(CircuitOpenError) as caught:
        pay(3, currency="EUR")
    assert (caught.value.name, caught.value.retry_after) == ("payments", 30)


async def test_coroutine_function():
    @circuit_protected("payments", failure_threshold=1)
    async def pay(amount):
        await asyncio.sleep(0)
        if amount < 0:
            raise Down
        return amount

    assert inspect.iscoroutinefunction(pay)
    assert await pay(3) == 3
    with pytest.raises(Down):
        await pay(-1)
    with pytest.raises(CircuitOpenError):
        await pay(3)


def test_methods_of_every_kind():
    class Till:
        @circuit_protected("method", failure_threshold=1)
        def method(self, well):
            return self if well else broken()

        @classmethod
        @circuit_protected("class", failure_threshold=1)
        def of_class(cls, well):
            return cls if well else broken()

        @staticmethod
        @circuit_protected("static", failure_threshold=1)
        def static(well):
            return well or broken()

    till = Till()
    assert till.method(True) is till
    assert till.of_class(True) is Till
    assert till.static(True) is True
    for method in (till.method, till.of_class, till.static):
        fail(method, False)
        with pytest.raises(CircuitOpenError):
            method(True)


@pytest.mark.parametrize("kind", [staticmethod, classmethod, property])
def test_the_wrong_order_is_refused_with_the_right_one(kind):
    with pytest.raises(TypeError, match=f"below @{kind.__name__}"):
        circuit_protected("payments")(kind(broken))


def test_class_is_refused_with_what_to_write():
    with pytest.raises(TypeError, match=r'method_decorator.*name="dispatch"'):
        circuit_protected("payments")(Down)


def test_generator_function_is_refused():
    def produce():
        yield 1

    with pytest.raises(TypeError, match="generator function"):
        circuit_protected("payments")(produce)


async def test_method_decorator_on_a_coroutine_method():
    @method_decorator(circuit_protected("payments", failure_threshold=1), name="pay")
    class Till:
        async def pay(self, well):
            return well or broken()

    assert await Till().pay(True) is True
    with pytest.raises(Down):
        await Till().pay(False)
    with pytest.raises(CircuitOpenError):
        await Till().pay(True)


async def test_sync_function_that_answers_with_a_coroutine():
    """Success is recorded when the coroutine has run, and its failure counts."""

    async def work(well):
        return well or broken()

    @circuit_protected("payments", failure_threshold=1)
    def pay(well):
        return work(well)

    assert await pay(True) is True
    with pytest.raises(Down):
        await pay(False)
    assert state() is CircuitState.OPEN


def test_switched_off_registry_lets_all_calls_pass():
    service = circuit_protected("payments", failure_threshold=1)(broken)
    with override_settings(CIRCUIT_BREAKERS={"default": {"ENABLED": False}}):
        for _ in range(3):
            fail(service)


# -- what counts in a service -----------------------------------------------------------------


@pytest.mark.parametrize("error", [Http404, PermissionDenied, ValidationError("x"), Down])
def test_in_a_service_every_exception_counts_that_the_policy_names(error):
    @circuit_protected("payments", failure_threshold=1)
    def pay():
        raise error

    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        pay()
    assert state() is CircuitState.OPEN


def test_in_a_service_other_exceptions_count_as_nothing():
    @circuit_protected("payments", failure_threshold=1, exceptions=["OSError"])
    def pay(error):
        raise error

    for error in (Down, CircuitOpenError("inner", CircuitState.OPEN, 3)):
        with pytest.raises((Down, CircuitOpenError)):
            pay(error)
    assert state() is CircuitState.CLOSED
    with pytest.raises(ConnectionError):
        pay(ConnectionError)
    assert state() is CircuitState.OPEN


def test_a_service_may_take_a_request():
    request = RequestFactory().get("/")

    @circuit_protected("payments", view=False, failure_threshold=2)
    def pay(request, error):
        if error:
            raise error
        return HttpResponse(status=503)

    assert pay(request, None).status_code == 503  # an answer of the dependency's, and no failure
    for _ in range(2):
        with pytest.raises(Http404):
            pay(request, Http404)
    with pytest.raises(CircuitOpenError):
        pay(request, None)


def test_a_service_without_a_request_is_no_view():
    @circuit_protected("payments", failure_threshold=1)
    def pay(answer):
        if answer is None:
            raise Http404
        return answer

    response = HttpResponse(status=500)
    assert pay(response) is response
    assert state() is CircuitState.CLOSED
    with pytest.raises(Http404):
        pay(None)
    with pytest.raises(CircuitOpenError):
        pay(None)


def test_lazy_and_slotted_arguments_are_left_asleep():
    """``request.user`` is lazy: to wake it is a query, maybe of what is down."""

    class Slotted:
        __slots__ = ()

    @circuit_protected("payments", failure_threshold=1)
    def pay(user, other):
        raise Down

    user = SimpleLazyObject(broken)
    fail(pay, user, Slotted())
    with pytest.raises(CircuitOpenError):
        pay(user, Slotted())
    with pytest.raises(CircuitOpenError):
        pay(Slotted(), user)
