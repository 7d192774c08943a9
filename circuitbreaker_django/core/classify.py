"""What the end of a call means: which exceptions and which results are failures."""

from __future__ import annotations

import builtins
import importlib
import logging
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from math import inf
from time import time
from typing import Any, Final, TypeVar

from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.kinds import Kind, kind_of
from circuitbreaker_django.core.policy import MAX_DURATION
from circuitbreaker_django.core.states import Outcome

T = TypeVar("T")

logger = logging.getLogger("circuitbreaker_django")

ExceptionSpec = type[BaseException] | str
#: A value of ``Retry-After``: seconds, a duration, or what the header says.
RetryAfter = float | timedelta | str

#: The longest ``Retry-After`` that is read, in characters; the longest date has 33.
MAX_RETRY_AFTER: Final = 64


class NotInstalled(LookupError):
    """The library of a dotted path is not installed."""


def resolve(path: str) -> type[BaseException]:
    """The exception class at a dotted path; a bare name is a builtin's.

    Raises:
        NotInstalled: the top-level package of the path cannot be found.
        ImportError: the library is there, but not what the path names, or it is no
            exception class.
    """
    module_name, name, found = _find(path)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise ImportError(f"{module_name} has no exception class {name!r}")
    return found


def resolve_callable(path: str) -> Callable[[Any], Any]:
    """The sync callable at a dotted path; a bare name is a builtin's.

    Raises:
        NotInstalled: the top-level package of the path cannot be found.
        ImportError: the library is there, but not what the path names, or it is no sync
            callable.
    """
    module_name, name, found = _find(path)
    if not is_sync_callable(found):
        raise ImportError(f"{module_name} has no sync callable {name!r}")
    function: Callable[[Any], Any] = found
    return function


class ExceptionTypes:
    """Exceptions, given as classes or dotted paths that are resolved when first needed.

    Args:
        specs: one class or path, or several.
        option: the breaker's option that they are for.

    Raises:
        TypeError: something that is neither an exception class nor a dotted path, or an
            iterator, which the first look at it would use up.
    """

    __slots__ = ("_resolved", "option", "specs")

    def __init__(
        self, specs: ExceptionSpec | Iterable[ExceptionSpec], option: str = "exceptions"
    ) -> None:
        if isinstance(specs, str | type):
            specs = (specs,)
        if isinstance(specs, Iterator):
            raise TypeError(f"{option} must be a tuple or a list, not a {type(specs).__name__}")
        try:
            self.specs: tuple[ExceptionSpec, ...] = tuple(specs)
        except TypeError:
            raise TypeError(_not_exceptions(option, specs)) from None
        for spec in self.specs:
            if not (_is_path(spec) or (isinstance(spec, type) and issubclass(spec, BaseException))):
                raise TypeError(_not_exceptions(option, spec))
        self.option = option
        self._resolved: tuple[type[BaseException], ...] | None = None

    def paths(self) -> tuple[str, ...]:
        """Every exception as a dotted path."""
        return tuple(map(_path, self.specs))

    def types(self) -> tuple[type[BaseException], ...]:
        """The classes, without those that cannot be found."""
        return self._resolve() if self._resolved is None else self._resolved

    def distance(self, error: BaseException) -> float:
        """How far up the classes of ``error`` the nearest of these is; infinite if none is.

        A class that only declares the error its own, as an ABC may, is the farthest.
        """
        mro = type(error).__mro__
        return min(
            (
                mro.index(cls) if cls in mro else len(mro)
                for cls in self.types()
                if isinstance(error, cls)
            ),
            default=inf,
        )

    def _resolve(self) -> tuple[type[BaseException], ...]:
        types: list[type[BaseException]] = []
        problems: list[tuple[str, Exception]] = []
        for spec in self.specs:
            if not isinstance(spec, str):
                types.append(spec)
                continue
            try:
                types.append(resolve(spec))
            except NotInstalled:  # so it cannot be raised either
                continue
            except Exception as problem:  # importing a library may raise anything
                problems.append((spec, problem))
        # No lock: importing may run the code of others, who may wait for each other. Who is
        # first tells of the problems.
        first, self._resolved = self._resolved is None, tuple(types)
        for path, why in problems if first else ():
            logger.error("%s: %r is passed over: %s", self.option, path, why)
        return tuple(types)


