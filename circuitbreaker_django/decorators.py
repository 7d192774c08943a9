"""``@circuit_protected``: a function or a view under a registry's breaker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, Unpack, cast

from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    RequestAborted,
    SuspiciousOperation,
    ValidationError,
)
from django.http import Http404, HttpRequest, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase
from django.utils.datastructures import MultiValueDictKeyError

from circuitbreaker_django import registry as registry_module
from circuitbreaker_django.conf import DEFAULT_ALIAS, PolicySettings
from circuitbreaker_django.core.breaker import CircuitBreaker
from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.protect import Rules, protect
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.responses import OpenCircuitResponse

P = ParamSpec("P")
R = TypeVar("R")

#: What a visitor can bring about by what he sends; it says nothing of a dependency.
VISITORS_FAULTS = (
    Http404,
    PermissionDenied,
    SuspiciousOperation,
    BadRequest,
    ValidationError,
    MultiPartParserError,
    UnreadablePostError,
    RequestAborted,
    MultiValueDictKeyError,
)


def circuit_protected(
    name: str,
    registry: str = DEFAULT_ALIAS,
    view: bool | None = None,
    **policy: Unpack[PolicySettings],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Protect a service or a view, sync or async, by the breaker of this name.

    A view answers 503 while the circuit is open; anything else raises
    :class:`CircuitOpenError`. In a view also a response of status 5xx is a failure, and what
    a visitor brings about by a bad request is none.

    Args:
        name: of the breaker, which is declared by this.
        registry: the alias in ``CIRCUIT_BREAKERS``.
        view: whether it is a view; ``None``: it is when the first positional argument, or the
            second after ``self``, is a request. A service that takes a request says ``False``.
        **policy: options of the breaker; the settings' ``BREAKERS[name]`` override them.

    Above ``@staticmethod``, ``@classmethod`` or a generator function it raises a ``TypeError``.
    Of a streaming response only the call that makes it is judged.

    Raises:
        ImproperlyConfigured: another place declares the same name with other options.
        TypeError, ValueError: no name, or an option that is unknown or out of range.
    """
    if callable(name):
        raise TypeError('a name is needed: write @circuit_protected("payments")')
    if view is not None and not isinstance(view, bool):
        raise TypeError(f"view must be True, False or None, not {view!r}")
    registry_module.declare(registry, name, policy, depth=2)
    rules = ServiceOrViewRules(view)

    def resolve() -> CircuitBreaker:
        return registry_module.registries[registry][name]

    def decorate(func: Callable[P, R]) -> Callable[P, R]:
        return protect(func, resolve, rules)

    return decorate


class ServiceOrViewRules(Rules):
    """What the end of a call means, where the call may be of a view."""

    judged = (HttpResponseBase,)

    def __init__(self, view: bool | None) -> None:
        self._view = view

    def error(
        self, breaker: CircuitBreaker, error: BaseException, args: tuple[Any, ...]
    ) -> Outcome:
        """Nothing that a visitor can bring about counts in a view."""
        if self._is_view(args) and _is_visitors_fault(error):
            return Outcome.IGNORED
        return super().error(breaker, error, args)

    def result(self, result: Any, args: tuple[Any, ...]) -> Outcome:
        """A view's 5xx is a failure, unless it says that an inner circuit is open (rule 15)."""
        if result.status_code < 500 or not self._is_view(args):
            return Outcome.SUCCESS
        return Outcome.IGNORED if isinstance(result, OpenCircuitResponse) else Outcome.FAILURE

    def rejected(
        self, error: CircuitOpenError, func: Callable[..., Any], args: tuple[Any, ...]
    ) -> Any:
        """A response for a visitor; the error for everybody else."""
        if not self._is_view(args):
            raise error
        return OpenCircuitResponse(_request(args), error)

    def _is_view(self, args: tuple[Any, ...]) -> bool:
        return _request(args) is not None if self._view is None else self._view


def _request(args: tuple[Any, ...]) -> HttpRequest | None:
    """The request among the first two arguments, be it wrapped as by Django REST framework."""
    for argument in args[:2]:
        # Not by isinstance or getattr: they would wake up a lazy argument such as request.user.
        if issubclass(type(argument), HttpRequest):
            return cast(HttpRequest, argument)
        if type(argument).__dictoffset__:
            wrapped = object.__getattribute__(argument, "__dict__").get("_request")
            if issubclass(type(wrapped), HttpRequest):
                return cast(HttpRequest, wrapped)
    return None


def _is_visitors_fault(error: BaseException) -> bool:
    if isinstance(error, VISITORS_FAULTS):
        return True
    try:
        status = getattr(error, "status_code", None)
    except Exception:  # a property of somebody's
        return False
    return isinstance(status, int) and status < 500
