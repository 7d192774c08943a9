"""503 for every circuit that is open below a view, in both kinds of stacks, and quietly."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.core import mail
from django.http import HttpResponse
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.views import View

from circuitbreaker_django import CircuitState, breakers, circuit_protected
from circuitbreaker_django.middleware import CircuitBreakerMiddleware
from circuitbreaker_django.testing import live_breakers

#: Admins to bother, as each release of Django wants it.
ADMINS: dict[str, Any] = {"ADMINS": ["admin@example.com"]}
if django.VERSION < (6,):
    ADMINS = {"ADMINS": [("Admin", "admin@example.com")]}
if django.VERSION >= (6, 1):
    ADMINS["MAILERS"] = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}


@pytest.fixture(autouse=True)
def stack(monkeypatch):
    """A project with the middleware, an open circuit, and admins to bother."""
    monkeypatch.setattr(sys.modules[__name__], "urlpatterns", make_urls())
    with (
        override_settings(
            ROOT_URLCONF=__name__,
            MIDDLEWARE=[
                "circuitbreaker_django.middleware.CircuitBreakerMiddleware",
                "django.middleware.common.CommonMiddleware",
            ],
            DEBUG=False,
            **ADMINS,
        ),
        live_breakers() as clock,
    ):
        breakers["payments"].trip()
        yield clock


def pay(*args):
    with breakers["payments"]:
        return HttpResponse("paid")


async def apay(*args):
    async with breakers["payments"]:
        return HttpResponse("paid")


class Pay(View):
    get = pay


class Apay(View):
    get = apay


def failing(request):
    raise RuntimeError("not ours")


async def afailing(request):
    raise RuntimeError("not ours")


class Late(TemplateResponse):
    """Rendered after the view has returned."""

    @property
    def rendered_content(self):
        return pay().content


def make_urls():
    protect = circuit_protected("payments")

    @method_decorator(protect, name="dispatch")
    class Guarded(View):
        async def get(self, request):
            return HttpResponse()

    return [
        path("function", pay),
        path("afunction", apay),
        path("class", Pay.as_view()),
        path("aclass", Apay.as_view()),
        path("late", lambda request: Late(request, "unused.html")),
        path("decorated", protect(pay)),
        path("adecorated", protect(apay)),
        path("dispatch", Guarded.as_view()),
        path("failing", failing),
        path("afailing", afailing),
    ]


urlpatterns: list[URLPattern] = []


RAISING = ["function", "afunction", "class", "aclass", "late"]
DECORATED = ["decorated", "adecorated", "dispatch"]
every_url = pytest.mark.parametrize("url", [*RAISING, *DECORATED])


@pytest.fixture(params=["wsgi", "asgi"])
def visit(request):
    """A visit through the whole stack, as a server of that kind makes it."""
    if request.param == "wsgi":
        client = Client(raise_request_exception=False)
        return lambda url, method="get", **headers: getattr(client, method)(
            f"/{url}", headers=headers
        )
    aclient = AsyncClient(raise_request_exception=False)
    return lambda url, method="get", **headers: async_to_sync(getattr(aclient, method))(
        f"/{url}", headers=headers
    )


@every_url
def test_an_open_circuit_is_503(visit, url):
    response = visit(url)
    assert (response.status_code, response["Retry-After"]) == (503, "30")
    assert (response["Cache-Control"], response["Vary"]) == ("no-store", "Accept")
    assert b"Temporarily unavailable" in response.content
    assert b"payments" not in response.content


@every_url
def test_json_for_those_who_prefer_it(visit, url):
    response = visit(url, accept="application/json")
    assert json.loads(response.content)["retry_after"] == 30


@every_url
def test_head(visit, url):
    response = visit(url, method="head")
    assert (response.status_code, response["Retry-After"]) == (503, "30")
    assert response.content == b""


@every_url
def test_a_hold_without_end(visit, url):
    breakers["payments"].trip(hold=True)
    response = visit(url)
    assert response.status_code == 503
    assert "Retry-After" not in response


@every_url
def test_when_the_circuit_closes_the_view_answers(visit, url, stack):
    stack.advance(30)
    assert visit(url).status_code == 200
    assert breakers["payments"].state is CircuitState.CLOSED


@every_url
def test_a_hundred_rejections_mail_nobody(visit, url, caplog):
    """With Django's default LOGGING, where a 503 is an ERROR of django.request and a mail."""
    with caplog.at_level(logging.DEBUG):
        for _ in range(100):
            assert visit(url).status_code == 503
    assert mail.outbox == []
    assert [record for record in caplog.records if record.name.startswith("django.request")] == []
    ours = [record for record in caplog.records if record.name == "circuitbreaker_django"]
    assert len(ours) == 100
    assert {record.levelno for record in ours} == {logging.DEBUG}


@pytest.mark.parametrize("url", ["failing", "afailing"])
def test_other_errors_are_djangos(visit, url):
    assert visit(url).status_code == 500
    assert len(mail.outbox) == 1


def test_it_is_of_the_kind_of_its_stack():
    assert not iscoroutinefunction(CircuitBreakerMiddleware(pay))
    assert iscoroutinefunction(CircuitBreakerMiddleware(apay))
