"""``@circuit_protected`` on services: the name, the declaration, what counts, what is refused."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import subprocess
import sys

import pytest
from asgiref.sync import async_to_sync, sync_to_async
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
    monkeypatch.setattr(registries, "declare", broken)
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


def test_generator_function():
    @circuit_protected("payments", failure_threshold=1)
    def produce(well):
        yield 1
        yield well or broken()

    assert inspect.isgeneratorfunction(produce)
    assert list(produce(True)) == [1, True]
    items = produce(False)
    assert next(items) == 1
    fail(next, items)
    with pytest.raises(CircuitOpenError):
        list(produce(True))


async def test_async_generator_function():
    @circuit_protected("payments", failure_threshold=1)
    async def produce(well):
        yield 1
        yield well or broken()

    assert inspect.isasyncgenfunction(produce)
    assert [item async for item in produce(True)] == [1, True]
    with pytest.raises(Down):
        [item async for item in produce(False)]
    with pytest.raises(CircuitOpenError):
        await anext(produce(True))


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


# -- instead of the answer --------------------------------------------------------------------


async def test_fallback_for_rejections():
    @circuit_protected("payments", failure_threshold=1, fallback=lambda amount: ("later", amount))
    def pay(amount):
        raise Down

    async def later(amount):
        return "later", amount

    @circuit_protected("payments", failure_threshold=1, fallback=later)
    async def apay(amount):
        raise Down

    fail(pay, 3)
    for _ in range(2):
        assert pay(3) == ("later", 3)
        assert await apay(3) == ("later", 3)


async def test_fallback_for_failures():
    protect = circuit_protected(
        "payments", failure_threshold=4, fallback=None, fallback_on_failure=True
    )
    pay = protect(broken)

    @protect
    async def apay():
        broken()

    for _ in range(2):
        assert pay() is None
        assert await apay() is None
    assert state() is CircuitState.OPEN


def test_fallback_on_failure_needs_a_fallback():
    with pytest.raises(TypeError, match="needs a fallback"):
        circuit_protected("payments", fallback_on_failure=True)


def test_async_fallback_of_a_sync_function_is_refused():
    async def later():
        pass

    with pytest.raises(TypeError, match="broken is sync"):
        circuit_protected("payments", fallback=later)(broken)


def test_what_is_refused_declares_nothing():
    with pytest.raises(TypeError, match="needs a fallback"):
        circuit_protected("refused", fallback_on_failure=True)
    assert "refused" not in breakers


# -- a breaker for each key -------------------------------------------------------------------


async def test_each_key_has_a_breaker_of_its_own():
    protect = circuit_protected("tenant", failure_threshold=1, key=lambda tenant, well=True: tenant)

    @protect
    def pay(tenant, well=True):
        return well or broken()

    @protect
    async def apay(tenant, well=True):
        return well or broken()

    @protect
    def produce(tenant, well=True):
        yield well or broken()

    @protect
    async def aproduce(tenant, well=True):
        yield well or broken()

    async def first(result):
        if inspect.isgenerator(result):
            return next(result)
        if inspect.isasyncgen(result):
            return await anext(result)
        return await result if inspect.isawaitable(result) else result

    for func in (pay, apay, produce, aproduce):
        with pytest.raises(Down):
            await first(func("one", well=False))
        with pytest.raises(CircuitOpenError):
            await first(func("one"))
        assert await first(func("two")) is True
        breakers["tenant:one"].reset()
    assert breakers["tenant"].state is CircuitState.CLOSED


def test_the_common_breaker_is_used_when_the_key_raises_and_it_is_logged_once(caplog):
    pay = circuit_protected("tenant", failure_threshold=2, key=lambda tenant: tenant.pk)(broken)
    for _ in range(2):
        fail(pay, None)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "'tenant'" in record.getMessage()
    assert record.exc_info is not None
    assert breakers["tenant"].state is CircuitState.OPEN


@pytest.mark.parametrize("problem", ["ValueError", "UnicodeError", "RecursionError"])
def test_the_common_breaker_is_used_when_the_key_is_no_text(problem):
    class Tenant:
        def __str__(self):
            raise getattr(builtins, problem)

    pay = circuit_protected("tenant", failure_threshold=1, key=lambda tenant: tenant)(broken)
    fail(pay, Tenant())
    assert breakers["tenant"].state is CircuitState.OPEN


def test_a_key_may_be_interrupted():
    def key():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        circuit_protected("tenant", key=key)(broken)()


def test_the_key_gets_what_the_function_gets():
    class Client:
        tenant = "acme"

        @circuit_protected("tenant", failure_threshold=1, key=lambda self, *a, **k: self.tenant)
        def pay(self, amount, *, currency):
            raise Down(amount, currency)

    with pytest.raises(Down):
        Client().pay(5, currency="eur")
    assert breakers["tenant:acme"].state is CircuitState.OPEN
    assert breakers["tenant"].state is CircuitState.CLOSED


def test_a_family_is_known_before_its_first_call():
    circuit_protected("tenant", failure_threshold=3, key=lambda tenant: tenant)

    assert list(breakers) == ["tenant"]
    assert breakers["tenant:acme"].policy.failure_threshold == 3


async def key_that_waits():
    """No key can be async: which breaker it is has to be known before anything is awaited."""


@pytest.mark.parametrize("key", ["pk", 5, False, key_that_waits], ids=repr)
def test_key_is_a_sync_callable(key):
    with pytest.raises(TypeError, match="key must be a sync callable that gets the call's arg"):
        circuit_protected("tenant", key=key)


def test_a_name_that_no_family_can_have_is_told_where_it_decorates():
    with pytest.raises(ValueError, match="the name of a breaker that has keys"):
        circuit_protected("tenant:*", key=lambda tenant: tenant)


# -- what is judged ---------------------------------------------------------------------------


@pytest.mark.parametrize("statuses", [5, None, ["500"], [True], [500.0], "500"])
def test_failure_statuses_are_numbers(statuses):
    with pytest.raises(TypeError, match="failure_statuses must be HTTP statuses from 100 to 599"):
        circuit_protected("payments", failure_statuses=statuses)


@pytest.mark.parametrize("status", [99, 600, -1])
def test_failure_statuses_are_those_of_http(status):
    with pytest.raises(ValueError, match=f"from 100 to 599, such as .*, not {status}$"):
        circuit_protected("payments", failure_statuses=[status])


@pytest.mark.parametrize("stream", [1, None, "yes"])
def test_stream_is_true_or_false(stream):
    with pytest.raises(TypeError, match="stream must be True or False, not"):
        circuit_protected("payments", stream=stream)


def test_results_are_judged_by_the_predicate():
    @circuit_protected("payments", failure_threshold=2, result_predicate=lambda result: not result)
    def pay(amount):
        return amount

    for amount in (0, 5, 0):
        assert pay(amount) == amount
    assert state() is CircuitState.OPEN


# -- a view and the service that it calls under one breaker -----------------------------------


def test_a_failure_of_a_service_counts_once_though_its_view_has_the_same_breaker():
    service = circuit_protected("payments", failure_threshold=2)(broken)

    @circuit_protected("payments", failure_threshold=2)
    def view(request):
        service()

    request = RequestFactory().get("/")
    fail(view, request)
    assert state() is CircuitState.CLOSED
    fail(view, request)
    assert state() is CircuitState.OPEN


async def test_a_failure_of_a_service_in_a_thread_counts_once_though_its_async_view_has_the_same():
    service = circuit_protected("payments", failure_threshold=2)(broken)

    @circuit_protected("payments", failure_threshold=2)
    async def view(request):
        await sync_to_async(service)()

    request = RequestFactory().get("/")
    for expected in (CircuitState.CLOSED, CircuitState.OPEN):
        with pytest.raises(Down):
            await view(request)
        assert state() is expected


def test_a_failure_of_an_async_service_counts_once_though_its_sync_view_has_the_same_breaker():
    @circuit_protected("payments", failure_threshold=2)
    async def service():
        raise Down

    @circuit_protected("payments", failure_threshold=2)
    def view(request):
        async_to_sync(service)()

    request = RequestFactory().get("/")
    fail(view, request)
    assert state() is CircuitState.CLOSED
    fail(view, request)
    assert state() is CircuitState.OPEN
