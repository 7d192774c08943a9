"""Registries: a project's breakers by name, one set for all threads of a process."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from circuitbreaker_django import conf, declarations
from circuitbreaker_django.backends.base import Backend, Clock, monotonic
from circuitbreaker_django.backends.loading import is_replaced, make_backend
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.backends.store import Declaration
from circuitbreaker_django.conf import DEFAULT_ALIAS, PolicySettings, RegistryConfig
from circuitbreaker_django.core import options
from circuitbreaker_django.core.breaker import CircuitBreaker
from circuitbreaker_django.core.detail import Detail
from circuitbreaker_django.core.errors import CircuitOpenError, UnknownBreakerError
from circuitbreaker_django.core.view import View
from circuitbreaker_django.declarations import Declared

logger = logging.getLogger("circuitbreaker_django")


@dataclass(slots=True)
class Home:
    """Where circuits of breakers live: a backend, and the views of it that breakers have had."""

    backend: Backend
    views: dict[str, View] = field(default_factory=dict)


#: Every breaker that was handed out, by registry and name. They outlive registries, which come
#: and go with the settings: who holds a breaker holds it for good.
_handed_out: dict[str, dict[str, CircuitBreaker]] = {}
_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)


class Registry(Mapping[str, CircuitBreaker]):
    """The breakers of one alias of ``CIRCUIT_BREAKERS``.

    ``registry["payments"]`` is always the same object, also after settings have changed;
    names are those of the settings and those that code has declared.

    Args:
        config: the settings.
        clock: keeps the circuits in memory, by this clock: for tests.
    """

    def __init__(self, config: RegistryConfig, *, clock: Clock | None = None) -> None:
        self.config = config
        #: Whether all calls pass: switched off, or inside of somebody's tests.
        self.passive = not config.enabled or (clock is None and _for_tests())
        self._clock = clock
        self._home: Home | None = None
        self._breakers: dict[str, CircuitBreaker] = {}

    def __repr__(self) -> str:
        return f"<Registry {self.config.alias!r}>"

    @property
    def backend(self) -> Backend:
        """Where the circuits live; made, but not opened, at the first use."""
        return self._at_home().backend

    def __getitem__(self, name: str) -> CircuitBreaker:
        breaker = self._breakers.get(name)
        if breaker is None:
            current = registries[self.config.alias]
            if current is not self:  # somebody has kept this one while settings have changed
                return current[name]
            if name not in self:
                raise UnknownBreakerError(
                    f"no breaker {name!r} in registry {self.config.alias!r}"
                    f"{options.nearest(name, self) or '; declare it, or add it to BREAKERS'}"
                )
            home = self._at_home()
            with _lock:
                breaker = self._hand_out(name, home)
        return breaker

    def __contains__(self, name: object) -> bool:
        return name in self.config.breakers or name in self._code()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self.config.breakers, *self._code()}))

    def __len__(self) -> int:
        return len({*self.config.breakers, *self._code()})

    def declare(self, name: str, **policy: Unpack[PolicySettings]) -> None:
        """Say in code that there is a breaker of this name, and what it is like.

        The settings' ``BREAKERS[name]`` override it, key by key.

        Raises:
            ImproperlyConfigured: another place declares the same name differently.
            TypeError, ValueError: an option is unknown or out of range.
        """
        declare(self.config.alias, name, policy, depth=2)

    def declared(self, name: str) -> Declared | None:
        """What the code of this process says of the breaker."""
        return self._code().get(name)

    def values_for(self, name: str) -> dict[str, Any]:
        """The options in force: ``DEFAULTS``, then the code's, then ``BREAKERS[name]``."""
        declared = self.declared(name)
        return {
            **self.config.defaults,
            **(declared.policy if declared else {}),
            **self.config.breakers.get(name, {}),
        }

    def declaration(self, name: str) -> Declaration:
        """What operators are told of a breaker."""
        declared = self.declared(name)
        data = options.as_data(*options.make(self.values_for(name)))
        where = declared.where if declared else f"settings.{conf.SETTING}"
        return Declaration(name, data, where)

    def redeclared(self, name: str) -> None:
        """Act on a new declaration, also where the breaker is in use."""
        breaker = _handed_out.get(self.config.alias, {}).get(name)
        if breaker is not None:
            self.adopt(breaker)
        if self._home is not None:
            self._home.backend.declare(self.declaration(name))

    def adopt(self, breaker: CircuitBreaker) -> None:
        """Make the breaker one of this registry: its policy, and where its circuit lives."""
        name = breaker.view.name
        home = registries.override_of(self.config.alias, name)
        policy, classifier = options.make(self.values_for(name))
        passive = self.passive and home is None
        home = home or self._at_home()
        if name not in home.views:
            home.views[name] = home.backend.new_view(breaker, name)
        breaker.view.shut()  # so that functions that pass by it look again
        breaker.policy, breaker.classifier, breaker.passive = policy, classifier, passive
        breaker.backend, breaker.view = home.backend, home.views[name]

    def touch(self) -> None:
        """Do the housekeeping where threads cannot run."""
        if self._home is not None and not self.passive:
            self._home.backend.touch()

    def close(self) -> None:
        """Let go of the store."""
        if self._home is not None:
            self._home.backend.close()

    def _code(self) -> Mapping[str, Declared]:
        return declarations.of(self.config.alias)

    def _at_home(self) -> Home:
        if self._home is None:
            # Not under the lock: a module that this imports may declare in another thread.
            made = Home(self._make_backend())
            with _lock:
                if self._home is None:
                    for name in self:
                        made.backend.declare(self.declaration(name))
                    self._home = made
        return self._home

    def _make_backend(self) -> Backend:
        if self._clock is not None or self.passive or _is_autoreloader():
            backend: Backend = MemoryBackend(clock=self._clock or monotonic)
        else:
            backend = make_backend(self.config)
            if is_replaced(self.config):
                place = conf.where(self.config.alias)
                logger.warning("%s: on Windows each process has circuits of its own", place)
        backend.registry = self.config.alias
        backend.on_first_rejection = self._tell_developer
        backend.stats_interval = self.config.stats_interval
        backend.error_detail = Detail(self.config.error_detail)
        return backend

    def _hand_out(self, name: str, home: Home) -> CircuitBreaker:
        known = _handed_out.setdefault(self.config.alias, {})
        breaker = known.get(name)
        if breaker is None:
            breaker = CircuitBreaker(name, **self.values_for(name), backend=home.backend)
            home.views[name] = breaker.view
        self.adopt(breaker)
        known[name] = self._breakers[name] = breaker
        return breaker

    def _tell_developer(self, error: CircuitOpenError) -> None:
        if not settings.DEBUG:
            return
        if self.backend.shared:
            words = ["python", "manage.py", "breaker", "reset", str(error.name)]
            if self.config.alias != DEFAULT_ALIAS:
                words += ["--registry", self.config.alias]
            remedy = f"`{shlex.join(words)}` closes it"
        else:
            remedy = "a restart closes it, since it lives in this process alone"
        logger.warning("%s. While you develop, %s.", error, remedy)


