"""The errors that this package raises, one family."""

from __future__ import annotations

from circuitbreaker_django.core.states import CircuitState


class CircuitBreakerError(Exception):
    """Base class of every error of this package."""


class CircuitOpenError(CircuitBreakerError):
    """The call was rejected and the protected function was not called.

    Every rejection raises a new instance, so tracebacks never grow.

    Its arguments are ``name``, ``state`` and ``retry_after``, in this order.
    """

    # The arguments stay in ``args``: an ``__init__`` would make each rejection a tenth dearer.

    @property
    def name(self) -> str | None:
        """The breaker's name, or ``None`` for one made by hand without a name."""
        name: str | None = self.args[0]
        return name

    @property
    def state(self) -> CircuitState:
        """What the circuit is; ``CLOSED`` while it ramps up and admits a share of the calls."""
        state: CircuitState = self.args[1]
        return state

    @property
    def retry_after(self) -> float | None:
        """Seconds until a call may pass: at most 1 but while open, ``None`` in an endless hold."""
        seconds: float | None = self.args[2]
        return seconds

    def __str__(self) -> str:
        who = "this circuit" if self.name is None else f"circuit {self.name!r}"
        closed = self.state is CircuitState.CLOSED
        word = "recovering" if closed else self.state.replace("_", "-")
        if self.retry_after is None:
            return f"{who} is held open"
        wait = f"{self.retry_after:.0f}" if self.retry_after >= 10 else f"{self.retry_after:.2g}"
        return f"{who} is {word}; retry after {wait} s"


class CircuitBackendError(CircuitBreakerError):
    """The shared store could not confirm a command; nothing was applied."""


class CircuitConflictError(CircuitBackendError):
    """The circuit has changed since the epoch that the command expected; nothing was applied."""


class UnknownBreakerError(CircuitBreakerError, KeyError):
    """No breaker of that name is declared or in the settings."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError's would put quotes around the sentence
