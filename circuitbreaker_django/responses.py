"""What a visitor gets while a circuit is open: 503, in a form that he can read."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Generator
from typing import Any, Self

from django.http import HttpRequest, HttpResponse
from django.template import loader
from django.utils.cache import patch_vary_headers

from circuitbreaker_django.core.errors import CircuitOpenError

logger = logging.getLogger("circuitbreaker_django")

TEMPLATE = "circuitbreaker_django/503.html"
_BUILT_IN = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Temporarily unavailable</title>
<h1>Temporarily unavailable</h1>
<p>This part of the site is having a rest. Please try again in a moment.</p>
</html>
"""

#: For a caller who takes the response for what his service returns.
_NO_HEADER = (
    "%r is no header of this 503: a circuit is open, and what was called counts as a view, since "
    "it was given a request. For a service that takes one say view=False in @circuit_protected"
)


class OpenCircuitResponse(HttpResponse):
    """A 503 with ``Retry-After``; JSON where the client prefers it, else a page.

    It names neither the breaker nor a reason: visitors are strangers.

    It may be awaited, and then is its own result: ``dispatch`` of a class with async handlers is
    a sync function that answers with a coroutine, and decorators between hide which one it is.
    """

    status_code = 503
    # Django would log a 503 as an ERROR of django.request, which mails the admins.
    _has_been_logged = True

    def __init__(self, request: HttpRequest | None, error: CircuitOpenError) -> None:
        retry_after = None if error.retry_after is None else max(1, math.ceil(error.retry_after))
        if request is not None and _prefers_json(request):
            body = {"detail": "Service temporarily unavailable.", "retry_after": retry_after}
            super().__init__(json.dumps(body), content_type="application/json")
        else:
            super().__init__(_page(retry_after))
        if retry_after is not None:
            self["Retry-After"] = str(retry_after)
        self["Cache-Control"] = "no-store"
        patch_vary_headers(self, ["Accept"])

    def __getitem__(self, header: str) -> str:
        try:
            return super().__getitem__(header)
        except KeyError:
            raise KeyError(_NO_HEADER % (header,)) from None

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._itself().__await__()

    async def _itself(self) -> Self:
        return self


def _prefers_json(request: HttpRequest) -> bool:
    try:
        preferred = request.get_preferred_type(["text/html", "application/json"])
    except ValueError:  # of some headers that are garbage, Django says so
        return False
    return preferred == "application/json"


def _page(retry_after: int | None) -> str:
    """The template without a request: its context processors may need what is down."""
    try:
        return loader.render_to_string(TEMPLATE, {"retry_after": retry_after})
    except Exception:
        _complain()
        return _BUILT_IN


@functools.cache  # once per process: a flood of visitors is no time for a flood of tracebacks
def _complain() -> None:
    logger.exception("%s cannot be rendered, so visitors get a plain page", TEMPLATE)