class Callback:
    """A callable of the user's, if there is one; whatever it raises stays here.

    Args:
        spec: the callable, or its dotted path, which is resolved when first needed.
        option: the breaker's option that it is.

    Raises:
        TypeError: neither a sync callable, nor a dotted path, nor ``None``.
    """

    __slots__ = ("_func", "_is_resolved", "_is_told", "option", "spec")

    def __init__(self, spec: Callable[[Any], Any] | str | None, option: str) -> None:
        if not (spec is None or _is_path(spec) or is_sync_callable(spec)):
            raise TypeError(
                f"{option} must be a sync callable, a dotted path such as "
                f"'shop.breakers.{option}', or None, not {spec!r}"
            )
        self.spec = spec
        self.option = option
        self._func = None if isinstance(spec, str) else spec
        self._is_resolved = not isinstance(spec, str)
        self._is_told = False

    @property
    def path(self) -> str | None:
        """Its dotted path, or the nearest that can be said of what has none."""
        return None if self.spec is None else _path(self.spec)

    @property
    def key(self) -> object:
        """Equal for callbacks that surely are the same."""
        name = getattr(self.spec, "__qualname__", "")
        if self.spec is None or isinstance(self.spec, str) or name.isidentifier():
            return self.path
        return self.spec  # lambdas, methods and what is nested share their paths with others

    @property
    def func(self) -> Callable[[Any], Any] | None:
        """The callable, or ``None`` where there is none or it cannot be imported."""
        if not self._is_resolved:
            self._resolve()
        return self._func

    def ask(self, about: object, read: Callable[[Any], T]) -> T | None:
        """What the callable says about an exception or a result, read by ``read``.

        ``None`` if either of the two raises, which is logged once. There must be a callable.
        """
        func = self.func
        assert func is not None
        try:
            return read(func(about))
        except Exception:
            first, self._is_told = not self._is_told, True
            if first:
                logger.exception("%s: %s failed; this is told once", self.option, self.path)
            return None

    def _resolve(self) -> None:
        problem = None
        try:
            self._func = resolve_callable(str(self.spec))
        except Exception as error:  # importing a library may raise anything
            problem = error
        first, self._is_resolved = not self._is_resolved, True
        if problem is not None and first:
            logger.error("%s: %r is passed over: %s", self.option, self.spec, problem)


class Classifier:
    """What the end of a call means to a breaker: ``SUCCESS``, ``FAILURE`` or ``IGNORED``.

    Args:
        exceptions: classes or dotted paths that count as failures.
        ignore_exceptions: classes or dotted paths that do not count.
        failure_predicate: told an exception that counts by its class; false: it does not.
        result_predicate: told what a call returned; true: it is a failure.
        retry_after: told the exception or the result that is a failure; how long the
            dependency asks to be left alone.

    Raises:
        TypeError: an argument is of a wrong type; the message names it.
    """

    __slots__ = (
        "exceptions",
        "failure_predicate",
        "ignore_exceptions",
        "judges_results",
        "result_predicate",
        "retry_hint",
    )

    def __init__(
        self,
        exceptions: ExceptionSpec | Iterable[ExceptionSpec] = (Exception,),
        ignore_exceptions: ExceptionSpec | Iterable[ExceptionSpec] = (),
        failure_predicate: Callable[[Any], object] | str | None = None,
        result_predicate: Callable[[Any], object] | str | None = None,
        retry_after: Callable[[Any], RetryAfter | None] | str | None = None,
    ) -> None:
        self.exceptions = ExceptionTypes(exceptions)
        self.ignore_exceptions = ExceptionTypes(ignore_exceptions, "ignore_exceptions")
        self.failure_predicate = Callback(failure_predicate, "failure_predicate")
        self.result_predicate = Callback(result_predicate, "result_predicate")
        self.retry_hint = Callback(retry_after, "retry_after")
        #: Whether :meth:`judge` has a say; without it every result is a success.
        self.judges_results = result_predicate is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Classifier) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.exceptions.paths(), self.ignore_exceptions.paths()))

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """All that it may have to ask."""
        return self.failure_predicate, self.result_predicate, self.retry_hint

    def classify(self, error: BaseException) -> Outcome:
        """What a call that ended with ``error`` means: ``FAILURE`` or ``IGNORED``.

        Rejections by a breaker and everything that is not an ``Exception`` (cancellation,
        ``KeyboardInterrupt``, ``SystemExit``, ``GeneratorExit``) never count. Of the classes
        that are named, the one that is nearest to the error's own decides; on a tie it is
        ignored. ``failure_predicate`` may still ignore what counts by its class.

        A group is a failure if one of its leaves is, unless its own class is named: then it is
        an exception like any other.
        """
        if not isinstance(error, BaseExceptionGroup):
            return self._classify(error)
        for leaf in self._leaves(error):
            if self._classify(leaf) is Outcome.FAILURE:
                return Outcome.FAILURE
        return Outcome.IGNORED

    def judge(self, result: object) -> Outcome:
        """What a call that returned ``result`` means."""
        if self.result_predicate.func is None:
            return Outcome.SUCCESS
        failed = self.result_predicate.ask(result, bool)
        if failed is None:
            return Outcome.IGNORED
        return Outcome.FAILURE if failed else Outcome.SUCCESS

    def retry_after(self, answer: object) -> float | None:
        """How many seconds a failing exception or result asks to wait.

        From 0 to a billion; ``None`` where there is nothing to ask, or no sense in the answer.
        """
        if self.retry_hint.func is None:
            return None
        return self.retry_hint.ask(answer, read_retry_after)

    def as_data(self) -> dict[str, Any]:
        """Its options as plain values, for a store and for people."""
        return {
            "exceptions": list(self.exceptions.paths()),
            "ignore_exceptions": list(self.ignore_exceptions.paths()),
            **{callback.option: callback.path for callback in self.callbacks},
        }

    def _key(self) -> tuple[object, ...]:
        return (
            self.exceptions.paths(),
            self.ignore_exceptions.paths(),
            *(callback.key for callback in self.callbacks),
        )

    def _classify(self, error: BaseException) -> Outcome:
        if not isinstance(error, Exception) or isinstance(error, CircuitOpenError):
            return Outcome.IGNORED
        if not self.exceptions.distance(error) < self.ignore_exceptions.distance(error):
            return Outcome.IGNORED
        predicate = self.failure_predicate
        if predicate.func is None or predicate.ask(error, bool):
            return Outcome.FAILURE
        return Outcome.IGNORED

    def _leaves(self, group: BaseException) -> Iterator[BaseException]:
        pending, seen = [group], set()  # a loop, since groups may nest deeper than calls
        while pending:
            error = pending.pop()
            if id(error) in seen:  # one group may be in many others
                continue
            seen.add(id(error))
            if isinstance(error, BaseExceptionGroup) and not self._names(error):
                pending.extend(error.exceptions)
            else:
                yield error

    def _names(self, group: BaseException) -> bool:
        return any(
            issubclass(cls, BaseExceptionGroup) and isinstance(group, cls)
            for cls in (*self.exceptions.types(), *self.ignore_exceptions.types())
        )


