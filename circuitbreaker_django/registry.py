"""Registries: a project's breakers by name, one set for all threads of a process."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack
from weakref import WeakValueDictionary

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from circuitbreaker_django import conf, declarations, families
from circuitbreaker_django.backends.base import Backend, Clock, monotonic
from circuitbreaker_django.backends.loading import is_replaced, make_backend
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.backends.store import KEYED, Declaration
from circuitbreaker_django.conf import DEFAULT_ALIAS, PolicySettings, RegistryConfig
from circuitbreaker_django.core import options
from circuitbreaker_django.core.breaker import CircuitBreaker
from circuitbreaker_django.core.detail import Detail
from circuitbreaker_django.core.errors import CircuitOpenError, UnknownBreakerError
from circuitbreaker_django.core.view import View
from circuitbreaker_django.declarations import Declared
from circuitbreaker_django.families import Family
from circuitbreaker_django.members import Members, drop_view, is_away

logger = logging.getLogger("circuitbreaker_django")


@dataclass(slots=True)
class Home:
    """Where circuits of breakers live: a backend, and the views of it that breakers have had."""

    backend: Backend
    views: dict[str, View] = field(default_factory=dict)


#: Every breaker that was handed out, by registry and name. They outlive registries, which come
#: and go with the settings: who holds a breaker holds it for good.
_handed_out: dict[str, dict[str, CircuitBreaker]] = {}
#: Every breaker by key that anybody holds, be it a registry; what nobody holds goes by itself.
_by_key: defaultdict[str, WeakValueDictionary[str, CircuitBreaker]]
_by_key = defaultdict(WeakValueDictionary)
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

    Where there is a family ``tenant``, ``registry["tenant:acme"]`` is its breaker for the key
    ``acme``. Such names are found, but not listed. There is a family where code says so, by
    ``key=`` or :meth:`family`, or where a pattern in ``BREAKERS``, such as ``"tenant:*"``,
    begins with its name and fits.

    Of breakers by key that the settings do not name, ``MAX_BREAKERS`` are kept. When there are
    more, those go that are closed, on which nobody has failed and which were not used for a
    while. What the store knows of them stays there; and one that somebody still holds goes on,
    for its next use brings it back. While none can go, further keys share the family's common
    breaker, ``registry["tenant"]``, and a warning is logged, once.

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
        self._patterns = [name for name in config.breakers if families.is_pattern(name)]
        self._named = frozenset(config.breakers).difference(self._patterns)
        alias = config.alias
        self._members = Members(
            alias,
            config.max_breakers,
            is_overridden=lambda name: registries.override_of(alias, name) is not None,
            bring_back=lambda breaker: registries[alias].bring_back(breaker),
        )

    def __repr__(self) -> str:
        return f"<Registry {self.config.alias!r}>"

    @property
    def backend(self) -> Backend:
        """Where the circuits live; made, but not opened, at the first use."""
        return self._at_home().backend

    def __getitem__(self, name: str) -> CircuitBreaker:
        breaker = self._breakers.get(name) or self._members.get(name)
        if breaker is None:
            current = registries[self.config.alias]
            if current is not self:  # somebody has kept this one while settings have changed
                return current[name]
            if name not in self:
                remedy = "; declare it, import the module that does, or add it to BREAKERS"
                raise UnknownBreakerError(
                    f"no breaker {name!r} in registry {self.config.alias!r}"
                    f"{options.nearest(name, self) or remedy}"
                )
            home = self._at_home()
            with _lock:
                if self._is_named(name):
                    breaker = self._hand_out(name, home)
                else:
                    breaker = self._member(name, home)
        return breaker

    def __contains__(self, name: object) -> bool:
        return self._is_named(name) or (isinstance(name, str) and bool(self.family_of(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._named, *self._code()}))

    def __len__(self) -> int:
        return len({*self._named, *self._code()})

    def family(self, name: str) -> Family:
        """The breakers of a family: called with a key it gives the key's breaker.

        Keys are told apart by ``str(key)`` and may come from outside. One that is short and
        plain is seen in the breaker's name, ``f"{name}:{key}"``; of any other the name has the
        beginning and a hash. While there is no room for a key's breaker, the common one is given.

        Args:
            name: the family's; its common breaker is declared by this, if it is not yet.

        Raises:
            TypeError, ValueError: no family can have this name: it is 1 to 182 printable
                characters without any of ``: * ? [ ] ~``.
        """
        known = self._members.families
        family = known.get(name)
        if family is None:
            declare_family(self.config.alias, name, depth=2)
            with _lock:
                family = known.setdefault(name, Family(name, self._find))
        return family

    def family_of(self, name: str) -> str:
        """The family of a breaker by key; empty for any other name."""
        family, key = families.split(name)
        if not key:
            return ""
        declared = self.declared(family)
        if declared is not None and declared.keyed:
            return family
        patterns = families.matching(name, self._patterns)
        start = f"{family}{families.COLON}"
        return family if any(pattern.startswith(start) for pattern in patterns) else ""

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
        """The options in force: ``DEFAULTS``, then what :meth:`said_of` the breaker."""
        return {**self.config.defaults, **self.said_of(name)}

    def said_of(self, name: str) -> dict[str, Any]:
        """What code and settings say of this breaker, of each option what counts."""
        return {key: value for _, said in self.sources_of(name) for key, value in said.items()}

    def sources_of(self, name: str) -> Iterator[tuple[Declared | str, Mapping[str, Any]]]:
        """Code, and keys of ``BREAKERS``, and what each says of this breaker; the later one counts:

        - what code declares; of a breaker by key first what it declares of the family
        - of a breaker by key, ``BREAKERS[family]``
        - patterns in ``BREAKERS`` that fit the name; the one with the longest literal text last
        - ``BREAKERS[name]``
        """
        family, entries = self.family_of(name), self.config.breakers
        for declared in (self.declared(family), self.declared(name)):
            if declared is not None:
                yield declared, declared.policy
        for key in (family, *families.matching(name, self._patterns), name):
            if key in entries:
                yield key, entries[key]

    def declaration(self, name: str) -> Declaration:
        """What operators are told of a breaker."""
        declared = self._declared_for(name)
        data = options.as_data(*options.make(self.values_for(name)))
        if declared is not None and declared.keyed:
            data[KEYED] = True
        return Declaration(name, data, self.where(name))

    def where(self, name: str) -> str:
        """Where the breaker, or its family, is declared."""
        declared = self._declared_for(name)
        return declared.where if declared else f"settings.{conf.SETTING}"

    def _declared_for(self, name: str) -> Declared | None:
        return self.declared(name) or self.declared(self.family_of(name))

    def redeclared(self, name: str) -> None:
        """Act on a new declaration, also where breakers are in use."""
        breaker = _handed_out.get(self.config.alias, {}).get(name)
        if breaker is not None:
            self.adopt(breaker)
        self._members.drop(name)  # where it was one, it has a name of its own now
        told = {name}
        for member in _held_by_key(self.config.alias):
            if name in (member.view.name, self.family_of(member.view.name)):
                self.put_away(member)
                told |= {member.view.name} & self._members.told
        if self._home is not None:
            for each in sorted(told):
                self._home.backend.declare(self.declaration(each))

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

    def put_away(self, breaker: CircuitBreaker) -> None:
        """Make a breaker by key one of this registry: its policy now, all else at its next use."""
        name, alias = breaker.view.name, self.config.alias
        breaker.policy, breaker.classifier = options.make(self.values_for(name))
        breaker.passive = self.passive and registries.override_of(alias, name) is None
        self._members.put_away(breaker)

    def bring_back(self, breaker: CircuitBreaker) -> None:
        """Keep a breaker by key that was put away and is in use."""
        home = self._at_home()
        with _lock:
            if not is_away(breaker):
                return  # another thread was faster
            if self._is_named(breaker.view.name):
                self._hand_out(breaker.view.name, home)
            else:
                self._keep(breaker, home)

    def touch(self) -> None:
        """Do the housekeeping where threads cannot run."""
        if self._home is not None and not self.passive:
            self._home.backend.touch()

    def close(self) -> None:
        """Let go of the store, and of all breakers by key."""
        if self._home is not None:
            with _lock:
                names = self._members.clear()
            self._home.backend.close()  # first, for what it still tells the store goes with a view
            with _lock:
                for name in names:
                    drop_view(name, self._home)

    def _is_named(self, name: object) -> bool:
        return name in self._named or name in self._code()

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
            breaker = self._held_or_new(name, home)
        self.adopt(breaker)
        known[name] = self._breakers[name] = breaker
        return breaker

    def _held_or_new(self, name: str, home: Home) -> CircuitBreaker:
        breaker = _by_key[self.config.alias].get(name)
        if breaker is None:
            breaker = CircuitBreaker(name, **self.values_for(name), backend=home.backend)
            home.views[name] = breaker.view
        return breaker

    # -- breakers by key --------------------------------------------------------------------

    def _find(self, family: Family, key: str) -> CircuitBreaker:
        """The breaker of a key that the family does not have at hand."""
        current = registries[self.config.alias]
        if current is not self:
            return current.family(family.name)(key)
        name = families.member_name(family.name, key)
        is_plain = name == f"{family.name}{families.COLON}{key}"
        breaker = self._members.get(name)
        if breaker is not None and not is_plain:
            return breaker
        home = self._at_home()
        is_new = breaker is None and not self._is_named(name)
        if is_new and self._members.is_full(home.backend.seconds()):
            return self[family.name]
        with _lock:
            if self._is_named(name):
                breaker = self[name]
            elif self._members.get(name) is not None or self._members.make_room(home):
                breaker = self._member(name, home)
            else:
                self._members.refuse(family, home.backend.seconds())
                return self[family.name]
            if is_plain:
                family.plain[key] = breaker
        return breaker

    def _member(self, name: str, home: Home) -> CircuitBreaker:
        """The breaker by key of this name, from now on kept, also where there is no room."""
        breaker = self._members.get(name)
        if breaker is None:
            breaker = _handed_out.get(self.config.alias, {}).get(name)
        if breaker is None:
            breaker = self._held_or_new(name, home)
            _by_key[self.config.alias][name] = breaker
            self._keep(breaker, home)
        return breaker

    def _keep(self, breaker: CircuitBreaker, home: Home) -> None:
        name = breaker.view.name
        if self._members.get(name) is None:
            self._members.make_room(home)
            self._members.keep(name, breaker)
        self.adopt(breaker)
        if self._members.tells(name):
            home.backend.declare(self.declaration(name))

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
        logger.warning("circuit %s: while you develop, %s.", error.name, remedy)


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
        for alias in {*_handed_out, *_by_key}:
            for name in _handed_out.get(alias, {}):
                self._adopt_one(alias, name)
            for member in _held_by_key(alias):
                self._adopt_one(alias, member.view.name)

    def _adopt_one(self, alias: str, name: str) -> None:
        named = _handed_out.get(alias, {}).get(name)
        breaker = named or _by_key[alias][name]
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

    def family(self, name: str) -> Family:
        """:meth:`Registry.family` of the registry ``default``."""
        declare_family(DEFAULT_ALIAS, name, depth=2)
        return registries[DEFAULT_ALIAS].family(name)

    def declare(self, name: str, **policy: Unpack[PolicySettings]) -> None:
        """:meth:`Registry.declare` of the registry ``default``; touches no settings."""
        declare(DEFAULT_ALIAS, name, policy, depth=2)


registries = Registries()
breakers = DefaultRegistry()


def declare(
    alias: str, name: str, policy: Mapping[str, Any], *, depth: int = 1, keyed: bool = False
) -> None:
    """:func:`declarations.keep`, with what follows from it for registries in use."""
    with _lock:
        if declarations.keep(alias, name, policy, depth=depth + 1, keyed=keyed):
            for registry in registries.built():
                if registry.config.alias == alias:
                    registry.redeclared(name)


def declare_family(alias: str, name: str, *, depth: int = 1) -> None:
    """:func:`declare` that there are breakers by key, unless it is known."""
    declared = declarations.of(alias).get(name)
    if declared is None or not declared.keyed:
        declare(alias, name, {}, depth=depth + 1, keyed=True)


def _held_by_key(alias: str) -> list[CircuitBreaker]:
    """The breakers by key that somebody holds, but for those with a name of their own."""
    named = _handed_out.get(alias, {})
    return [breaker for name, breaker in list(_by_key[alias].items()) if name not in named]


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
