"""A registry: breakers by name, one set for all threads of a process."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

from django.conf import settings

from circuitbreaker_django import conf, declarations, families, held
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
from circuitbreaker_django.environment import is_autoreloader, is_for_tests
from circuitbreaker_django.families import Family
from circuitbreaker_django.members import Members, drop_view, is_away

if TYPE_CHECKING:
    from circuitbreaker_django.project import Registries

logger = logging.getLogger("circuitbreaker_django")


@dataclass(slots=True)
class Home:
    """Where circuits of breakers live: a backend, and the views of it that breakers have had."""

    backend: Backend
    views: dict[str, View] = field(default_factory=dict)


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
        project: all registries, of which this is one.
        clock: keeps the circuits in memory, by this clock: for tests.
    """

    def __init__(
        self, config: RegistryConfig, project: Registries, *, clock: Clock | None = None
    ) -> None:
        self.config = config
        self._project = project
        #: Whether all calls pass: switched off, or inside of somebody's tests.
        self.passive = not config.enabled or (clock is None and is_for_tests())
        self._clock = clock
        self._home: Home | None = None
        self._breakers: dict[str, CircuitBreaker] = {}
        #: The keys of ``BREAKERS`` that stand for several breakers by key.
        self.patterns = [name for name in config.breakers if families.is_pattern(name)]
        self._named = frozenset(config.breakers).difference(self.patterns)
        alias = config.alias
        self._members = Members(
            alias,
            config.max_breakers,
            is_overridden=lambda name: project.override_of(alias, name) is not None,
            bring_back=lambda breaker: project[alias].bring_back(breaker),
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
            current = self._project[self.config.alias]
            if current is not self:  # somebody has kept this one while settings have changed
                return current[name]
            if name not in self:
                remedy = "; declare it, import the module that does, or add it to BREAKERS"
                raise UnknownBreakerError(
                    f"no breaker {name!r} in registry {self.config.alias!r}"
                    f"{options.nearest(name, self) or remedy}"
                )
            home = self._at_home()
            with held.lock:
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
            self._project.declare_family(self.config.alias, name, depth=2)
            with held.lock:
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
        patterns = families.matching(name, self.patterns)
        start = f"{family}{families.COLON}"
        return family if any(pattern.startswith(start) for pattern in patterns) else ""

    def declare(self, name: str, **policy: Unpack[PolicySettings]) -> None:
        """Say in code that there is a breaker of this name, and what it is like.

        The settings' ``BREAKERS[name]`` override it, key by key.

        Raises:
            ImproperlyConfigured: another place declares the same name differently.
            TypeError, ValueError: an option is unknown or out of range.
        """
        self._project.declare(self.config.alias, name, policy, depth=2)

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
        for key in (family, *families.matching(name, self.patterns), name):
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
        breaker = held.named.get(self.config.alias, {}).get(name)
        if breaker is not None:
            self.adopt(breaker)
        self._members.drop(name)  # where it was one, it has a name of its own now
        told = {name}
        for member in held.by_key_only(self.config.alias):
            if name in (member.view.name, self.family_of(member.view.name)):
                self.put_away(member)
                told |= {member.view.name} & self._members.told
        if self._home is not None:
            for each in sorted(told):
                self._home.backend.declare(self.declaration(each))

    def adopt(self, breaker: CircuitBreaker) -> None:
        """Make the breaker one of this registry: its policy, and where its circuit lives."""
        name = breaker.view.name
        home = self._project.override_of(self.config.alias, name)
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
        breaker.passive = self.passive and self._project.override_of(alias, name) is None
        self._members.put_away(breaker)

    def bring_back(self, breaker: CircuitBreaker) -> None:
        """Keep a breaker by key that was put away and is in use."""
        home = self._at_home()
        with held.lock:
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
            with held.lock:
                names = self._members.clear()
            self._home.backend.close()  # first, for what it still tells the store goes with a view
            with held.lock:
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
            with held.lock:
                if self._home is None:
                    for name in self:
                        made.backend.declare(self.declaration(name))
                    self._home = made
        return self._home

    def _make_backend(self) -> Backend:
        if self._clock is not None or self.passive or is_autoreloader():
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
        known = held.named.setdefault(self.config.alias, {})
        breaker = known.get(name)
        if breaker is None:
            breaker = self._held_or_new(name, home)
        self.adopt(breaker)
        known[name] = self._breakers[name] = breaker
        return breaker

    def _held_or_new(self, name: str, home: Home) -> CircuitBreaker:
        breaker = held.by_key[self.config.alias].get(name)
        if breaker is None:
            breaker = CircuitBreaker(name, **self.values_for(name), backend=home.backend)
            home.views[name] = breaker.view
        return breaker

    # -- breakers by key --------------------------------------------------------------------

    def _find(self, family: Family, key: str) -> CircuitBreaker:
        """The breaker of a key that the family does not have at hand."""
        current = self._project[self.config.alias]
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
        with held.lock:
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
            breaker = held.named.get(self.config.alias, {}).get(name)
        if breaker is None:
            breaker = self._held_or_new(name, home)
            held.by_key[self.config.alias][name] = breaker
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
