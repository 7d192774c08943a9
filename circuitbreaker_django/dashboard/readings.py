"""All registries as they are now, or as they were when their stores were last reached."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from circuitbreaker_django.backends.host import host_name
from circuitbreaker_django.backends.store import HISTORY
from circuitbreaker_django.core.circuit import Event
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.dashboard.charts import SPARKS
from circuitbreaker_django.dashboard.keys import Key
from circuitbreaker_django.dashboard.words import moment
from circuitbreaker_django.operations.room import ControlRoom
from circuitbreaker_django.operations.status import BreakerStatus
from circuitbreaker_django.project import registries


@dataclass(frozen=True, slots=True)
class Reading:
    """One registry at one moment.

    Attributes:
        alias: the registry's.
        room: through which it was seen; ``None``: never, for its store could not be reached yet.
        at: when it was seen.
        asked_at: when it was last tried to see it.
        problem: why the store cannot be used now, if it cannot.
        lost_at: since when, as far as this process knows; ``None`` while it can be used.
        misconfigured: whether that is a mistake in the settings.
    """

    alias: str
    room: ControlRoom | None
    at: datetime
    asked_at: datetime
    problem: str = ""
    lost_at: datetime | None = None
    misconfigured: bool = False

    @property
    def names(self) -> list[str]:
        """Those of which nothing else is known, as there was no store to ask."""
        try:
            return [] if self.room is not None else list(registries[self.alias])
        except ImproperlyConfigured:
            return []

    @property
    def can_be_steered(self) -> bool:
        """Whether orders may reach anybody; of a store that is away nobody knows."""
        room = self.room
        return room is None or (room.shared and room.registry.config.enabled)

    @property
    def processes(self) -> int:
        """How many live processes share the circuits."""
        return 0 if self.room is None else len(self.room.processes)


#: How long it is known that a store is away without another look.
KNOWN_FOR: Final = timedelta(minutes=1)

#: What this process has seen of each registry last.
_last: dict[str, Reading] = {}


class Watch:
    """Registries, for the time of one request.

    Attributes:
        readings: each of them, as it is or was.
    """

    def __init__(self, readings: Iterable[Reading]) -> None:
        self.readings = list(readings)
        #: The same by alias.
        self.of = {reading.alias: reading for reading in self.readings}

    def glance(self) -> dict[Key, tuple[CircuitState, Mode] | None]:
        """State and mode of every breaker, where they are known."""
        found: dict[Key, tuple[CircuitState, Mode] | None] = {}
        for reading in self.readings:
            if reading.room is not None:
                seen = reading.room.glance().items()
                found |= {Key(reading.alias, name): state for name, state in seen}
            found |= {Key(reading.alias, name): None for name in reading.names}
        return found

    def statuses(
        self, keys: Iterable[Key], *, minutes: int = SPARKS, day: bool = False
    ) -> dict[Key, BreakerStatus]:
        """Those breakers, as far as they are known, with their calls over time.

        Args:
            keys: of breakers.
            minutes: of how many minutes.
            day: whether the calls of the last day are asked for, too.
        """
        names: dict[str, list[str]] = {}
        for key in keys:
            names.setdefault(key.registry, []).append(key.name)
        return {
            Key(reading.alias, status.name): status
            for reading in self.readings
            if reading.room is not None and reading.alias in names
            for status in reading.room.status(
                names[reading.alias], stats=reading.lost_at is None, minutes=minutes, day=day
            )
        }

    def history(self, key: Key) -> list[tuple[datetime, Event]] | None:
        """What has happened to that breaker, newest first; ``None`` if its store is lost."""
        reading = self.of[key.registry]
        if reading.room is None or reading.lost_at is not None:
            return None
        try:
            found = reading.room.history([key.name], HISTORY)
            return [(at, event) for at, _, event in found]
        except CircuitBackendError:
            return None  # lost since it was read

    def origins(self, key: Key) -> Mapping[str, str]:
        """Where each option of that breaker is set that is not a default, as far as is known."""
        room = self.of[key.registry].room  # what it has read is enough, also of a lost store
        return {} if room is None else room.known.origins(key.name)


@contextmanager
def watching(aliases: Iterable[str] | None = None) -> Iterator[Watch]:
    """Look at registries: those of the aliases that are any, or all."""
    wanted = registries if aliases is None else dict.fromkeys(aliases)
    with ExitStack() as stack:
        readings = []
        # An alias may come from outside: what is none must not be remembered.
        for alias in filter(registries.__contains__, wanted):
            now = datetime.now(UTC)
            try:
                room = stack.enter_context(closing(ControlRoom(registries[alias])))
                reading = Reading(alias, room, now, now)
            except (CircuitBackendError, ImproperlyConfigured) as error:
                last = _last.get(alias) or Reading(alias, None, now, now)
                # Whether it was away all the time nobody knows who has not looked meanwhile.
                known = last.lost_at is not None and now - last.asked_at < KNOWN_FOR
                reading = replace(
                    last,
                    asked_at=now,
                    problem=str(error),
                    lost_at=last.lost_at if known else now,
                    misconfigured=isinstance(error, ImproperlyConfigured),
                )
            _last[alias] = reading
            readings.append(reading)
        yield Watch(readings)


def banners(readings: Iterable[Reading]) -> list[dict[str, str]]:
    """What an operator must know before believing the page, by urgency.

    Each is ``level``, ``key`` and ``text``, which may change while the key stays.
    """
    found = [banner for reading in readings for banner in _banners(reading)]
    return sorted(found, key=lambda banner: ("error", "warning", "info").index(banner["level"]))


def _banners(reading: Reading) -> Iterator[dict[str, str]]:
    names: dict[str, Any] = {"registry": reading.alias}
    room = reading.room
    if room is not None and reading.lost_at is None:
        names |= {"pid": os.getpid(), "host": host_name(), "all": reading.processes}
        names |= {"count": len(room.differing), "silent": len(room.silent)}
        for level, key, text in _banners_of(room):
            yield {"level": level, "key": f"{key} {reading.alias}", "text": text % names}
        return
    names |= {
        "time": moment(reading.lost_at or reading.at).text,
        "problem": reading.problem.rstrip("."),
    }
    if reading.misconfigured:
        text = _("Registry “%(registry)s” cannot be used with its settings: %(problem)s.")
    else:
        text = _(
            "The store of registry “%(registry)s” has not been reachable since %(time)s: "
            "%(problem)s."
        )
    if room is None:
        text += " " + _("What its circuits are is not known here.")
    else:
        names["at"] = moment(reading.at).text
        text += " " + _("You see what was known at %(at)s.")
    yield {"level": "error", "key": f"lost {reading.alias}", "text": text % names}


def _banners_of(room: ControlRoom) -> Iterator[tuple[str, str, str]]:
    if not room.registry.config.enabled:
        yield (
            "warning",
            "disabled",
            _("Registry “%(registry)s” is switched off (ENABLED is False): all calls pass."),
        )
    if not room.shared:
        text = _(
            "Registry “%(registry)s” keeps separate circuits in each process. You see those of "
            "process %(pid)s on %(host)s, and nobody can steer the others from here."
        )
        yield "warning", "local", text
    elif room.missing is not None:
        yield "info", "missing", _("No process has used a breaker of registry “%(registry)s” yet.")
    if room.differing:
        text = ngettext(
            "%(count)d of %(all)d live processes of registry “%(registry)s” runs with other "
            "settings than this page's, by which thresholds and waits are shown here.",
            "%(count)d of %(all)d live processes of registry “%(registry)s” run with other "
            "settings than this page's, by which thresholds and waits are shown here.",
            len(room.differing),
        )
        yield "warning", "differing", text
    if room.silent:
        text = ngettext(
            "%(silent)d process of registry “%(registry)s” was not heard of lately: it may be cut "
            "off from the store, and then goes on alone and follows no order.",
            "%(silent)d processes of registry “%(registry)s” were not heard of lately: they may be "
            "cut off from the store, and then go on alone and follow no order.",
            len(room.silent),
        )
        yield "warning", "silent", text
