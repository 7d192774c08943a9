"""A breaker as the page shows it: the same values for the template and for the poll."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.utils.translation import gettext as _

from circuitbreaker_django.core.announce import printable
from circuitbreaker_django.core.circuit import Event
from circuitbreaker_django.core.policy import seconds
from circuitbreaker_django.core.states import CircuitState
from circuitbreaker_django.core.traffic import MINUTE
from circuitbreaker_django.dashboard import charts, words
from circuitbreaker_django.dashboard.charts import Span
from circuitbreaker_django.dashboard.keys import Key
from circuitbreaker_django.dashboard.readings import Reading, Watch
from circuitbreaker_django.dashboard.words import LOOKS
from circuitbreaker_django.operations.looks import URGENCY, Look, look_of
from circuitbreaker_django.operations.status import BreakerStatus
from circuitbreaker_django.operations.words import age, alone

#: What the list can be narrowed down to, besides a registry and a part of a name.
FILTERS: Final = ("open", "half_open", "closed", "steered")


@dataclass(frozen=True, slots=True)
class Entry:
    """A breaker of the list, with what it is sorted by."""

    key: Key
    state: CircuitState | None
    look: Look


_STEERED: Final = (Look.HELD, Look.DISABLED, Look.METRICS_ONLY)


def is_among(filter: str, state: CircuitState | None, look: Look) -> bool:
    """Whether a breaker is one of those that the filter is for."""
    if filter == "steered":
        return look in _STEERED
    return (look if filter == "closed" else state) == filter  # what is disabled is not well


def entries(seen: Watch) -> list[Entry]:
    """All breakers, the most urgent first."""
    found = [
        Entry(key, None, Look.UNKNOWN) if known is None else Entry(key, known[0], look_of(*known))
        for key, known in seen.glance().items()
    ]
    return sorted(found, key=lambda entry: (URGENCY[entry.look], entry.key))


def narrowed(
    found: Iterable[Entry], *, search: str = "", registry: str = "", state: str = ""
) -> list[Entry]:
    """Those that were asked for."""
    wanted = search.casefold().split()
    return [
        entry
        for entry in found
        if all(word in entry.key.name.casefold() for word in wanted)
        and registry in ("", entry.key.registry)
        and (state not in FILTERS or is_among(state, entry.state, entry.look))
    ]


def counts(found: Iterable[Entry]) -> dict[str, int]:
    """How many there are of each filter, and of all."""
    kinds = Counter((entry.state, entry.look) for entry in found)
    among = {
        filter: sum(number for kind, number in kinds.items() if is_among(filter, *kind))
        for filter in FILTERS
    }
    return {"all": kinds.total(), **among}


def rows(seen: Watch, keys: Iterable[Key]) -> list[dict[str, Any]]:
    """Those breakers as the page shows them, with their calls over time."""
    keys = list(keys)
    known = seen.statuses(keys)
    return [row(key, known.get(key), seen.of[key.registry]) for key in keys]


def row(key: Key, status: BreakerStatus | None, reading: Reading) -> dict[str, Any]:
    """What the page shows of a breaker.

    Args:
        key: the breaker's.
        status: what is known of it.
        reading: of its registry.

    Returns:
        ``cells``: texts, or a text with its machine-readable time; ``paths``: of drawings.
    """
    if status is not None and reading.lost_at is not None and status.retry_after is not None:
        gone = (datetime.now(UTC) - reading.at).total_seconds()
        status = replace(status, retry_after=max(0.0, status.retry_after - gone))
    look = Look.UNKNOWN if status is None else look_of(status.state, status.mode)
    known = {
        "id": key.id,
        "pk": key.pk,
        "name": key.name,
        "registry": key.registry,
        "steerable": reading.can_be_steered,
        "look": look,
        "state": str(LOOKS[look]),
        # Of a store that is lost each process remembers another moment.
        "lost": reading.lost_at is not None,
        "at": 0.0 if status is None else reading.at.timestamp(),
    }
    if status is None:
        return {**known, "epoch": 0, "retry_in": None, "cells": {}, "paths": {}}
    shown: dict[str, Any] = {
        **known,
        "epoch": status.epoch,
        "retry_in": status.retry_after,
        "cells": _cells(status, reading.processes),
        "paths": {},
    }
    if status.stats is not None:
        last, lately = status.stats.last_minute, charts.lately(status.stats)
        shown["cells"]["calls"] = words.per_second(last.calls / seconds(MINUTE))
        rejected = sum(one.rejected for one in lately)
        shown["cells"]["rejected"] = words.rejected(rejected, len(lately))
        shown["paths"] = charts.spark(lately, last)
    return shown


def with_figure(
    shown: dict[str, Any],
    status: BreakerStatus | None,
    history: Sequence[tuple[datetime, Event]] | None,
    span: Span,
) -> dict[str, Any]:
    """The row with the figure of its breaker's page: calls and states over the span."""
    now = datetime.now(UTC)
    # What it is now does not tell what it has been.
    look = Look.UNKNOWN if history is None else shown["look"]
    paths, lengths = charts.strip(history or (), look, now, span)
    cells = {"states": words.lengths(lengths), "begin": _time(now - timedelta(seconds=span.length))}
    if status is not None and status.stats is not None:
        found = list(charts.buckets(status.stats, span))
        paths |= charts.bars(status.stats, span)
        cells |= words.figure(
            [counts for start, counts in found], charts.most_of(found), span.bucket
        )
    return {**shown, "cells": {**shown["cells"], **cells}, "paths": {**shown["paths"], **paths}}


def history_line(at: datetime, event: Event) -> dict[str, Any]:
    """A line of the history as the page shows it."""
    before, after = Look(event.before.value), look_of(event.after, event.mode)
    return {
        "at": words.moment(at),
        "before": before,
        "before_text": LOOKS[before],
        "after": after,
        "after_text": LOOKS[after],
        "cause": words.cause(event.cause),
        "reason": printable(event.reason),
        "actor": printable(event.actor),
        "last_error": words.error(event.last_error, event.last_message),
        "counts": words.counted(event),
    }


def _cells(status: BreakerStatus, processes: int) -> dict[str, Any]:
    waits = status.retry_after is not None and status.state is not CircuitState.CLOSED
    return {
        "until": words.until(status),
        "alone": alone(len(status.alone_in), processes),
        "reason": words.reason(status),
        "actor": words.actor(status),
        "since": _time(status.since),
        "age": _age(status.since),
        "retry": words.next_trial(status) if waits else "",
        "failures": words.failures(status),
        "elsewhere": words.elsewhere(status),
        "common": words.common(status),
        "would_reject": words.would_reject(status),
        "error": words.error(status.last_error, status.last_message),
        # A result that was a failure has no class.
        "error_at": _time(status.last_error_at) if status.last_error else None,
    }


def _time(at: datetime | None) -> dict[str, str] | None:
    return None if at is None else words.moment(at)._asdict()


def _age(since: datetime | None) -> str:
    if since is None:
        return ""
    return _("%(length)s ago") % {"length": age((datetime.now(UTC) - since).total_seconds())}
