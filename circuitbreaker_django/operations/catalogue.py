"""What is known of breakers by name: from the settings, from anybody's code and from the store."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from circuitbreaker_django import conf, families
from circuitbreaker_django.backends.store import KEYED, Declaration, Overview, ProcessInfo
from circuitbreaker_django.core import options
from circuitbreaker_django.core.errors import UnknownBreakerError
from circuitbreaker_django.core.policy import POLICY_FIELDS, Policy
from circuitbreaker_django.core.states import Mode
from circuitbreaker_django.declarations import Declared
from circuitbreaker_django.registry import Registry


class Catalogue:
    """The known breakers of one registry, and what is said of each here and elsewhere (rule 23).

    Args:
        registry: what settings and code say here.
        overview: what is in the store, and what processes have published there.
    """

    def __init__(self, registry: Registry, overview: Overview) -> None:
        self.registry = registry
        self.overview = overview

    @cached_property
    def differing(self) -> tuple[ProcessInfo, ...]:
        """The live processes that run with other settings than this one."""
        own = self.registry.config.digest()
        return tuple(process for process in self.overview.processes if process.digest != own)

    def names(self, wanted: Iterable[str] = ()) -> list[str]:
        """Every known name: of the settings, of anybody's code, and of the store (rule 23).

        Args:
            wanted: names; those that a breaker by key would have are known too, for of a family
                not all are told of.
        """
        overview = self.overview
        by_key = [name for name in wanted if self.family_of(name)]
        return sorted({*self.registry, *overview.declarations, *overview.circuits, *by_key})

    def choose(self, wanted: Iterable[str]) -> list[str]:
        """The names asked for, as :func:`choose` has it, or all of them when none is.

        Raises:
            UnknownBreakerError: one is not known, or a pattern fits none.
        """
        wanted = list(wanted)
        known = self.names(wanted)
        return choose(wanted, known, f"registry {self.registry.config.alias!r}") or known

    def family_of(self, name: str) -> str:
        """The family of a breaker by key, here or in anybody's code; empty for any other name."""
        family, _ = families.split(name)
        published = self.overview.declarations.get(family)
        if published is not None and published.policy.get(KEYED) is True:
            return family
        return self.registry.family_of(name)

    def common_to(self, name: str) -> str:
        """The pattern of a family whose common breaker this is; empty for any other one.

        It is for the keys that no breaker of their own could be kept for.
        """
        if families.COLON in name:  # one by key: of these too it is told that they are keyed
            return ""
        published, declared = self.overview.declarations.get(name), self.registry.declared(name)
        start = f"{name}{families.COLON}"
        is_one = (
            (published is not None and published.policy.get(KEYED) is True)
            or (declared is not None and declared.keyed)
            or any(pattern.startswith(start) for pattern in self.registry.patterns)
        )
        return f"{start}*" if is_one else ""

    def policy(self, name: str) -> Policy:
        """As settings and code say here; what they leave open, as was published (rule 23)."""
        config, here = self.registry.config, self.registry.said_of(name)
        try:
            return options.make_policy({**config.defaults, **self._told(name), **here})
        except (TypeError, ValueError):  # published by a process of another release
            return options.make_policy({**config.defaults, **here})

    def begins_in_a_mode(self, name: str) -> bool:
        """Whether anybody says so; who is right :meth:`policy` knows, and takes longer."""
        published = self._published(name)
        there = {} if published is None else published.policy
        for said in (self.registry.config.defaults, there, self.registry.said_of(name)):
            if said.get("initial_mode", Mode.AUTO) != Mode.AUTO:
                return True
        return False

    def elsewhere(self, name: str, policy: Policy) -> dict[str, Any]:
        """The options that live processes have other values of than that policy, as last told."""
        there = self._told(name).items() if self.differing else ()
        return {key: value for key, value in there if value != getattr(policy, key)}

    def where(self, name: str) -> str:
        """Where the breaker is declared, as ``file:line`` or in which setting, if anybody does."""
        published = self._published(name)
        if published is not None:
            return published.where
        return self.registry.where(name) if name in self.registry else ""

    def origins(self, name: str) -> dict[str, str]:
        """Where each option of the breaker is set that is not a default, in words (rule 23)."""
        config, published = self.registry.config, self._published(name)
        places = dict.fromkeys(config.defaults, conf.where(config.alias, "DEFAULTS"))
        if published is not None:  # it does not say which of its options are defaults
            known = options.make_policy(config.defaults)
            there = self._told(name).items()
            differing = [key for key, value in there if value != getattr(known, key)]
            places |= dict.fromkeys(differing, published.where)
        for source, said in self.registry.sources_of(name):
            if isinstance(source, Declared):
                places |= dict.fromkeys(said, source.where)
            else:
                places |= dict.fromkeys(said, conf.where(config.alias, "BREAKERS", source))
        return places

    def _told(self, name: str) -> dict[str, Any]:
        """The options of its policy, as published."""
        published = self._published(name)
        said = published.policy if published else {}
        return {key: value for key, value in said.items() if key in POLICY_FIELDS}

    def _published(self, name: str) -> Declaration | None:
        """What was published of a breaker; of one by key that was not, that of its family."""
        declarations = self.overview.declarations
        return declarations.get(name) or declarations.get(self.family_of(name))


def choose(wanted: Iterable[str], known: Collection[str], where: str) -> list[str]:
    """The known names that are asked for, by name or by pattern (``fnmatchcase``), each once.

    A known name is never read as a pattern.

    Args:
        wanted: names and patterns.
        known: names.
        where: they are known, in words.

    Raises:
        UnknownBreakerError: one is not known, or a pattern fits none; the message names the
            nearest, or all when none is near.
    """
    chosen: dict[str, None] = {}
    problems = []
    for name in wanted:
        is_pattern = name not in known and families.is_pattern(name)
        fitting = [each for each in known if fnmatchcase(each, name)] if is_pattern else [name]
        chosen.update(dict.fromkeys(fitting))
        if is_pattern and not fitting:
            problems.append(f"no breaker fits {name!r} in {where}{_hint(name, known)}")
        elif not is_pattern and name not in known:
            problems.append(f"no breaker {name!r} in {where}{_hint(name, known)}")
    if problems:
        raise UnknownBreakerError(". ".join(problems))
    return list(chosen)


def _hint(name: str, known: Collection[str]) -> str:
    if not known:
        return "; none is known yet"
    if close := difflib.get_close_matches(name, known):
        return f"; did you mean {' or '.join(close)}?"
    listed = ", ".join(sorted(known)[:10])
    return f"; known are: {listed}" + (f" and {len(known) - 10} more" if len(known) > 10 else "")
