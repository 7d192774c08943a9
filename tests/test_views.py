"""``@circuit_protected`` on Django's views: every way to write one, sync and async."""

from __future__ import annotations

import asyncio
import inspect
import io

import pytest
from asgiref.sync import iscoroutinefunction
from django.contrib.auth.decorators import login_not_required, login_required
from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    RequestAborted,
    SuspiciousOperation,
    TooManyFieldsSent,
    ValidationError,
)
from django.http import (
    Http404,
    HttpResponse,
    HttpResponseNotFound,
    HttpResponseServerError,
    StreamingHttpResponse,
    UnreadablePostError,
)
from django.http.multipartparser import MultiPartParserError
from django.test import AsyncRequestFactory, RequestFactory
from django.test.client import BOUNDARY, MULTIPART_CONTENT
from django.utils.datastructures import MultiValueDictKeyError
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt

from circuitbreaker_django import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    breakers,
    circuit_protected,
)
from circuitbreaker_django.testing import live_breakers

GET = RequestFactory().get("/")
OK = HttpResponse("fine")


@pytest.fixture(autouse=True)
def clock():
    with live_breakers() as clock:
        yield clock


class Down(Exception):
    pass


def protect(view=None, **policy):
    return circuit_protected("shop", view=view, failure_threshold=1, **policy)


def do(what):
    """What a view does: returns or raises."""
    if isinstance(what, HttpResponse | StreamingHttpResponse):
        return what
    raise what


def state():
    return breakers["shop"].state


# -- every way to write a view, each as a function of a request and of what it is to do --------


def function():
    return protect()(lambda request, what: do(what))


def as_view():
    class Shop(View):
        def get(self, request, what):
            return do(what)

    return protect()(Shop.as_view())


def handler():
    class Shop(View):
        @protect()
        def get(self, request, what):
            return do(what)

    return Shop.as_view()


def dispatch():
    @method_decorator(protect(), name="dispatch")
    class Shop(View):
        def get(self, request, what):
            return do(what)

    return Shop.as_view()


def own_dispatch():
    class Shop(View):
        @protect()
        def dispatch(self, *args, **kwargs):
            return super().dispatch(*args, **kwargs)

        def get(self, request, what):
            return do(what)

    return Shop.as_view()


def async_function():
    @protect()
    async def shop(request, what):
        await asyncio.sleep(0)
        return do(what)

    return shop


def async_as_view():
    class Shop(View):
        async def get(self, request, what):
            await asyncio.sleep(0)
            return do(what)

    return protect()(Shop.as_view())


def async_handler():
    class Shop(View):
        @protect()
        async def get(self, request, what):
            await asyncio.sleep(0)
            return do(what)

    return Shop.as_view()


def async_named_handler():
    @method_decorator(protect(), name="get")
    class Shop(View):
        async def get(self, request, what):
            await asyncio.sleep(0)
            return do(what)

    return Shop.as_view()


def async_dispatch():
    @method_decorator(protect(), name="dispatch")
    class Shop(View):
        async def get(self, request, what):
            await asyncio.sleep(0)
            return do(what)

    return Shop.as_view()


def async_dispatch_above_another():
    """What is between hides that the view is async: it may be a plain wrapper."""

    def plain(view):
        return lambda request, *args: view(request, *args)

    @method_decorator([protect(), plain], name="dispatch")
    class Shop(View):
        async def get(self, request, what):
            await asyncio.sleep(0)
            return do(what)

    return Shop.as_view()


def async_dispatch_below_another():
    @method_decorator([never_cache, protect()], name="dispatch")
    class Shop(View):
        async def get(self, request, what):
            await asyncio.sleep(0)
            return do(what)

    return Shop.as_view()


def async_own_dispatch():
    class Shop(View):
        @protect()
        def dispatch(self, *args, **kwargs):
            return super().dispatch(*args, **kwargs)

        async def get(self, request, what):
            await asyncio.sleep(0)
            return do(what)

    return Shop.as_view()


SYNC = [function, as_view, handler, dispatch, own_dispatch]
ASYNC = [
    async_function,
    async_as_view,
    async_handler,
    async_named_handler,
    async_dispatch,
    async_dispatch_above_another,
    async_own_dispatch,
]
every_way = pytest.mark.parametrize("make", [*SYNC, *ASYNC])


async def visit(view, what=OK, request=GET):
    answer = view(request, what)
    if iscoroutinefunction(view):
        answer = await answer
    return answer


