"""Members: the breakers by key that a registry keeps, and which of them go when there are more."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from circuitbreaker_django import conf, families
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core import window
from circuitbreaker_django.core.breaker import CircuitBreaker
from circuitbreaker_django.core.errors import CircuitOpenError
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.trial import Admission
from circuitbreaker_django.core.view import View
from circuitbreaker_django.families import Family

if TYPE_CHECKING:
    from circuitbreaker_django.backends.base import Backend
    from circuitbreaker_django.registry import Home

logger = logging.getLogger("circuitbreaker_django")

#: Breakers by key that a process tells operators of, at most; of the others they know the family.
MAX_TOLD: Final = 1000
#: Kept breakers that are looked at, at most, to find one that can go.
MAX_LOOKS: Final = 2000
#: Seconds for which a process believes that none can go.
FULL_FOR: Final = 1.0


class Members:
    """The breakers by key that one registry keeps, by name, and the families they are of.

    A use must cost nothing, so nobody notes it: who had no calls between two looks is the one
    that has not been used for the longest time (second chance). Changed under one lock; asked
    for a breaker under none.

    Args:
        alias: the registry's.
        limit: how many.
        is_overridden: whether the breaker of a name lives elsewhere for a while; then it stays.
        bring_back: gives a breaker that was put away a backend and a view.

    Attributes:
        families: those that were asked for, by name.
        told: the breakers that operators were told of: so few in all, for they are told for days.
    """

    def __init__(
        self,
        alias: str,
        limit: int,
        is_overridden: Callable[[str], bool],
        bring_back: Callable[[CircuitBreaker], None],
    ) -> None:
        self.families: dict[str, Family] = {}
        self.told: set[str] = set()
        self._alias = alias
        self._limit = limit
        self._is_overridden = is_overridden
        self._bring_back = bring_back
        self._kept: OrderedDict[str, CircuitBreaker] = OrderedDict()
        #: The calls of each at the last look; -1 before it.
        self._calls: dict[str, int] = {}
        self._full_until = 0.0
        self._has_warned = False

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

    def clear(self) -> list[str]:
        """Keep none; the names of those that were kept."""
        for family in self.families.values():
            family.plain.clear()
        names = list(self._kept)
        self._kept.clear()
        self._calls.clear()
        return names

    def tells(self, name: str) -> bool:
        """Whether operators are to be told of it now: once, and not of too many."""
        if name in self.told or len(self.told) >= min(self._limit, MAX_TOLD):
            return False
        self.told.add(name)
        return True

    # -- room -------------------------------------------------------------------------------

    def make_room(self, home: Home) -> bool:
        """Let go of breakers until there is room for one more, if that can be."""
        while len(self._kept) >= self._limit:
            name = self._find_idle(home)
            if name is None:
                return False
            family, key = families.split(name)
            if family in self.families:
                self.families[family].plain.pop(key, None)
            self.put_away(self._kept[name])
            self.drop(name)
            drop_view(name, home)
        return True

    def is_full(self, now: float) -> bool:
        """Whether none could go a moment ago; ``now`` is in seconds."""
        return now < self._full_until

    def refuse(self, family: Family, now: float) -> None:
        """Believe for a moment that none can go, and say so once."""
        self._full_until = now + FULL_FOR
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s: %d breakers are kept and none can go, so further keys of %r share a circuit",
                conf.where(self._alias, "MAX_BREAKERS"),
                self._limit,
                family.name,
            )

    def put_away(self, breaker: CircuitBreaker) -> None:
        """Take the breaker from its backend until its next use."""
        view = breaker.view
        breaker.backend = cast("Backend", Away(breaker, self._bring_back))
        # Another view, for a call that is on its way may open the gate of this one again.
        breaker.view = View(breaker, view.name, view.circuit, view.incarnation)
        view.shut()

    def _find_idle(self, home: Home) -> str | None:
        """One that may go: one that was not used for a while, or else any."""
        found = None
        for _ in range(min(len(self._kept), MAX_LOOKS)):
            name = next(iter(self._kept))
            view = home.views.get(name)  # none of one that was not used here
            calls = 0 if view is None else view.all_calls
            unused = calls == self._calls[name]
            if (found is None or unused) and self._may_go(name, home):
                found = name
                if unused:
                    break
            self._calls[name] = calls
            self._kept.move_to_end(name)
        return found

    def _may_go(self, name: str, home: Home) -> bool:
        if self._is_overridden(name):
            return False
        view = home.views.get(name)
        return view is None or is_idle(view, view.policy, home.backend.clock())


def drop_view(name: str, home: Home) -> None:
    """Let go of what a breaker that goes has in its backend."""
    view = home.views.pop(name, None)
    if view is not None:  # else it has only been used while it was overridden
        home.backend.drop_view(view, families.split(name)[0])


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


def is_away(breaker: CircuitBreaker) -> bool:
    """Whether its next use will bring the breaker back."""
    return isinstance(breaker.backend, Away)
