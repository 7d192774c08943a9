"""Which exceptions count as failures, given as classes or as dotted paths."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from typing import Any

from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.states import Outcome

logger = logging.getLogger("circuitbreaker_django")

ExceptionSpec = type[BaseException] | str


class NotInstalled(LookupError):
    """The library of a dotted path is not installed, so its exceptions cannot be raised."""


def resolve(path: str) -> type[BaseException]:
    """The exception class at a dotted path; a bare name is a builtin's.

    Raises:
        NotInstalled: the top-level package of the path cannot be found.
        ImportError: the library is there, but not what the path names, or it is no
            exception class.
    """
    module_name, _, name = path.rpartition(".")
    module_name = module_name or "builtins"
    try:
        module: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name.partition(".")[0]:
            raise NotInstalled(f"{error.name} is not installed") from error
        raise
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise ImportError(f"{module_name} has no exception class {name!r}")
    return found


class ExceptionTypes:
    """The exceptions that count as failures; dotted paths are resolved at the first one raised.

    Raises:
        TypeError: something that is neither an exception class nor a dotted path.
    """

    __slots__ = ("_resolved", "specs")

    def __init__(self, specs: ExceptionSpec | Iterable[ExceptionSpec]) -> None:
        if isinstance(specs, str | type):
            specs = (specs,)
        try:
            self.specs: tuple[ExceptionSpec, ...] = tuple(specs)
        except TypeError:
            raise TypeError(_not_a_spec(specs)) from None
        for spec in self.specs:
            if not _is_a_spec(spec):
                raise TypeError(_not_a_spec(spec))
        self._resolved: tuple[type[BaseException], ...] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExceptionTypes) and self.paths() == other.paths()

    def __hash__(self) -> int:
        return hash(self.paths())

    def paths(self) -> tuple[str, ...]:
        """Every exception as a dotted path."""
        return tuple(
            f"{spec.__module__}.{spec.__qualname__}"
            if isinstance(spec, type)
            else spec
            if "." in spec
            else f"builtins.{spec}"
            for spec in self.specs
        )

    def classify(self, error: BaseException) -> Outcome:
        """What a call that ended with ``error`` means: ``FAILURE`` or ``IGNORED``.

        Rejections by a breaker and everything that is not an ``Exception`` (cancellation,
        ``KeyboardInterrupt``, ``SystemExit``, ``GeneratorExit``) never count.
        """
        if not isinstance(error, Exception) or isinstance(error, CircuitOpenError):
            return Outcome.IGNORED
        types = self._resolved
        if types is None:
            types = self._resolve()
        return Outcome.FAILURE if isinstance(error, types) else Outcome.IGNORED

    def _resolve(self) -> tuple[type[BaseException], ...]:
        types: list[type[BaseException]] = []
        problems: list[tuple[str, Exception]] = []
        for spec in self.specs:
            if not isinstance(spec, str):
                types.append(spec)
                continue
            try:
                types.append(resolve(spec))
            except NotInstalled:
                continue
            except Exception as problem:  # importing a library may raise anything
                problems.append((spec, problem))
        # No lock: importing may run the code of others, who may wait for each other. Who is
        # first tells of the problems.
        first, self._resolved = self._resolved is None, tuple(types)
        for path, why in problems if first else ():
            logger.error("exceptions: %r is passed over: %s", path, why)
        return tuple(types)


def _is_a_spec(value: object) -> bool:
    if isinstance(value, str):
        return all(part.isidentifier() for part in value.split("."))
    return isinstance(value, type) and issubclass(value, BaseException)


def _not_a_spec(value: object) -> str:
    return (
        "exceptions must be exception classes or dotted paths such as "
        f"'requests.RequestException', not {value!r}"
    )
