"""What is measured: the same tiny functions, bare, behind nothing, behind us, behind the others."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiobreaker
import circuitbreaker
import django
import interlock
import purgatory
import pybreaker
from django.conf import settings
from purgatory.domain.model import OpenedState

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, circuit_protected
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.core.tally import Tally

#: Seconds that everything stays open: longer than it is measured.
LONG = 3600
#: The case that others with the same rules are compared with.
RATES = "**failure and slow-call rate, SQLite**"


@dataclass(frozen=True)
class Case:
    """A statement that is timed in a loop, and what is to be reached.

    Attributes:
        label: in the table.
        statement: that is timed.
        names: that it uses.
        target: the ratio that it should have at most.
        dearer: another case, and how many times that one's cost it should have at least.
        setup: run before each slice.
        calls: of a slice; by default as many as take a millisecond.
    """

    label: str
    statement: str
    names: dict[str, Any] = field(default_factory=dict)
    target: float | None = None
    dearer: tuple[str, float] | None = None
    setup: str = "pass"
    calls: int | None = None


@dataclass(frozen=True)
class Group:
    """Cases that share a yardstick.

    What a case costs beyond the first one, which does nothing, is divided by what the yardstick
    costs beyond it.
    """

    title: str
    yardstick: str
    cases: tuple[Case, ...]
    is_async: bool = False


def all_groups(folder: Path) -> list[Group]:
    """Everything, ready to run."""
    from benchmarks.redis_cases import redis_calls

    configure(folder / "project.sqlite3")
    memory, sqlite = MemoryBackend(), SQLiteBackend(location=folder / "breakers.sqlite3")
    return [
        calls(memory, sqlite),
        windows(),
        async_calls(memory, sqlite),
        blocks(memory, sqlite),
        async_blocks(memory, sqlite),
        rejections(memory, sqlite),
        *redis_calls(),
    ]


def configure(location: Path) -> None:
    """A Django project with a store of its own, and nothing else."""
    # As in any project that logs: a transition is not printed, a rejection not even formatted.
    logging.getLogger("circuitbreaker_django").addHandler(logging.NullHandler())
    settings.configure(
        INSTALLED_APPS=["circuitbreaker_django"],
        CIRCUIT_BREAKERS={"default": {"LOCATION": str(location), "NAMESPACE": "bench"}},
    )
    django.setup()


def rates(name: str, backend: Any, window: float = 60) -> CircuitBreaker:
    """A breaker by failure rate and slow calls."""
    return CircuitBreaker(
        name,
        failure_rate_threshold=0.5,
        slow_call_duration=60,
        failure_window=window,
        backend=backend,
    )


def interlock_rates(name: str) -> Any:
    """The same rules."""
    config = interlock.Config(
        failure_rate_threshold=0.5,
        slow_call_duration_threshold=60,
        window_type=interlock.WindowType.TIME_BASED,
        window_size=60,
    )
    return interlock.CircuitBreaker(name=name, config=config)


def func() -> None:
    return None


def wrapped(func: Callable[[], None]) -> Callable[[], None]:
    """The yardstick: what any decorator costs that passes on its arguments."""

    @functools.wraps(func)
    def empty(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return empty


def calls(memory: Any, sqlite: Any) -> Group:
    def call(label: str, func: Callable[[], None], target: float | None = None) -> Case:
        return Case(label, "func()", {"func": func}, target)

    failure_rate = CircuitBreaker("failure rate", failure_rate_threshold=0.5, backend=sqlite)

    def method(label: str, backend: Any) -> Case:
        breaker = CircuitBreaker("call", backend=backend)
        return Case(label, "breaker.call(func)", {"breaker": breaker, "func": func})

    return Group(
        "Closed, successful",
        "empty wrapper",
        (
            call("nothing", func),
            call("empty wrapper", wrapped(func)),
            call("**`@breaker`, memory**", CircuitBreaker("func", backend=memory)(func), 1.7),
            call("**`@breaker`, SQLite**", CircuitBreaker("func", backend=sqlite)(func), 2.2),
            call("**`@circuit_protected`, SQLite**", circuit_protected("func")(func), 2.5),
            call("**failure and slow-call rate, memory**", rates("rates", memory)(func), 4),
            call(RATES, rates("rates", sqlite)(func), 4),
            call("**failure rate alone, SQLite**", failure_rate(func)),
            method("**`breaker.call(func)`, memory**", memory),
            method("**`breaker.call(func)`, SQLite**", sqlite),
            call("circuitbreaker", circuitbreaker.CircuitBreaker()(func)),
            call("purgatory", purgatory.SyncCircuitBreakerFactory()("func")(func)),
            call("pybreaker", pybreaker.CircuitBreaker()(func)),
            call("aiobreaker", aiobreaker.CircuitBreaker()(func)),
            call("interlock-cb", interlock.CircuitBreaker(name="func")(func)),
            Case(
                "interlock-cb, the same rates",
                "func()",
                {"func": interlock_rates("rates")(func)},
                dearer=(RATES, 12),
            ),
        ),
    )


def windows() -> Group:
    """What a call costs by the length of the window and the calls in it."""

    def filled(window: float, number: int) -> tuple[Callable[[], None], Tally]:
        breaker = rates("filled", MemoryBackend(), window)
        protected = breaker(func)
        protected()
        tally = breaker.view.tally
        assert tally is not None
        tally.calls += number - 1  # what as many calls do
        return protected, tally

    def case(label: str, window: float, number: int, statement: str = "func()") -> Case:
        names = {"fresh": functools.partial(filled, window, number)}
        return Case(label, statement, names, setup="func, tally = fresh()", calls=100)

    look = "tally.due = 0; func()"
    return Group(
        "Failure and slow-call rate, by the window and the calls in it",
        "empty wrapper",
        (
            Case("nothing", "func()", {"func": func}),
            Case("empty wrapper", "func()", {"func": wrapped(func)}),
            *(
                case(f"**{length}, {number:,} calls**", window, number)
                for length, window in (("1 s", 1), ("60 s", 60), ("1 h", 3600))
                for number in (10, 1000, 10**6)
            ),
            case("**the one call in a tenth of 1 s that sums up 10 calls**", 1, 10, look),
            case("**the one in a tenth of 1 h that sums up 1,000,000**", 3600, 10**6, look),
        ),
    )


def async_calls(memory: Any, sqlite: Any) -> Group:
    async def func() -> None:
        return None

    async def empty(*args: Any, **kwargs: Any) -> Any:
        return await func(*args, **kwargs)

    def call(label: str, func: Callable[[], Any]) -> Case:
        return Case(label, "await func()", {"func": func})

    return Group(
        "`async def`, closed, successful",
        "empty async wrapper",
        (
            call("nothing", func),
            call("empty async wrapper", functools.wraps(func)(empty)),
            call("**`@breaker`, memory**", CircuitBreaker("async", backend=memory)(func)),
            call("**`@breaker`, SQLite**", CircuitBreaker("async", backend=sqlite)(func)),
            call("**`@circuit_protected`, SQLite**", circuit_protected("async")(func)),
            call(RATES, rates("async rates", sqlite)(func)),
            call("circuitbreaker", circuitbreaker.CircuitBreaker()(func)),
            call("purgatory", purgatory.AsyncCircuitBreakerFactory()("func")(func)),
            call("aiobreaker", aiobreaker.CircuitBreaker()(func)),
            call("interlock-cb", interlock.CircuitBreaker(name="func")(func)),
            call("interlock-cb, the same rates", interlock_rates("async rates")(func)),
        ),
        is_async=True,
    )


class EmptyContextManager:
    def __enter__(self) -> EmptyContextManager:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        return None

    async def __aenter__(self) -> EmptyContextManager:
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        return None


def blocks(memory: Any, sqlite: Any) -> Group:
    def block(label: str, manager: Any, target: float | None = None) -> Case:
        return Case(label, "with manager: pass", {"manager": manager}, target)

    return Group(
        "`with`, closed, successful",
        "empty context manager",
        (
            Case("nothing", "pass"),
            block("empty context manager", EmptyContextManager()),
            block("**`with breaker`, memory**", CircuitBreaker("with", backend=memory), 3.5),
            block("**`with breaker`, SQLite**", CircuitBreaker("with", backend=sqlite), 3.5),
            block(RATES, rates("with rates", sqlite)),
            block("interlock-cb", interlock.CircuitBreaker(name="with")),
            block("interlock-cb, the same rates", interlock_rates("with rates")),
        ),
    )


def async_blocks(memory: Any, sqlite: Any) -> Group:
    def block(label: str, manager: Any) -> Case:
        return Case(label, "async with manager: pass", {"manager": manager})

    return Group(
        "`async with`, closed, successful",
        "empty async context manager",
        (
            Case("nothing", "pass"),
            block("empty async context manager", EmptyContextManager()),
            block("**`async with breaker`, memory**", CircuitBreaker("awith", backend=memory)),
            block("**`async with breaker`, SQLite**", CircuitBreaker("awith", backend=sqlite)),
            block(RATES, rates("async with rates", sqlite)),
            block("interlock-cb", interlock.CircuitBreaker(name="awith")),
            block("interlock-cb, the same rates", interlock_rates("async with rates")),
        ),
        is_async=True,
    )


def rejections(memory: Any, sqlite: Any) -> Group:
    def fail() -> None:
        raise ConnectionError

    def rejected(
        label: str, protect: Any, error: type[BaseException], target: float | None = None
    ) -> Case:
        func = protect(fail)
        for _ in range(20):  # more failures than any of them needs
            with contextlib.suppress(Exception):
                func()
        with contextlib.suppress(error):
            func()
            raise AssertionError(f"{label} did not open")
        # All of them must forget the traceback, because purgatory raises the same object again
        # and again: it would grow, and with it the time of everybody's garbage collections.
        statement = "try: func()\n        except error as caught: caught.__traceback__ = None"
        return Case(label, statement, {"func": func, "error": error}, target)

    def ours(backend: Any) -> CircuitBreaker:
        return CircuitBreaker("rejected", recovery_timeout=LONG, backend=backend)

    config = interlock.Config(wait_duration_in_open=LONG)
    return Group(
        "Rejected by an open circuit",
        "circuitbreaker",
        (
            Case("nothing", "pass"),
            rejected(
                "circuitbreaker",
                circuitbreaker.CircuitBreaker(recovery_timeout=LONG),
                circuitbreaker.CircuitBreakerError,
            ),
            rejected("**`@breaker`, memory**", ours(memory), CircuitOpenError, 1.0),
            rejected("**`@breaker`, SQLite**", ours(sqlite), CircuitOpenError, 1.0),
            rejected(
                "purgatory",
                purgatory.SyncCircuitBreakerFactory(default_ttl=LONG)("rejected"),
                OpenedState,
            ),
            rejected(
                "pybreaker",
                pybreaker.CircuitBreaker(reset_timeout=LONG),
                pybreaker.CircuitBreakerError,
            ),
            rejected(
                "aiobreaker",
                aiobreaker.CircuitBreaker(timeout_duration=timedelta(seconds=LONG)),
                aiobreaker.CircuitBreakerError,
            ),
            rejected(
                "interlock-cb",
                interlock.CircuitBreaker(name="rejected", config=config),
                interlock.CircuitOpenError,
            ),
        ),
    )