@every_way
async def test_success_passes_and_failures_open(make, clock):
    view = make()
    assert await visit(view) is OK
    with pytest.raises(Down):
        await visit(view, Down)
    assert state() is CircuitState.OPEN
    rejected = await visit(view)
    assert (rejected.status_code, rejected["Retry-After"]) == (503, "30")
    assert b"shop" not in rejected.content


@every_way
async def test_success_closes_when_the_view_has_run_and_not_before(make, clock):
    view = make()
    breakers["shop"].trip()
    clock.advance(30)
    answer = view(GET, OK)
    if make in ASYNC:
        assert state() is CircuitState.HALF_OPEN
        assert await answer is OK
    assert state() is CircuitState.CLOSED


@every_way
async def test_a_failed_trial_opens_again(make, clock):
    view = make()
    breakers["shop"].trip()
    clock.advance(30)
    with pytest.raises(Down):
        await visit(view, Down)
    assert state() is CircuitState.OPEN


@every_way
async def test_an_answer_of_status_500_is_a_failure(make):
    view = make()
    assert (await visit(view, HttpResponseServerError())).status_code == 500
    assert state() is CircuitState.OPEN


@every_way
async def test_an_answer_of_status_404_is_none(make):
    assert (await visit(make(), HttpResponseNotFound())).status_code == 404
    assert state() is CircuitState.CLOSED


@every_way
async def test_a_404_that_is_raised_is_none(make):
    with pytest.raises(Http404):
        await visit(make(), Http404)
    assert state() is CircuitState.CLOSED


@every_way
async def test_what_the_visitor_did_wrong_neither_closes_nor_wedges(make, clock):
    view = make()
    breakers["shop"].trip()
    clock.advance(30)
    for _ in range(3):
        with pytest.raises(Http404):
            await visit(view, Http404)
        assert state() is CircuitState.HALF_OPEN
    await visit(view)
    assert state() is CircuitState.CLOSED


@every_way
async def test_rejections_go_on_until_the_trial(make, clock):
    view = make()
    breakers["shop"].trip()
    for _ in range(3):
        assert (await visit(view)).status_code == 503
    clock.advance(30)
    assert await visit(view) is OK


@every_way
async def test_a_hold_without_end_has_no_retry_after(make):
    view = make()
    breakers["shop"].trip(hold=True)
    assert "Retry-After" not in await visit(view)


@pytest.mark.parametrize("make", ASYNC)
async def test_while_a_trial_runs_others_may_come_back_in_a_second(make, clock):
    view = make()
    breakers["shop"].trip()
    clock.advance(30)
    trial = asyncio.create_task(visit(view))
    await asyncio.sleep(0)
    rejected = await visit(view)
    assert (rejected.status_code, rejected["Retry-After"]) == (503, "1")
    assert await trial is OK
    assert await visit(view) is OK


async def test_a_decorator_above_gets_its_answer_too():
    """Django's own decorators do not see that ``dispatch`` of async handlers is async."""
    view = async_dispatch_below_another()
    breakers["shop"].trip()
    rejected = await visit(view)
    assert rejected.status_code == 503
    assert "no-store" in rejected["Cache-Control"]


@pytest.mark.parametrize("make", ASYNC)
async def test_a_cancelled_trial_gives_its_permit_back(make, clock):
    """The visitor went away."""
    view = make()
    breakers["shop"].trip()
    clock.advance(30)
    with pytest.raises(asyncio.CancelledError):
        await visit(view, asyncio.CancelledError)
    assert state() is CircuitState.HALF_OPEN
    assert await visit(view) is OK


@pytest.mark.parametrize("make", ASYNC)
async def test_an_async_view_stays_one(make):
    assert iscoroutinefunction(make())


async def test_view_is_async_only_on_the_outside():
    """A rejected async handler gives a response, and not one more thing to await."""
    view = async_handler()
    breakers["shop"].trip()
    assert type(await view(GET, OK)).__name__ == "OpenCircuitResponse"


# -- function attributes ----------------------------------------------------------------------


def test_what_django_reads_from_the_function_is_still_there():
    class Shop(View):
        colour = "red"

    view = protect()(login_not_required(csrf_exempt(Shop.as_view(colour="blue"))))
    assert view.csrf_exempt is True
    assert view.login_required is False
    assert view.view_class is Shop
    assert view.view_initkwargs == {"colour": "blue"}


def test_below_login_required():
    view = login_required(function())
    assert inspect.unwrap(view).__name__ == "<lambda>"


# -- what is a view ---------------------------------------------------------------------------


