"""``@circuit_protected``: a function or a view under a registry's breaker."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar, Unpack, cast

from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    RequestAborted,
    SuspiciousOperation,
    ValidationError,
)
from django.http import Http404, HttpRequest, StreamingHttpResponse, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase
from django.utils.datastructures import MultiValueDictKeyError

from circuitbreaker_django import streams
from circuitbreaker_django.conf import DEFAULT_ALIAS, PolicySettings
from circuitbreaker_django.core.breaker import CircuitBreaker
from circuitbreaker_django.core.call import Call, Rules
from circuitbreaker_django.core.classify import is_sync_callable
from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.fallback import NOTHING, Fallback, make_fallback
from circuitbreaker_django.core.protect import Resolve, protect
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.project import registries
from circuitbreaker_django.responses import OpenCircuitResponse

logger = logging.getLogger("circuitbreaker_django")

P = ParamSpec("P")
R = TypeVar("R")

#: Statuses of a view's responses that are failures.
FAILURE_STATUSES = range(500, 600)

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
    *,
    key: Callable[..., object] | None = None,
    fallback: Any = NOTHING,
    fallback_on_failure: bool = False,
    failure_statuses: Iterable[int] = FAILURE_STATUSES,
    stream: bool = False,
    **policy: Unpack[PolicySettings],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Protect a service or a view, sync or async, by the breaker of this name.

    A view answers 503 while the circuit is open; anything else raises
    :class:`CircuitOpenError`. In a view also a response of status 5xx is a failure, and what
    a visitor brings about by a bad request is none.

    (Async) generator functions are protected to the end of the iteration, and so is what can be
    awaited when a sync function returns it: a future is handed on as it is, other awaitables
    in a coroutine. What can also be entered or iterated over by ``async`` ends the call.

    Args:
        name: of the breaker, which is declared by this.
        registry: the alias in ``CIRCUIT_BREAKERS``.
        view: whether it is a view; ``None``: it is when the first positional argument, or the
            second after ``self``, is a request. A service that takes a request says ``False``.
        key: sync, also for an async function; gets the arguments of each call, in a view the
            request and what was captured of the URL. The call is protected by the breaker of
            what it returns, out of the family ``name``: for ``"acme"`` by ``"tenant:acme"``.
            When it raises, which is logged once, by the family's common one.
        fallback: answers for calls that were rejected: a callable, which gets the call's
            arguments, or the answer itself. Of an async function it may be async. Of a
            generator function it is iterated over. In a view it replaces the 503; where
            handlers are async, decorate them or ``as_view()``, and not ``dispatch``, which is
            sync. What it raises reaches the caller.
        fallback_on_failure: whether it answers also for calls that have failed; of a generator
            only while it has given no item. A future is then followed in a coroutine. What is
            ignored, such as the rejection by an inner breaker, reaches the caller.
        failure_statuses: statuses of a view's responses that are failures; each 100 to 599.
        stream: whether a ``StreamingHttpResponse`` is followed to the end of its content, where
            an exception is a failure, and closed early is neutral. It is then no longer sent
            by a server's ``wsgi.file_wrapper``. Otherwise the call ends when it is returned.
        **policy: options of the breaker; the settings' ``BREAKERS[name]`` override them.

    Above ``@staticmethod`` or ``@classmethod`` it raises a ``TypeError``.

    Raises:
        ImproperlyConfigured: another place declares the same name with other options.
        TypeError, ValueError: no name, or an option that is unknown or out of range; when it
            decorates, an async fallback of a sync function.
    """
    if callable(name):
        raise TypeError('a name is needed: write @circuit_protected("payments")')
    if view is not None and not isinstance(view, bool):
        raise TypeError(f"view must be True, False or None, not {view!r}")
    if key is not None and not is_sync_callable(key):
        raise TypeError(f"key must be a sync callable that gets the call's arguments, not {key!r}")
    if not isinstance(stream, bool):
        raise TypeError(f"stream must be True or False, not {stream!r}")
    rules = ServiceOrViewRules(
        view,
        make_fallback(fallback, fallback_on_failure),
        failure_statuses=_statuses(failure_statuses),
        stream=stream,
    )
    registries.declare(registry, name, policy, depth=2, keyed=key is not None)
    resolve = _by_name(registry, name) if key is None else _by_key(registry, name, key)

    def decorate(func: Callable[P, R]) -> Callable[P, R]:
        return protect(func, resolve, rules, each=key is not None)

    return decorate


