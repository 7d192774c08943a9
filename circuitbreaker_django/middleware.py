"""A 503 for every circuit that is found open below a view."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.responses import OpenCircuitResponse

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class CircuitBreakerMiddleware:
    """Answer 503 with ``Retry-After`` where a view lets a :class:`CircuitOpenError` pass."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Pass the request on; in an async stack the result is awaited by Django."""
        return self.get_response(request)

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> HttpResponseBase | None:
        """Called by Django, never awaited: not async, also in an async stack."""
        if isinstance(exception, CircuitOpenError):
            return OpenCircuitResponse(request, exception)
        return None