def test_true_makes_a_view_of_what_has_no_request():
    view = protect(view=True)(lambda what: do(what))
    with pytest.raises(Http404):
        view(Http404)
    assert view(HttpResponse(status=502)).status_code == 502
    assert view(OK).status_code == 503


def test_false_makes_none_of_what_has_a_request():
    view = protect(view=False)(lambda request, what: do(what))
    with pytest.raises(Http404):
        view(GET, Http404)
    with pytest.raises(CircuitOpenError):
        view(GET, OK)


def test_a_request_further_back_makes_no_view():
    service = protect()(lambda one, two, request: do(Http404))
    with pytest.raises(Http404):
        service(1, 2, GET)
    assert state() is CircuitState.OPEN


# -- what visitors can bring about ------------------------------------------------------------


class TeapotError(Exception):
    status_code = 418


class GatewayError(Exception):
    status_code = 502


class WordyError(Exception):
    status_code = "404"


class MoodyError(Exception):
    @property
    def status_code(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "error",
    [
        Http404,
        PermissionDenied,
        SuspiciousOperation,
        TooManyFieldsSent,
        BadRequest,
        ValidationError("no"),
        MultiPartParserError,
        UnreadablePostError,
        RequestAborted,
        MultiValueDictKeyError,
        TeapotError,
    ],
)
@pytest.mark.parametrize("make", [function, async_function])
async def test_neutral(make, error):
    with pytest.raises(error if isinstance(error, type) else type(error)):
        await visit(make(), error)
    assert state() is CircuitState.CLOSED


@pytest.mark.parametrize("error", [GatewayError, WordyError, MoodyError])
async def test_other_statuses_count(error):
    with pytest.raises(error):
        await visit(function(), error)
    assert state() is CircuitState.OPEN


class BrokenPipe(io.RawIOBase):
    """The body of a visitor who went away."""

    def read(self, *args):
        raise OSError("client disconnected")

    readline = read


FORM = "application/x-www-form-urlencoded"
PART = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n'
BAD_REQUESTS = {
    "no boundary": ("multipart/form-data", b"x"),
    "bad base64": (
        MULTIPART_CONTENT,
        f"{PART}Content-Transfer-Encoding: base64\r\n\r\nA\r\n--{BOUNDARY}--\r\n".encode(),
    ),
    "broken upload": (MULTIPART_CONTENT, None),
    "broken form": (FORM, None),
    "too many fields": (FORM, b"&".join(b"f%d=1" % number for number in range(1001))),
    "too many files": (
        MULTIPART_CONTENT,
        f"{(PART + chr(13) + chr(10) + chr(13) + chr(10)) * 101}--{BOUNDARY}--\r\n".encode(),
    ),
    "too big": (FORM, b"a=" + b"x" * 2_700_000),
}


@pytest.mark.parametrize("how", BAD_REQUESTS)
@pytest.mark.parametrize("factory", [RequestFactory(), AsyncRequestFactory()])
def test_no_bad_request_opens(how, factory):
    content_type, body = BAD_REQUESTS[how]
    request = factory.generic("POST", "/", body or b"x", content_type)
    if body is None:
        request._stream = BrokenPipe()

    @protect()
    def view(request):
        return HttpResponse(str(len(request.POST)))

    with pytest.raises(
        (SuspiciousOperation, BadRequest, MultiPartParserError, UnreadablePostError)
    ):
        view(request)
    assert state() is CircuitState.CLOSED


def test_a_field_that_is_missing_does_not_open():
    view = protect()(lambda request: HttpResponse(request.POST["amount"]))
    with pytest.raises(KeyError):
        view(RequestFactory().post("/", {}))
    assert state() is CircuitState.CLOSED


def test_a_host_that_is_not_allowed_does_not_open():
    view = protect()(lambda request: HttpResponse(request.get_host()))
    with pytest.raises(SuspiciousOperation):
        view(RequestFactory().get("/", headers={"host": "evil.example"}))
    assert state() is CircuitState.CLOSED


# -- circuits in circuits, streams ------------------------------------------------------------


@pytest.mark.parametrize("make", [function, async_function, dispatch, async_dispatch])
async def test_our_own_503_of_an_inner_circuit_is_neutral(make, clock):
    inner = circuit_protected("inner")(lambda request: OK)
    breakers["inner"].trip(hold=True)
    view = make()
    response = await visit(view, inner(GET))
    assert (response.status_code, state()) == (503, CircuitState.CLOSED)
    breakers["shop"].trip()
    clock.advance(30)
    await visit(view, inner(GET))
    assert state() is CircuitState.HALF_OPEN


