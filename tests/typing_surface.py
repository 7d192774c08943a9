"""What type checkers and editors know of the public names; mypy reads it, nobody runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import assert_type

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from circuitbreaker_django import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Mode,
    breakers,
    circuit_protected,
    registries,
)
from circuitbreaker_django.conf import PolicySettings, RegistrySettings
from circuitbreaker_django.registry import Registry
from circuitbreaker_django.testing import FakeClock, live_breakers, override_breaker

# In a settings file.
payments: PolicySettings = {"recovery_timeout": 10, "exceptions": ["requests.RequestException"]}
CIRCUIT_BREAKERS: dict[str, RegistrySettings] = {
    "default": {
        "BACKEND": "circuitbreaker_django.backends.sqlite.SQLiteBackend",
        "LOCATION": Path("/run/shop/circuits.sqlite3"),
        "NAMESPACE": "shop",
        "ENABLED": True,
        "OPTIONS": {},
        "DEFAULTS": {"failure_threshold": 5, "exceptions": OSError},
        "BREAKERS": {"payments": payments, "search": {}},
    },
    "other": {"LOCATION": None},
}
wrong_key: RegistrySettings = {"BACKENDS": "a"}  # type: ignore[typeddict-unknown-key]
wrong_type: RegistrySettings = {"ENABLED": "yes"}  # type: ignore[typeddict-item]
wrong_option: PolicySettings = {"failure_treshold": 5}  # type: ignore[typeddict-unknown-key]


@circuit_protected("payments", failure_threshold=3, exceptions=[OSError, "requests.Timeout"])
def pay(amount: int, *, currency: str = "EUR") -> float:
    return float(amount)


@circuit_protected("payments", registry="other", view=False)
async def pay_later(amount: int) -> str:
    return str(amount)


@circuit_protected("checkout")
def checkout(request: HttpRequest, number: int) -> HttpResponse:
    return HttpResponse()


def tenant_of(tenant: str) -> str:
    return tenant


@circuit_protected("payments", fallback=0.0, fallback_on_failure=True, key=tenant_of)
def fee(tenant: str) -> float:
    return float(tenant)


@circuit_protected("checkout", stream=True, failure_statuses=[429, *range(500, 600)])
def download(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse()


@circuit_protected("payments")
def pages(start: int) -> Generator[int, str, bytes]:
    yield start
    return b""


@breakers["payments"]
async def lines(start: int) -> AsyncIterator[str]:
    yield str(start)


@breakers["payments"].protect
def items(start: int) -> Iterator[int]:
    yield start


def nothing(amount: int) -> float:
    return 0.0


@breakers["payments"].protect(fallback=nothing, fallback_on_failure=True)
def charge(amount: int) -> float:
    return float(amount)


@breakers["payments"].protect(fallback=None)
async def charge_later(amount: int) -> float | None:
    return float(amount)


@breakers["payments"]
def refund(amount: int) -> bytes:
    return bytes(amount)


class Service:
    @circuit_protected("payments")
    def pay(self, amount: int) -> float:
        return float(amount)


assert_type(pay(5, currency="CHF"), float)
assert_type(checkout(HttpRequest(), 5), HttpResponse)
assert_type(refund(5), bytes)
assert_type(Service().pay(5), float)
assert_type(fee("a"), float)
assert_type(download(HttpRequest()), StreamingHttpResponse)
assert_type(pages(5), Generator[int, str, bytes])
assert_type(lines(5), AsyncIterator[str])
assert_type(items(5), Iterator[int])
assert_type(charge(5), float)
pay("5")  # type: ignore[arg-type]
pay(5, "CHF")  # type: ignore[call-arg]
refund()  # type: ignore[call-arg]
Service().pay()  # type: ignore[call-arg]
pages("5")  # type: ignore[arg-type]
charge("5")  # type: ignore[arg-type]
circuit_protected("payments", stream="yes")  # type: ignore[arg-type]
assert_type(breakers.family("tenant")(5), CircuitBreaker)
circuit_protected("payments", key="tenant")  # type: ignore[arg-type]
circuit_protected("payments", failure_statuses=500)  # type: ignore[arg-type]
breakers["payments"].protect(fallback_on_failure="yes")  # type: ignore[call-overload]
circuit_protected("payments", failure_treshold=3)  # type: ignore[call-arg]
circuit_protected("payments", failure_threshold="3")  # type: ignore[arg-type]
circuit_protected()  # type: ignore[call-arg]

assert_type(registries["default"], Registry)
assert_type(registries["default"]["payments"], CircuitBreaker)
assert_type(breakers["payments"], CircuitBreaker)
assert_type(breakers.get("payments"), CircuitBreaker | None)
assert_type(list(breakers), list[str])
assert_type("payments" in breakers, bool)
breakers.declare("search", failure_threshold=3)
breakers.declare("search", failure_treshold=3)  # type: ignore[call-arg]
registries["default"].declare("search", exceptions=OSError)

later: Callable[[int], Awaitable[str]] = pay_later

breaker = CircuitBreaker("payments", failure_threshold=5)
assert_type(breaker.state, CircuitState)
assert_type(breaker.mode, Mode)
assert_type(breaker.call(pay, 5), float)
assert_type(breaker(pay)(5), float)
assert_type(breaker.call(pages, 5), Generator[int, str, bytes])
assert_type(breaker.protect(pay)(5), float)
breaker.call(pay, "5")  # type: ignore[arg-type]
with breaker as entered:
    assert_type(entered, CircuitBreaker)


async def block() -> None:
    assert_type(await breaker.call(pay_later, 5), str)
    assert_type(await charge_later(5), float | None)
    assert_type([line async for line in breaker.call(lines, 5)], list[str])
    async with breaker as entered:
        assert_type(entered, CircuitBreaker)


def rejected(error: CircuitOpenError) -> None:
    assert_type(error.name, str | None)
    assert_type(error.retry_after, float | None)
    assert_type(error.state, CircuitState)


with live_breakers() as clock:
    assert_type(clock, FakeClock)
    clock.advance(30)
with override_breaker("payments", state="open") as overridden:
    assert_type(overridden, CircuitBreaker)


@live_breakers(kwarg_name="clock")
def decorated(amount: int) -> float:
    return float(amount)


assert_type(decorated(5), float)
