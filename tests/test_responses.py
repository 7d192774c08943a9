"""What a visitor gets while a circuit is open."""

from __future__ import annotations

import json
import logging

import pytest
from django.http import HttpRequest
from django.template import engines
from django.test import RequestFactory, override_settings
from django.views.decorators.cache import never_cache
from django.views.decorators.vary import vary_on_cookie
from hypothesis import given
from hypothesis import strategies as st

from circuitbreaker_django import CircuitOpenError, CircuitState, responses
from circuitbreaker_django.responses import OpenCircuitResponse

ERROR = CircuitOpenError("secret-name", CircuitState.OPEN, 12.3)


@pytest.fixture(autouse=True)
def complaints():
    responses._complain.cache_clear()


def ask(accept=None, retry_after=12.3):
    headers = {} if accept is None else {"accept": accept}
    request = RequestFactory().get("/", headers=headers)
    return OpenCircuitResponse(request, CircuitOpenError("x", CircuitState.OPEN, retry_after))


def is_json(response):
    return response["Content-Type"] == "application/json"


def test_a_service_that_is_taken_for_a_view_is_told_what_to_say():
    with pytest.raises(KeyError, match=r"'receipt' is no header of this 503.*view=False"):
        ask()["receipt"]


# -- headers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait", "header"),
    [(30.0, "30"), (29.000001, "30"), (12.3, "13"), (1.0, "1"), (0.2, "1"), (0.0, "1")],
)
def test_retry_after_is_in_whole_seconds_rounded_up_and_at_least_one(wait, header):
    assert ask(retry_after=wait)["Retry-After"] == header


def test_a_hold_without_end_has_no_retry_after():
    assert "Retry-After" not in ask(retry_after=None)


def test_nobody_keeps_it():
    response = ask()
    assert response.status_code == 503
    assert response.reason_phrase == "Service Unavailable"
    assert response["Cache-Control"] == "no-store"
    assert response["Vary"] == "Accept"


def test_it_goes_together_with_other_decorators():
    view = never_cache(vary_on_cookie(lambda request: OpenCircuitResponse(request, ERROR)))
    response = view(RequestFactory().get("/"))
    assert response["Vary"] == "Accept, Cookie"
    assert "no-store" in response["Cache-Control"]


async def test_it_may_be_awaited_and_is_its_own_result():
    response = ask()
    assert await response is response


# -- page or JSON -----------------------------------------------------------------------------


def test_page_says_when_to_come_back():
    response = ask("text/html")
    assert response["Content-Type"] == "text/html; charset=utf-8"
    assert b"in 13 seconds" in response.content
    assert b"in 1 second." in ask("text/html", 0.5).content
    assert b"try again later" in ask("text/html", None).content


def test_json_says_when_to_come_back():
    expected = {"detail": "Service temporarily unavailable.", "retry_after": 13}
    assert json.loads(ask("application/json").content) == expected
    assert json.loads(ask("application/json", None).content)["retry_after"] is None


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_neither_name_nor_reason_is_told(accept):
    request = RequestFactory().get("/", headers={"accept": accept})
    response = OpenCircuitResponse(request, ERROR)
    assert b"secret-name" not in response.content
    assert "secret-name" not in str(response.headers)


@pytest.mark.parametrize(
    ("accept", "json_wanted"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("image/png", False),
        ("text/html, application/json", False),
        ("application/json", True),
        ("application/json, text/plain, */*", True),
        ("application/*", True),
        ("text/html;q=0.5, application/json", True),
        ("application/json;q=0.1, text/html;q=0.9", False),
        ("application/json;q=0", False),
        ("application/json;q=nonsense", True),
        (";;;,,/,q=", False),
        ("application/json;q=nan", True),
        # Of the rest Django cannot make sense at all.
        ("application/json;q*=foo''%41", False),
        ("application/json;" + "a=b;" * 10_000, None),
    ],
)
def test_json_is_for_those_who_prefer_it(accept, json_wanted):
    assert json_wanted is None or is_json(ask(accept)) is json_wanted
    assert ask(accept).status_code == 503


def test_several_accept_headers_are_one():
    """As servers join them."""
    assert is_json(ask("text/html;q=0.2,application/json"))


@given(st.text(st.characters(max_codepoint=255)))
def test_no_accept_header_is_too_strange(accept):
    request = HttpRequest()
    request.META["HTTP_ACCEPT"] = accept
    assert OpenCircuitResponse(request, ERROR).status_code == 503


def test_without_a_request_it_is_a_page():
    assert b"<h1>" in OpenCircuitResponse(None, ERROR).content


# -- the template -----------------------------------------------------------------------------


def refuse(request):
    raise AssertionError("a context processor was asked")


def templates(source=None, **options):
    loaders = [("django.template.loaders.locmem.Loader", {responses.TEMPLATE: source})]
    if source is not None:
        options["loaders"] = loaders
    backend = "django.template.backends.django.DjangoTemplates"
    return [{"BACKEND": backend, "APP_DIRS": source is None, "OPTIONS": options}]


def test_context_processors_are_not_asked():
    """They may query what is down."""
    processors = [f"{__name__}.refuse"]
    with override_settings(TEMPLATES=templates(context_processors=processors)):
        assert b"in 13 seconds" in ask().content
        with pytest.raises(AssertionError):
            engines["django"].from_string("").render({}, RequestFactory().get("/"))


def test_a_project_may_have_a_page_of_its_own():
    with override_settings(TEMPLATES=templates("Come back in {{ retry_after }}.")):
        assert ask().content == b"Come back in 13."


@pytest.mark.parametrize(
    "broken", [templates("{% nonsense %}"), templates("{% include 'missing' %}"), []]
)
def test_a_broken_page_gives_way_to_the_built_in_one(broken, caplog):
    with override_settings(TEMPLATES=broken):
        response = ask()
        assert response.status_code == 503
        assert b"<h1>Temporarily unavailable</h1>" in response.content
        assert is_json(ask("application/json"))


def test_a_broken_page_is_told_once(caplog):
    with override_settings(TEMPLATES=templates("{% nonsense %}")):
        for _ in range(100):
            ask()
    [record] = caplog.records
    assert (record.name, record.levelno) == ("circuitbreaker_django", logging.ERROR)
    assert "circuitbreaker_django/503.html cannot be rendered" in record.getMessage()
    assert record.exc_info is not None