async def test_an_inner_rejection_that_is_raised_is_neutral():
    inner = CircuitBreaker("inner")
    inner.trip()

    @protect()
    def view(request):
        with inner:
            pass

    with pytest.raises(CircuitOpenError):
        view(GET)
    assert state() is CircuitState.CLOSED


def test_somebody_elses_503_counts():
    function()(GET, HttpResponse(status=503))
    assert state() is CircuitState.OPEN


def test_a_stream_is_passed_on_as_it_is():
    response = StreamingHttpResponse(iter([b"a", b"b"]))
    assert function()(GET, response) is response
    assert list(response) == [b"a", b"b"]
    assert state() is CircuitState.CLOSED


async def test_an_async_stream_is_passed_on_as_it_is():
    async def produce():
        yield b"a"

    response = StreamingHttpResponse(produce())
    assert await async_function()(GET, response) is response
    assert [part async for part in response] == [b"a"]


def test_a_stream_of_status_502_is_a_failure():
    function()(GET, StreamingHttpResponse([], status=502))
    assert state() is CircuitState.OPEN


def test_the_statuses_that_are_failures_can_be_said():
    view = protect(failure_statuses=[429])(lambda request, what: do(what))
    assert view(GET, HttpResponse(status=500)).status_code == 500
    assert state() is CircuitState.CLOSED
    assert view(GET, HttpResponse(status=429)).status_code == 429
    assert state() is CircuitState.OPEN


def test_an_exception_of_such_a_status_counts_too():
    view = protect(failure_statuses=[418])(lambda request, what: do(what))
    with pytest.raises(TeapotError):
        view(GET, TeapotError)
    assert state() is CircuitState.OPEN


def test_our_own_503_is_neutral_whatever_the_statuses():
    inner = circuit_protected("inner")(lambda request: OK)
    breakers["inner"].trip()
    for statuses in ([503], []):
        view = protect(failure_statuses=statuses)(lambda request, what: do(what))
        assert view(GET, inner(GET)).status_code == 503
    assert state() is CircuitState.CLOSED


def test_what_the_status_does_not_decide_the_predicate_does():
    @protect(result_predicate=lambda response: b"error" in response.content)
    def view(request, body):
        return HttpResponse(body)

    view(GET, b"fine")
    assert state() is CircuitState.CLOSED
    view(GET, b"error")
    assert state() is CircuitState.OPEN


# -- instead of the 503 -----------------------------------------------------------------------


async def test_a_fallback_replaces_the_503():
    @protect(fallback=lambda request, what: HttpResponse("cached"))
    def view(request, what):
        return do(what)

    async def cached(request, what):
        return HttpResponse("cached")

    @protect(fallback=cached)
    async def aview(request, what):
        return do(what)

    breakers["shop"].trip()
    for _ in range(2):
        assert (await visit(view)).content == b"cached"
        assert (await visit(aview)).content == b"cached"


@pytest.mark.parametrize("what", [Down, HttpResponseServerError("broken")])
async def test_a_fallback_replaces_a_failure(what):
    decorate = circuit_protected(
        "shop",
        failure_threshold=2,
        fallback=lambda *args: HttpResponse("cached"),
        fallback_on_failure=True,
    )

    @decorate
    def view(request, what):
        return do(what)

    @decorate
    async def aview(request, what):
        return do(what)

    assert await visit(view) is OK
    assert await visit(aview) is OK
    assert (await visit(view, what)).content == b"cached"
    assert (await visit(aview, what)).content == b"cached"
    assert state() is CircuitState.OPEN


def test_a_fallback_replaces_nothing_that_a_visitor_has_brought_about():
    view = protect(fallback=OK, fallback_on_failure=True)(lambda request, what: do(what))
    with pytest.raises(Http404):
        view(GET, Http404)
    assert view(GET, HttpResponse(status=404)).status_code == 404


@pytest.mark.parametrize("make", [async_as_view, async_handler, async_named_handler])
async def test_a_fallback_of_an_async_class(monkeypatch, make):
    with_fallback = circuit_protected("shop", fallback=lambda *args: OK)
    monkeypatch.setitem(globals(), "protect", lambda: with_fallback)
    view = make()
    breakers["shop"].trip()
    for _ in range(2):
        assert await visit(view) is OK


def test_a_view_with_a_key():
    view = protect(key=lambda request, what: request.GET["tenant"])(lambda request, what: do(what))
    one, two = RequestFactory().get("/?tenant=one"), RequestFactory().get("/?tenant=two")
    with pytest.raises(Down):
        view(one, Down)
    assert view(one, OK).status_code == 503
    assert view(two, OK) is OK