def _by_name(alias: str, name: str) -> Resolve:
    return lambda *args, **kwargs: registries[alias][name]


def _by_key(alias: str, name: str, key: Callable[..., object]) -> Resolve:
    @functools.cache  # once: a flood of calls is no time for a flood of tracebacks
    def complain() -> None:
        logger.exception("the key of circuit %r cannot be found, so calls share one", name)

    def resolve(*args: Any, **kwargs: Any) -> CircuitBreaker:
        registry = registries[alias]
        try:
            return registry.family(name)(key(*args, **kwargs))
        except Exception:  # it is to protect the call, and not to hinder it
            complain()
            return registry[name]

    return resolve


def _statuses(statuses: Iterable[Any]) -> frozenset[int]:
    allowed = "failure_statuses must be HTTP statuses from 100 to 599, such as range(500, 600)"
    try:
        found = tuple(statuses)
    except TypeError:
        raise TypeError(f"{allowed}, not {statuses!r}") from None
    for status in found:
        if not isinstance(status, int) or isinstance(status, bool):
            raise TypeError(f"{allowed}, not {status!r}")
        if not 100 <= status <= 599:
            raise ValueError(f"{allowed}, not {status}")
    return frozenset(found)


class ServiceOrViewRules(Rules):
    """What the end of a call means, where the call may be of a view."""

    judged = (HttpResponseBase,)

    def __init__(
        self,
        view: bool | None = None,
        fallback: Fallback | None = None,
        *,
        failure_statuses: frozenset[int] = frozenset(FAILURE_STATUSES),
        stream: bool = False,
    ) -> None:
        super().__init__(fallback)
        self._view = view
        self._failure_statuses = failure_statuses
        self._stream = stream

    def error(
        self, breaker: CircuitBreaker, error: BaseException, args: tuple[Any, ...]
    ) -> Outcome:
        """Nothing that a visitor can bring about counts in a view."""
        if self._is_view(args) and self._is_visitors_fault(error):
            return Outcome.IGNORED
        return super().error(breaker, error, args)

    def result(self, breaker: CircuitBreaker, result: Any, args: tuple[Any, ...]) -> Outcome:
        """Some statuses of a view's are failures; that an inner circuit is open is none (rule 15).

        What the status does not decide is the breaker's to judge.
        """
        if issubclass(type(result), HttpResponseBase) and self._is_view(args):
            if isinstance(result, OpenCircuitResponse):
                return Outcome.IGNORED
            if result.status_code in self._failure_statuses:
                return Outcome.FAILURE
        return super().result(breaker, result, args)

    def rejected(self, error: CircuitOpenError, args: tuple[Any, ...]) -> Any:
        """A response for a visitor; the error for everybody else."""
        if not self._is_view(args):
            raise error
        return OpenCircuitResponse(_request(args), error)

    def takes_over(self, call: Call, result: Any) -> bool:
        """Follow a streaming response."""
        follows = self._stream and issubclass(type(result), StreamingHttpResponse)
        if follows:
            streams.follow(result, call)
        return follows

    def _is_view(self, args: tuple[Any, ...]) -> bool:
        return _request(args) is not None if self._view is None else self._view

    def _is_visitors_fault(self, error: BaseException) -> bool:
        if isinstance(error, VISITORS_FAULTS):
            return True
        try:
            status = getattr(error, "status_code", None)
        except Exception:  # a property of somebody's
            return False
        return isinstance(status, int) and status < 500 and status not in self._failure_statuses


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
