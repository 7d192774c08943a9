"""Families: breakers by key, and what their keys make of their names.

A family ``tenant`` has the breakers ``tenant:acme``, ``tenant:globex`` and so on. Keys may come
from outside: whatever a key is, it makes a usable name, no two keys make the same one, and no
key imitates another or reads as a pattern.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Final

from circuitbreaker_django.core.breaker import MAX_NAME, CircuitBreaker, check_name

#: Between the name of a family and a key.
COLON: Final = ":"
#: Between the readable part of a key and its hash; so no key keeps one that it has.
TILDE: Final = "~"
#: What a key may not show in a name, though it prints.
_RESERVED: Final = frozenset(f"*?[]{TILDE}")
_HASH: Final = re.compile(r"[0-9a-f]{16}")
#: The longest readable part before a hash, in characters.
_MAX_READABLE: Final = 40
#: The longest name of a family, in characters.
MAX_FAMILY: Final = MAX_NAME - len(f"{COLON}{TILDE}") - 16
_WILDCARD: Final = re.compile(r"\[!?\]?[^]]*\]|[*?]")


# -- names --------------------------------------------------------------------------------------


def check_family(name: object) -> None:
    """Refuse what cannot be the name of a family.

    Raises:
        TypeError: not a string.
        ValueError: empty, too long, or with characters that members or patterns need.
    """
    check_name(name)
    assert isinstance(name, str)
    if len(name) > MAX_FAMILY or not _RESERVED.union(COLON).isdisjoint(name):
        raise ValueError(
            f"the name of a breaker that has keys must be a string of 1 to {MAX_FAMILY} printable "
            f"characters without any of {COLON} {' '.join(sorted(_RESERVED))}, not {name!r}"
        )


def member_name(family: str, key: str) -> str:
    """The name of a family's breaker for a key.

    A key that is short and plain is seen as it is. Of any other one the name has the beginning,
    with ``_`` for what cannot be shown, and 16 digits of its SHA-256.
    """
    name = f"{family}{COLON}{key}"
    if _is_plain(key) and len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16]
    room = min(_MAX_READABLE, MAX_FAMILY - len(family))
    readable = "".join(char if _is_plain(char) else "_" for char in key[:room])
    return f"{family}{COLON}{readable}{TILDE}{digest}"


def split(name: str) -> tuple[str, str]:
    """The family and the key that a name is made of; both empty for a name of another kind."""
    family, _, key = name.partition(COLON)
    readable, tilde, digest = key.rpartition(TILDE)
    if tilde:
        good = _HASH.fullmatch(digest) and (not readable or _is_plain(readable))
    else:
        good = _is_plain(key)
    return (family, key) if good and len(name) <= MAX_NAME else ("", "")


def _is_plain(key: str) -> bool:
    return bool(key) and key.isprintable() and _RESERVED.isdisjoint(key)


# -- patterns -----------------------------------------------------------------------------------


def is_pattern(name: str) -> bool:
    """Whether a key of ``BREAKERS``, or a word of a command, may stand for several breakers."""
    return not frozenset("*?[").isdisjoint(name)


def matching(name: str, patterns: Iterable[str]) -> list[str]:
    """The patterns that a name fits, as ``fnmatchcase`` has it; the most specific comes last.

    That is the one with the longest literal text, and of equals the one that stands last.
    """
    fitting = [each for each in patterns if is_pattern(each) and fnmatchcase(name, each)]
    return sorted(fitting, key=lambda pattern: len(_WILDCARD.sub("", pattern)))


# -- breakers -----------------------------------------------------------------------------------


class Family:
    """The breakers of one family, by key.

    Args:
        name: the family's.
        find: finds the breaker of a key that is not in ``plain``.

    Attributes:
        plain: those that are kept and whose key is seen in their name.
    """

    __slots__ = ("_find", "name", "plain")

    def __init__(self, name: str, find: Callable[[Family, str], CircuitBreaker]) -> None:
        self.name = name
        self.plain: dict[str, CircuitBreaker] = {}
        self._find = find

    def __repr__(self) -> str:
        return f"<Family {self.name!r}>"

    def __call__(self, key: object) -> CircuitBreaker:
        """The breaker of the key; keys are told apart by ``str(key)``."""
        text = key if type(key) is str else str(key)
        return self.plain.get(text) or self._find(self, text)