@dataclass(slots=True, eq=False)
class Layer:
    """Registries by alias, all in memory by one clock if it is given."""

    clock: Clock | None = None
    registries: dict[str, Registry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Override:
    """One breaker's home for a while, whatever its registry says."""

    alias: str
    name: str
    home: Home


class Registries(Mapping[str, Registry]):
    """All registries of the project, by alias.

    Tests lay layers of fresh registries over the project's, and overrides of single breakers.
    """

    def __init__(self) -> None:
        self._layers = [Layer()]
        self._overrides: list[Override] = []
        self._in_tests = False

    def __getitem__(self, alias: str) -> Registry:
        registry = self._layers[-1].registries.get(alias)
        if registry is None or self._in_tests is not in_test_environment():
            self.look_around()
            with _lock:
                layer = self._layers[-1]
                registry = layer.registries.get(alias)
                if registry is None:
                    registry = layer.registries[alias] = self._make(alias, layer.clock)
        return registry

    def __contains__(self, alias: object) -> bool:
        return alias in conf.aliases()

    def __iter__(self) -> Iterator[str]:
        return iter(conf.aliases())

    def __len__(self) -> int:
        return len(conf.aliases())

    def built(self) -> list[Registry]:
        """The registries that have been used."""
        return list(self._layers[-1].registries.values())

    def look_around(self) -> None:
        """Notice that Django's test environment has begun or ended: nothing else tells of it."""
        if self._in_tests is not in_test_environment():
            self.rebuild()

    def rebuild(self) -> None:
        """Make every registry anew, as after a change of settings."""
        with _lock:
            self._in_tests = in_test_environment()
            old = [registry for layer in self._layers for registry in layer.registries.values()]
            for layer in self._layers:
                layer.registries = {}
            self._adopt_all()
        for registry in old:
            registry.close()

    # -- for tests --------------------------------------------------------------------------

    def now(self) -> int:
        """Microseconds of the clock that is in force."""
        return (self._layers[-1].clock or monotonic)()

    def add_layer(self, clock: Clock) -> Layer:
        """Lay fresh registries over all others: live, in memory and by this clock."""
        layer = Layer(clock)
        with _lock:
            self._layers.append(layer)
            self._adopt_all()
        return layer

    def remove_layer(self, layer: Layer) -> None:
        """Go back to the registries below, as they were."""
        with _lock:
            self._layers.remove(layer)
            self._adopt_all()

    def add_override(self, override: Override) -> None:
        """Let a breaker live elsewhere, until the override is removed."""
        with _lock:
            self._overrides.append(override)
            self._adopt_one(override.alias, override.name)

    def remove_override(self, override: Override) -> None:
        """Let the breaker live where it did before."""
        with _lock:
            self._overrides.remove(override)
            self._adopt_one(override.alias, override.name)

    def override_of(self, alias: str, name: str) -> Home | None:
        """Where the breaker lives instead; the newest override counts."""
        for override in reversed(self._overrides):
            if (override.alias, override.name) == (alias, name):
                return override.home
        return None

    # -- parts ------------------------------------------------------------------------------

    def _adopt_all(self) -> None:
        for alias, known in _handed_out.items():
            for name in known:
                self._adopt_one(alias, name)

    def _adopt_one(self, alias: str, name: str) -> None:
        breaker = _handed_out[alias][name]
        try:
            self[alias].adopt(breaker)
        except ImproperlyConfigured:  # whoever asks a registry for a breaker is told
            breaker.passive = True
            breaker.view.shut()

    def _make(self, alias: str, clock: Clock | None) -> Registry:
        if alias not in self:
            raise ImproperlyConfigured(
                f"there is no registry {alias!r} in {conf.SETTING}"
                f"{options.nearest(alias, self) or '; add it there'}"
            )
        return Registry(conf.load(alias), clock=clock)


class DefaultRegistry(Mapping[str, CircuitBreaker]):
    """The registry ``default``, looked up at each use."""

    def __getitem__(self, name: str) -> CircuitBreaker:
        return registries[DEFAULT_ALIAS][name]

    def __contains__(self, name: object) -> bool:
        return name in registries[DEFAULT_ALIAS]

    def __iter__(self) -> Iterator[str]:
        return iter(registries[DEFAULT_ALIAS])

    def __len__(self) -> int:
        return len(registries[DEFAULT_ALIAS])

    def declare(self, name: str, **policy: Unpack[PolicySettings]) -> None:
        """:meth:`Registry.declare` of the registry ``default``; touches no settings."""
        declare(DEFAULT_ALIAS, name, policy, depth=2)


registries = Registries()
breakers = DefaultRegistry()


def declare(alias: str, name: str, policy: Mapping[str, Any], *, depth: int = 1) -> None:
    """:func:`declarations.keep`, with what follows from it for registries in use."""
    with _lock:
        if declarations.keep(alias, name, policy, depth=depth + 1):
            for registry in registries.built():
                if registry.config.alias == alias:
                    registry.redeclared(name)


def in_test_environment() -> bool:
    """Whether Django's ``setup_test_environment`` is in force."""
    utils = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(getattr(utils, "_TestState", None), "saved_data")


def _for_tests() -> bool:
    """Whether this process runs tests, or will: ``manage.py test`` loads the project first."""
    return in_test_environment() or sys.argv[1:2] == ["test"]


def _is_autoreloader() -> bool:
    """Whether this is ``runserver``'s outer process, which serves nothing."""
    return (
        sys.argv[1:2] == ["runserver"]
        and "--noreload" not in sys.argv
        and os.environ.get("RUN_MAIN") != "true"
    )
