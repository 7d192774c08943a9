"""
What the shop asks of other services. This is where the circuit breakers are.

Every call has a time-out of its own: a breaker stops calls to a service that fails, it does not
end a call that hangs.
"""

import json
from http.client import HTTPException
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from django.conf import settings

from circuitbreaker_django import circuit_protected

# What a call to the upstream raises if it fails: an answer of 4xx or 5xx or no connection at all, a
# connection that breaks, a time-out, an answer that is not HTTP.
UPSTREAM_FAILURES = (URLError, ConnectionError, TimeoutError, HTTPException)

# The upstream is on this machine: never ask it through a proxy.
_opener = build_opener(ProxyHandler({}))


@circuit_protected("payments")
def charge() -> int:
    """Take the money; return the receipt's number. The settings name what counts as a failure."""
    return _ask("/charge", timeout=3)["receipt"]


@circuit_protected("search", exceptions=UPSTREAM_FAILURES)
def search(query: str) -> list[str]:
    """Return the names of the goods that fit. Not worth a long wait: there is a fallback."""
    return _ask("/search?" + urlencode({"q": query}), timeout=1)["found"]


def stock() -> dict[str, int]:
    """Return how many of each there are. Not protected here: the view that calls it is."""
    return _ask("/stock", timeout=1)["stock"]


def upstream_mode() -> str:
    return _ask("/mode", timeout=1)["mode"]


def switch_upstream(mode: str) -> None:
    _ask(f"/mode/{mode}", timeout=1, method="POST")


def _ask(path: str, *, timeout: float, method: str = "GET") -> dict:
    request = Request(settings.UPSTREAM_URL + path, method=method)
    with _opener.open(request, timeout=timeout) as response:
        return json.load(response)
