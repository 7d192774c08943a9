"""``stream=True``: streaming responses, followed until their content has ended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.middleware.gzip import GZipMiddleware
from django.test import RequestFactory

from circuitbreaker_django import (
    CircuitOpenError,
    CircuitState,
    breakers,
    circuit_protected,
    declarations,
)
from circuitbreaker_django.testing import live_breakers

GET = RequestFactory().get("/")
OPEN, CLOSED, HALF_OPEN = CircuitState.OPEN, CircuitState.CLOSED, CircuitState.HALF_OPEN


class Down(Exception):
    pass


@pytest.fixture(autouse=True)
def clock():
    breakers.declare("films", failure_threshold=1)
    with live_breakers() as clock:
        yield clock


@pytest.fixture
def half_open(clock):
    breakers["films"].trip()
    clock.advance(30)


def state():
    return breakers["films"].state


def produce(error=None):
    yield "one"
    if error:
        raise error
    yield b"two"


async def aproduce(error=None):
    yield "one"
    await asyncio.sleep(0)
    if error:
        raise error
    yield b"two"


def protect(**options):
    return circuit_protected("films", failure_threshold=1, stream=True, **options)


@protect()
def view(request, content, **options):
    return StreamingHttpResponse(content, **options)


@protect()
async def aview(request, content, **options):
    return StreamingHttpResponse(content, **options)


@protect()
def dispatch(request, content, **options):
    """As that of a class with async handlers."""
    return aview.__wrapped__(request, content, **options)


# What a test module declares when it is imported would be known to all other tests.
declarations._declared["default"].pop("films")


VIEWS = [(view, produce), (aview, aproduce), (aview, produce), (view, aproduce)]
every_view = pytest.mark.parametrize(("view", "produce"), [*VIEWS, (dispatch, aproduce)])


async def visit(view, *args, **options):
    response = view(GET, *args, **options)
    return await response if asyncio.iscoroutine(response) else response


async def step(response):
    return await anext(response._parts) if response.is_async else next(response._parts)


async def begin(response):
    """Read the first part."""
    if response.is_async:
        response._parts = aiter(response.streaming_content)
    else:
        response._parts = iter(response.streaming_content)
    return await step(response)


async def rest(response):
    parts = response._parts
    return [part async for part in parts] if response.is_async else list(parts)


@every_view
async def test_exhausted_is_a_success(half_open, view, produce):
    response = await visit(view, produce())
    assert await begin(response) == b"one"
    assert state() is HALF_OPEN
    assert await rest(response) == [b"two"]
    assert state() is CLOSED
    response.close()
    assert state() is CLOSED


@every_view
async def test_an_exception_is_a_failure(view, produce):
    response = await visit(view, produce(Down))
    assert await begin(response) == b"one"
    assert state() is CLOSED
    with pytest.raises(Down):
        await step(response)
    assert state() is OPEN
    response.close()
    assert breakers["films"].view.failures == 1


@every_view
async def test_closed_early_is_neutral(half_open, view, produce):
    response = await visit(view, produce())
    assert await begin(response) == b"one"
    with pytest.raises(CircuitOpenError):
        breakers["films"].call(abs, 1)
    response.close()
    assert state() is HALF_OPEN
    breakers["films"].call(abs, 1)
    assert state() is CLOSED


@every_view
async def test_closed_before_it_was_read_is_neutral(half_open, view, produce):
    response = await visit(view, produce())
    response.close()
    assert state() is HALF_OPEN
    breakers["films"].call(abs, 1)
    assert state() is CLOSED


async def test_a_visitor_who_goes_away_is_neutral(half_open):
    waiting = asyncio.Event()

    async def forever():
        waiting.set()
        await asyncio.Event().wait()
        yield b""

    response = await visit(aview, forever())
    task = asyncio.ensure_future(begin(response))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert state() is HALF_OPEN
    breakers["films"].call(abs, 1)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_calls_of_the_content_ride_on_the_trial_and_those_of_its_reader_do_not(
    half_open, kind
):
    def nesting():
        yield b"%d" % breakers["films"].call(abs, 1)

    async def anesting():
        for part in nesting():
            yield part

    response = await visit(view, nesting() if kind == "sync" else anesting())
    assert await begin(response) == b"1"
    with pytest.raises(CircuitOpenError):
        breakers["films"].call(abs, 1)


@every_view
async def test_a_status_of_500_is_a_failure_at_once(view, produce):
    response = await visit(view, produce(), status=502)
    assert state() is OPEN
    assert await begin(response) == b"one"
    assert await rest(response) == [b"two"]


def test_without_it_the_call_ends_with_the_response():
    view = circuit_protected("films", failure_threshold=1)(
        lambda request, content: StreamingHttpResponse(content)
    )
    with pytest.raises(Down):
        list(view(GET, produce(Down)))
    assert state() is CLOSED


def test_other_responses_end_the_call():
    view = protect()(lambda request: HttpResponse(status=500))
    view(GET)
    assert state() is OPEN


def test_a_service_may_stream_too():
    service = protect(view=False)(lambda: StreamingHttpResponse(produce(Down), status=502))
    response = service()
    assert state() is CLOSED
    with pytest.raises(Down):
        list(response)
    assert state() is OPEN


@pytest.mark.django_db  # closing a response looks at its connections
def test_headers_and_what_the_response_closes_stay():
    closed = []

    class Content:
        def __iter__(self):
            return produce()

        def close(self):
            closed.append("content")

    @protect()
    def view(request):
        response = StreamingHttpResponse(Content(), headers={"X-Film": "1", "Content-Length": "6"})
        vars(response)["_resource_closers"].append(lambda: closed.append("resource"))
        return response

    response = view(GET)
    assert (response["X-Film"], response["Content-Length"]) == ("1", "6")
    assert b"".join(response) == b"onetwo"
    response.close()
    assert closed == ["content", "resource"]


@pytest.mark.django_db  # closing a response looks at its connections
def test_a_file_is_sent_whole_and_closed(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x" * 10_000)
    file = (tmp_path / "a.txt").open("rb")
    response = protect()(lambda request: FileResponse(file))(GET)
    assert (response["Content-Length"], response["Content-Type"]) == ("10000", "text/plain")
    assert b"".join(response) == b"x" * 10_000
    response.close()
    assert file.closed
    assert state() is CLOSED


@pytest.mark.django_db
@pytest.mark.parametrize("stream", [True, False])
def test_the_server_sends_a_file_by_itself_only_where_it_is_not_followed(
    stream, monkeypatch, tmp_path
):
    (tmp_path / "a.txt").write_bytes(b"file")
    view = circuit_protected("films", failure_threshold=1, stream=stream)(
        lambda request: FileResponse((tmp_path / "a.txt").open("rb"))
    )
    handler = WSGIHandler()
    monkeypatch.setattr(handler, "get_response", view)
    sent = []

    def file_wrapper(file, block_size):
        sent.append(file)
        return iter(lambda: file.read(block_size), b"")

    def start_response(*args: Any) -> Any:
        pass

    environ: Any = {**GET.environ, "wsgi.file_wrapper": file_wrapper}
    answer = handler(environ, start_response)
    assert b"".join(answer) == b"file"
    assert bool(sent) is not stream
    (sent or [answer])[0].close()


@pytest.mark.parametrize(("view", "produce"), [(view, produce), (aview, aproduce)])
async def test_a_middleware_may_wrap_it_again(view, produce):
    request = RequestFactory().get("/", headers={"Accept-Encoding": "gzip"})
    response = await visit(view, produce(Down))
    GZipMiddleware(lambda request: response)(request)
    assert response["Content-Encoding"] == "gzip"
    await begin(response)
    with pytest.raises(Down):
        await rest(response)
    assert state() is OPEN
