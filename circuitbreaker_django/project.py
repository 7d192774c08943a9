"""The project's registries: one set for all threads of a process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

from django.core.exceptions import ImproperlyConfigured

from circuitbreaker_django import conf, declarations, environment, held
from circuitbreaker_django.backends.base import Clock, monotonic
from circuitbreaker_django.conf import DEFAULT_ALIAS, PolicySettings
from circuitbreaker_django.core import options
from circuitbreaker_django.core.breaker import CircuitBreaker
from circuitbreaker_django.families import Family
from circuitbreaker_django.registry import Home, Registry


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
        if registry is None or self._in_tests is not environment.in_test_environment():
            self.look_around()
            with held.lock:
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

    def declare(
        self,
        alias: str,
        name: str,
        policy: Mapping[str, Any],
        *,
        depth: int = 1,
        keyed: bool = False,
    ) -> None:
        """:func:`declarations.keep`, with what follows from it for registries in use."""
        with held.lock:
            if declarations.keep(alias, name, policy, depth=depth + 1, keyed=keyed):
                for registry in self.built():
                    if registry.config.alias == alias:
                        registry.redeclared(name)

    def declare_family(self, alias: str, name: str, *, depth: int = 1) -> None:
        """:meth:`declare` that there are breakers by key, unless it is known."""
        declared = declarations.of(alias).get(name)
        if declared is None or not declared.keyed:
            self.declare(alias, name, {}, depth=depth + 1, keyed=True)

    def look_around(self) -> None:
        """Notice that Django's test environment has begun or ended: nothing else tells of it."""
        if self._in_tests is not environment.in_test_environment():
            self.rebuild()

    def rebuild(self) -> None:
        """Make every registry anew, as after a change of settings."""
        with held.lock:
            self._in_tests = environment.in_test_environment()
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
        with held.lock:
            self._layers.append(layer)
            self._adopt_all()
        return layer

    def remove_layer(self, layer: Layer) -> None:
        """Go back to the registries below, as they were."""
        with held.lock:
            self._layers.remove(layer)
            self._adopt_all()

    def add_override(self, override: Override) -> None:
        """Let a breaker live elsewhere, until the override is removed."""
        with held.lock:
            self._overrides.append(override)
            self._adopt_one(override.alias, override.name)

    def remove_override(self, override: Override) -> None:
        """Let the breaker live where it did before."""
        with held.lock:
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
        for alias in {*held.named, *held.by_key}:
            for name in held.named.get(alias, {}):
                self._adopt_one(alias, name)
            for member in held.by_key_only(alias):
                self._adopt_one(alias, member.view.name)

    def _adopt_one(self, alias: str, name: str) -> None:
        named = held.named.get(alias, {}).get(name)
        breaker = named or held.by_key[alias][name]
        try:
            if named is not None:
                self[alias].adopt(breaker)
            else:
                self[alias].put_away(breaker)
        except ImproperlyConfigured:  # whoever asks a registry for a breaker is told
            breaker.passive = True
            breaker.view.shut()

    def _make(self, alias: str, clock: Clock | None) -> Registry:
        if alias not in self:
            raise ImproperlyConfigured(
                f"there is no registry {alias!r} in {conf.SETTING}"
                f"{options.nearest(alias, self) or '; add it there'}"
            )
        return Registry(conf.load(alias), self, clock=clock)


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

    def family(self, name: str) -> Family:
        """:meth:`Registry.family` of the registry ``default``."""
        registries.declare_family(DEFAULT_ALIAS, name, depth=2)
        return registries[DEFAULT_ALIAS].family(name)

    def declare(self, name: str, **policy: Unpack[PolicySettings]) -> None:
        """:meth:`Registry.declare` of the registry ``default``; touches no settings."""
        registries.declare(DEFAULT_ALIAS, name, policy, depth=2)


registries = Registries()
breakers = DefaultRegistry()
