"""For the tests of projects that use breakers.

Inside Django's test environment every breaker lets all calls pass, so that installing this
package changes nobody's suite. These helpers switch breakers on, for one test at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import TestCase

from django.test.utils import TestContextDecorator
from django.urls import get_resolver

from circuitbreaker_django import environment
from circuitbreaker_django.backends.base import monotonic
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.conf import DEFAULT_ALIAS
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.breaker import CircuitBreaker
from circuitbreaker_django.core.circuit import Command, CommandKind
from circuitbreaker_django.core.errors import UnknownBreakerError
from circuitbreaker_django.core.policy import Policy, micros
from circuitbreaker_django.core.states import CircuitState
from circuitbreaker_django.project import Layer, Override, registries
from circuitbreaker_django.registry import Home


class FakeClock:
    """A clock that stands still until it is advanced."""

    def __init__(self) -> None:
        self._now = monotonic()

    def __call__(self) -> int:
        """Microseconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass for every breaker.

        Raises:
            ValueError: a negative number; this clock does not go back.
        """
        if seconds < 0:
            raise ValueError(f"seconds must not be negative, not {seconds!r}")
        self._now += micros(seconds)


class _Helper(TestContextDecorator):
    """A context manager that also decorates functions, test cases and plain test classes."""

    def decorate_class(self, cls: type[Any]) -> type[Any]:
        """In force for every test of the class and its ``setUp`` or fixtures.

        A ``setup_method`` is run by pytest before any fixture, so before this.
        """
        if issubclass(cls, TestCase):
            return super().decorate_class(cls)  # type: ignore[arg-type] # too narrow in the stubs
        import pytest  # a class that is no TestCase is pytest's

        @pytest.fixture(autouse=True)
        def in_force(test: Any) -> Iterator[None]:
            with self as context:
                if self.attr_name:
                    setattr(test, self.attr_name, context)
                yield

        # A class's fixtures begin in the order of their names: this before all others, and of
        # several the outermost first, whose turn to decorate comes last.
        others = sum(name.startswith(_FIXTURE) for name in dir(cls))
        setattr(cls, f"{_FIXTURE}{999 - others}", in_force)
        return cls


_FIXTURE = "!circuit_breakers_"


class live_breakers(_Helper):
    """Breakers at work as the settings say, with fresh circuits in memory and a clock to control::

        with live_breakers() as clock:
            ...
            clock.advance(30)

    Also a decorator of functions and classes.

    Args:
        attr_name: the attribute of a decorated class's tests that gets the clock.
        kwarg_name: the keyword argument of a decorated function that gets the clock.
    """

    def __init__(self, attr_name: str | None = None, kwarg_name: str | None = None) -> None:
        super().__init__(attr_name, kwarg_name)
        self._layers: list[Layer] = []

    def __enter__(self) -> FakeClock:  # type: ignore[override] # the stubs know of Apps only
        return self.enable()

    def enable(self) -> FakeClock:
        """Switch on."""
        _refuse_outside_of_tests("live_breakers")
        clock = FakeClock()
        self._layers.append(registries.add_layer(clock))
        return clock

    def disable(self) -> None:
        """Switch off: everything is again as it was."""
        registries.remove_layer(self._layers.pop())


class override_breaker(_Helper):
    """One breaker at work and in a given state; all others go on as they are::

        with override_breaker("payments", state="open"):
            ...

    It has a circuit of its own meanwhile, on the clock of :class:`live_breakers` if that is in
    force. Also a decorator of functions and classes; the name is looked up when a test begins.

    Args:
        name: of the breaker; of one by key such as ``"tenant:acme"``.
        state: ``"open"`` (held), ``"closed"`` or ``"half_open"``.
        registry: the alias in ``CIRCUIT_BREAKERS``.
        attr_name: the attribute of a decorated class's tests that gets the breaker.
        kwarg_name: the keyword argument of a decorated function that gets the breaker.

    Raises:
        ValueError: there is no such state.
        UnknownBreakerError: when a test begins: there is no such breaker.
    """

    def __init__(
        self,
        name: str,
        *,
        state: str,
        registry: str = DEFAULT_ALIAS,
        attr_name: str | None = None,
        kwarg_name: str | None = None,
    ) -> None:
        super().__init__(attr_name, kwarg_name)
        self.name = name
        self.state = CircuitState(state)
        self.registry = registry
        self._overrides: list[Override] = []

    def __enter__(self) -> CircuitBreaker:  # type: ignore[override] # the same
        return self.enable()

    def enable(self) -> CircuitBreaker:
        """Switch on."""
        _refuse_outside_of_tests("override_breaker")
        breaker = _find(self.registry, self.name)
        override = Override(self.registry, self.name, Home(self._backend()))
        registries.add_override(override)
        self._overrides.append(override)
        return breaker

    def disable(self) -> None:
        """Switch off: the breaker is again as it was."""
        registries.remove_override(self._overrides.pop())

    def _backend(self) -> MemoryBackend:
        """One where the circuit is in that state already: nobody hears of a change."""
        backend = MemoryBackend(clock=registries.now)
        backend.registry = self.registry
        if self.state is not CircuitState.CLOSED:
            over = 1 if self.state is CircuitState.HALF_OPEN else None  # a hold leaves it half-open
            hold = Command(CommandKind.HOLD, duration=over)
            with backend._transaction(backend._here(), 0) as step:
                held = core.command(step.read(self.name), hold, Policy(), step.now - (over or 0))
                assert held is not None  # it expects no epoch
                step.write(self.name, held[0])
        return backend


def _find(alias: str, name: str) -> CircuitBreaker:
    try:
        return registries[alias][name]
    except UnknownBreakerError:
        get_resolver().url_patterns  # noqa: B018 - views declare, and are imported this late
        return registries[alias][name]


def _refuse_outside_of_tests(name: str) -> None:
    if not environment.in_test_environment():
        raise RuntimeError(f"{name} is for tests: Django's setup_test_environment has not run")
