"""The circuit breaker that a whole Django deployment shares.

Nothing here touches Django's settings when it is imported, so that ``settings.py`` may
import it; the names that need Django are imported when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from circuitbreaker_django.core.breaker import CircuitBreaker
from circuitbreaker_django.core.errors import (
    CircuitBackendError,
    CircuitBreakerError,
    CircuitConflictError,
    CircuitOpenError,
    UnknownBreakerError,
)
from circuitbreaker_django.core.states import CircuitState, Mode

if TYPE_CHECKING:
    from circuitbreaker_django.decorators import circuit_protected
    from circuitbreaker_django.project import breakers, registries

__all__ = [
    "CircuitBackendError",
    "CircuitBreaker",
    "CircuitBreakerError",
    "CircuitConflictError",
    "CircuitOpenError",
    "CircuitState",
    "Mode",
    "UnknownBreakerError",
    "breakers",
    "circuit_protected",
    "registries",
]

_LAZY = {
    "breakers": "circuitbreaker_django.project",
    "circuit_protected": "circuitbreaker_django.decorators",
    "registries": "circuitbreaker_django.project",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
