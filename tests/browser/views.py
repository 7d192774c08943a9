"""A service that fails while a file says so."""

from __future__ import annotations

import os

from django.conf import settings
from django.http import HttpResponse

from circuitbreaker_django import CircuitOpenError, breakers


def call(request, name):
    """``ok``, ``failed`` or ``rejected``, and the worker that says so."""
    try:
        with breakers[name]:
            if (broken := settings.HOME / f"{name}.broken").exists():
                raise ConnectionError(broken.read_text())
        answer = "ok"
    except CircuitOpenError:
        answer = "rejected"
    except ConnectionError:
        answer = "failed"
    return HttpResponse(f"{answer} {os.getpid()}", content_type="text/plain")


def who(request):
    return HttpResponse(str(os.getpid()), content_type="text/plain")


def only_own_sources(get_response):
    """The strictest policy that Django's admin keeps before 6.1."""

    def middleware(request):
        response = get_response(request)
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        return response

    return middleware