def read_retry_after(value: RetryAfter | None) -> float | None:
    """Seconds of what a dependency asks for; at most a billion.

    Args:
        value: seconds, a ``timedelta``, a ``Retry-After`` header (whole or decimal seconds, or a
            date; one that has passed means now), or ``None``.

    Raises:
        ValueError: none of these, or negative, NaN or infinite.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        wait: float = value.total_seconds()
    elif isinstance(value, str) and len(value) <= MAX_RETRY_AFTER:
        wait = _read_header(value.strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        wait = value
    else:
        raise ValueError(f"no Retry-After: {reprlib.repr(value)}")
    if not 0 <= wait < inf:
        raise ValueError(f"no seconds to wait: {reprlib.repr(value)}")
    return float(min(wait, MAX_DURATION))


def _read_header(text: str) -> float:
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    moment = parsedate_to_datetime(text)
    if moment.tzinfo is None:  # the form of C's asctime(), which is in UTC in HTTP
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - time())


def _find(path: str) -> tuple[str, str, Any]:
    """Module, name and what is there, or ``None``."""
    module_name, _, name = path.rpartition(".")
    module_name = module_name or builtins.__name__
    try:
        module: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name.partition(".")[0]:
            raise NotInstalled(f"{error.name} is not installed") from error
        raise
    return module_name, name, getattr(module, name, None)


def _path(spec: object) -> str:
    if isinstance(spec, str):
        return spec if "." in spec else f"{builtins.__name__}.{spec}"
    named = spec if hasattr(spec, "__qualname__") else type(spec)
    return f"{named.__module__}.{named.__qualname__}"


def _is_path(value: object) -> bool:
    return isinstance(value, str) and all(part.isidentifier() for part in value.split("."))


def is_sync_callable(value: object) -> bool:
    """Whether it can be called, and is not known to answer with a coroutine."""
    return callable(value) and kind_of(value) is not Kind.ASYNC


def _not_exceptions(option: str, value: object) -> str:
    return (
        f"{option} must be exception classes or dotted paths such as "
        f"'requests.RequestException', not {value!r}"
    )
