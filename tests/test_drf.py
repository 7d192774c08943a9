"""``@circuit_protected`` on the views of Django REST framework."""

# mypy: allow-subclassing-any
from __future__ import annotations

import json

import pytest
from django.test import RequestFactory
from django.utils.decorators import method_decorator
from rest_framework import exceptions
from rest_framework.decorators import action, api_view
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from circuitbreaker_django import CircuitState, breakers, circuit_protected
from circuitbreaker_django.testing import live_breakers

FINE = "fine"


@pytest.fixture(autouse=True)
def clock():
    with live_breakers() as clock:
        yield clock


class Down(Exception):
    pass


def protect():
    return circuit_protected("shop", failure_threshold=1)


def do(what):
    if what is FINE:
        return Response({"answer": FINE})
    raise what


def below_api_view():
    @api_view(["GET", "POST"])
    @protect()
    def shop(request, what):
        return do(what)

    return shop


def above_api_view():
    @protect()
    @api_view(["GET", "POST"])
    def shop(request, what):
        return do(what)

    return shop


def handler():
    class Shop(APIView):
        @protect()
        def get(self, request, what):
            return do(what)

        post = get

    return Shop.as_view()


def dispatch():
    @method_decorator(protect(), name="dispatch")
    class Shop(APIView):
        def get(self, request, what):
            return do(what)

        post = get

    return Shop.as_view()


def as_view():
    class Shop(APIView):
        def get(self, request, what):
            return do(what)

        post = get

    return protect()(Shop.as_view())


def standard_action():
    class Shop(ViewSet):
        @protect()
        def list(self, request, what):
            return do(what)

    return Shop.as_view({"get": "list", "post": "list"})


def extra_action():
    class Shop(ViewSet):
        @action(detail=False, methods=["get", "post"])
        @protect()
        def sale(self, request, what):
            return do(what)

    return Shop.as_view({"get": "sale", "post": "sale"})


def above_extra_action():
    class Shop(ViewSet):
        @protect()
        @action(detail=False, methods=["get", "post"])
        def sale(self, request, what):
            return do(what)

    assert [extra.url_path for extra in Shop.get_extra_actions()] == ["sale"]
    return Shop.as_view({"get": "sale", "post": "sale"})


every_way = pytest.mark.parametrize(
    "make",
    [
        below_api_view,
        above_api_view,
        handler,
        dispatch,
        as_view,
        standard_action,
        extra_action,
        above_extra_action,
    ],
)


def visit(view, what=FINE, accept="application/json"):
    return view(RequestFactory().get("/", headers={"accept": accept}), what)


@every_way
def test_success_passes_and_failures_open(make):
    view = make()
    assert visit(view).data == {"answer": FINE}
    with pytest.raises(Down):
        visit(view, Down)
    rejected = visit(view)
    assert (rejected.status_code, rejected["Retry-After"]) == (503, "30")
    assert json.loads(rejected.content)["retry_after"] == 30
    assert "text/html" in visit(view, accept="text/html")["Content-Type"]


@every_way
def test_csrf_exemption_survives(make):
    assert make().csrf_exempt is True


@every_way
@pytest.mark.parametrize(
    "error",
    [
        exceptions.NotAuthenticated,
        exceptions.PermissionDenied,
        exceptions.NotFound,
        exceptions.ParseError,
        exceptions.ValidationError,
        exceptions.Throttled,
    ],
)
def test_what_visitors_do_wrong_counts_as_nothing(make, error):
    assert 400 <= visit(make(), error).status_code < 500
    assert breakers["shop"].state is CircuitState.CLOSED


@every_way
def test_api_exception_of_status_500_counts(make):
    assert visit(make(), exceptions.APIException).status_code == 500
    assert breakers["shop"].state is CircuitState.OPEN


def test_a_body_that_cannot_be_parsed_does_not_open():
    @api_view(["POST"])
    @protect()
    def shop(request):
        return Response(request.data)

    request = RequestFactory().post("/", b"{", content_type="application/json")
    assert shop(request).status_code == 400
    assert breakers["shop"].state is CircuitState.CLOSED


@every_way
def test_a_rejected_view_keeps_the_vary_of_the_framework(make):
    view = make()
    breakers["shop"].trip()
    vary = visit(view)["Vary"].lower().split(", ")
    assert vary.count("accept") == 1
