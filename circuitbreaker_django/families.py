"""Families: breakers by key, of which a process keeps only so many.

A family ``tenant`` has the breakers ``tenant:acme``, ``tenant:globex`` and so on. Keys may come
from outside: whatever a key is, it makes a usable name, no two keys make the same one, and no
key imitates another or reads as a pattern.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, cast

from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core import window
from circuitbreaker_django.core.breaker import MAX_NAME, CircuitBreaker, check_name
from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.trial import Admission
from circuitbreaker_django.core.view import View

if TYPE_CHECKING:
    from circuitbreaker_django.backends.base import Backend

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
#: Breakers by key that a process tells operators of, at most; of the others they know the family.
MAX_TOLD: Final = 1000
#: Kept breakers that are looked at, at most, to find one that can go.
MAX_LOOKS: Final = 2000
#: Seconds for which a process believes that none can go.
FULL_FOR: Final = 1.0

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


class Members:
    """The keyed breakers that one registry keeps, by name.

    A use must cost nothing, so nobody notes it: who had no calls between two looks is the one
    that has not been used for the longest time (second chance). Changed under one lock; asked
    for a breaker under none.

    Args:
        limit: how many.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[str, CircuitBreaker] = OrderedDict()
        #: The calls of each at the last look; -1 before it.
        self._calls: dict[str, int] = {}

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another."""
        return len(self._kept) >= self.limit

    def get(self, name: str) -> CircuitBreaker | None:
        """The breaker, if it is kept."""
        return self._kept.get(name)

    def keep(self, name: str, breaker: CircuitBreaker) -> None:
        """Keep the breaker."""
        self._kept[name] = breaker
        self._calls[name] = -1

    def drop(self, name: str) -> None:
        """Do not keep it, if it is kept."""
        self._kept.pop(name, None)
        self._calls.pop(name, None)

    def take_idle(
        self, views: Mapping[str, View], may_go: Callable[[str], bool]
    ) -> CircuitBreaker | None:
        """Take out one that may go: one that was not used for a while, or else any.

        Args:
            views: of the breakers, by name; one that was not used here has none.
            may_go: asked by name.
        """
        found = None
        for _ in range(min(len(self._kept), MAX_LOOKS)):
            name = next(iter(self._kept))
            view = views.get(name)
            calls = 0 if view is None else view.all_calls
            unused = calls == self._calls[name]
            if (found is None or unused) and may_go(name):
                found = name
                if unused:
                    break
            self._calls[name] = calls
            self._kept.move_to_end(name)
        if found is None:
            return None
        breaker = self._kept[found]
        self.drop(found)
        return breaker

    def clear(self) -> list[str]:
        """Keep none; the names of those that were kept."""
        names = list(self._kept)
        self._kept.clear()
        self._calls.clear()
        return names


def is_idle(view: View, policy: Policy, now: int) -> bool:
    """Whether nothing that counts is lost when the view is made anew.

    It is when the circuit is closed, in no mode, and nobody has failed within the window. A row
    of failures that is older does not keep one: else each key that ever failed would stay.
    """
    tally = view.tally
    return (
        core.is_blank(view.circuit, policy, now)
        and not view.local
        and not window.live(view.own, policy, now)
        and (tally is None or not tally.is_suspect(now))
    )


class Away:
    """In the place of a backend: the breaker is not kept, and its next use brings it back.

    Args:
        breaker: whose backend it is.
        bring_back: gives the breaker a backend and a view.
    """

    def __init__(
        self, breaker: CircuitBreaker, bring_back: Callable[[CircuitBreaker], None]
    ) -> None:
        self._breaker = breaker
        self._bring_back = bring_back
        # Views ask for these under the lock of a backend, where nothing may be brought back.
        self.clock = breaker.backend.clock
        self.seconds = breaker.backend.seconds

    def admit(self, view: View, policy: Policy, name: str | None) -> Admission | CircuitOpenError:
        """Let a call pass, or not, as the view says that it has from now on."""
        backend, breaker = self._back(), self._breaker
        return backend.admit(breaker.view, breaker.policy, name)

    def count(self, view: View, epoch: int, policy: Policy, **call: Any) -> None:
        """Count a call that began before the breaker was let go of."""
        backend, breaker = self._back(), self._breaker
        backend.count(breaker.view, epoch, breaker.policy, **call)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._back(), attribute)

    def _back(self) -> Backend:
        self._bring_back(self._breaker)
        return self._breaker.backend


def put_away(breaker: CircuitBreaker, bring_back: Callable[[CircuitBreaker], None]) -> None:
    """Take the breaker from its backend until its next use."""
    view = breaker.view
    breaker.backend = cast("Backend", Away(breaker, bring_back))
    # Another view, for a call that is on its way may open the gate of this one again.
    breaker.view = View(breaker, view.name, view.circuit, view.incarnation)
    view.shut()


def is_away(breaker: CircuitBreaker) -> bool:
    """Whether its next use will bring the breaker back."""
    return isinstance(breaker.backend, Away)
