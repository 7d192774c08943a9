"""What tests of breakers by key have in common."""

from __future__ import annotations

import pytest
from django.test import override_settings

from circuitbreaker_django import CircuitOpenError, breakers, registries
from circuitbreaker_django.core.circuit import Command, CommandKind
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.testing import live_breakers

PLAIN = ["acme", "a b", "1", "db1:5432", "https://x.example/a", "Zoë", "a.b-c_d", "\u6771\u4eac"]
ODD = [
    "",
    "*",
    "tenant:*",
    "a?",
    "[a]",
    "]",
    "a~b",
    "a\n",
    "\0",
    "\x1b[31m",
    "\u202eevil",
    "\ud800",
    "\u00a0",
    "x" * 194,
    "x" * 10_000,
]


def fail():
    raise OSError


def fail_times(call, times):
    for _ in range(times):
        with pytest.raises(OSError):
            call()


def configured(**registry):
    return override_settings(CIRCUIT_BREAKERS={"default": registry})


def use(breaker, times=1):
    for _ in range(times):
        breaker.call(len, "")


def kept(alias="default"):
    return list(registries[alias]._members._kept)


def views():
    return sum(map(len, registries["default"].backend._views.values()))


@pytest.fixture
def clock():
    with live_breakers() as clock:
        yield clock


@pytest.fixture
def tenant(clock):
    """A family of which two are kept."""
    with configured(MAX_BREAKERS=2, DEFAULTS={"failure_threshold": 2}):
        yield breakers.family("tenant")


def rejects(call, *args):
    try:
        call(*args)
    except CircuitOpenError:
        return True
    return False


def order(name, kind=CommandKind.HOLD):
    """As another process would."""
    backend = registries["default"].backend
    backend.order({name: (Command(kind, None, "anna", ""), Policy())})


def let_go(breaker):
    """Let the registry need its place."""
    family = breakers.family("tenant")
    for number in range(3):
        use(family(f"another {number}"))
    assert breaker.name not in kept()
    return breaker
