"""What code says of breakers, kept by registry and name. No settings are touched."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from circuitbreaker_django.core.breaker import check_name
from circuitbreaker_django.core.options import make
from circuitbreaker_django.families import check_family


@dataclass(frozen=True, slots=True)
class Declared:
    """What code says of a breaker.

    Attributes:
        policy: the options that it gives.
        lines: where it says so: the declaring line, and those that led to it from the module
            whose import or call this is. One helper may declare for many modules.
        keyed: whether it is a family, with a breaker for each key.
    """

    policy: Mapping[str, Any]
    lines: tuple[str, ...]
    keyed: bool = False

    @property
    def where(self) -> str:
        """The declaring line, as ``file:line``."""
        return self.lines[0]


#: It outlives registries, which come and go with the settings.
_declared: dict[str, dict[str, Declared]] = {}


def of(alias: str) -> Mapping[str, Declared]:
    """What is declared for a registry, by name."""
    return _declared.get(alias, {})


def everything() -> dict[str, dict[str, Declared]]:
    """What is declared, by registry and name."""
    return {alias: dict(known) for alias, known in list(_declared.items()) if known}


def keep(
    alias: str, name: str, policy: Mapping[str, Any], *, depth: int, keyed: bool = False
) -> bool:
    """Keep a declaration; whether that changes anything. For one thread at a time.

    A declaration without options only says that the name exists. The same place may declare
    again, as when a module is imported twice. What one place calls keyed is keyed.

    Args:
        alias: the registry's.
        name: the breaker's.
        policy: its options.
        depth: how many calls up the declaring code is.
        keyed: whether the breaker has others by key.

    Raises:
        ImproperlyConfigured: another place declares the same name with other options.
        TypeError, ValueError: no such name can be, or an option is unknown or out of range.
    """
    (check_family if keyed else check_name)(name)
    make(policy)
    new = Declared(dict(policy), _lines(sys._getframe(depth)), keyed)
    known = _declared.setdefault(alias, {})
    old = known.get(name)
    if old is not None:
        new = replace(new, keyed=old.keyed or keyed)
        if old.lines != new.lines:
            if not new.policy or _same(old.policy, new.policy):
                known[name] = replace(old, keyed=new.keyed)
                return known[name] != old
            if old.policy:
                raise ImproperlyConfigured(
                    f"breaker {name!r} is declared twice with other options: {_places(old, new)}. "
                    "Declare it once, and use it elsewhere by its name alone."
                )
    known[name] = new
    return True


def _lines(frame: FrameType | None) -> tuple[str, ...]:
    lines: list[str] = []
    module = False
    while frame is not None and not module:
        lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        module = frame.f_code.co_name == "<module>"
        frame = frame.f_back
    return tuple(lines)


def _places(old: Declared, new: Declared) -> str:
    if old.where != new.where:
        return f"at {old.where} and at {new.where}"
    return f"at {new.where}, called at {old.lines[-1]} and at {new.lines[-1]}"


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return make(one) == make(other) and one.keys() == other.keys()
