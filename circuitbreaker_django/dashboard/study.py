"""All that the page of one breaker says, and its poll and download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import Http404, QueryDict

from circuitbreaker_django.core.circuit import Event
from circuitbreaker_django.core.traffic import KEPT, MINUTE
from circuitbreaker_django.dashboard import rows
from circuitbreaker_django.dashboard.charts import SPANS
from circuitbreaker_django.dashboard.keys import Key
from circuitbreaker_django.dashboard.readings import banners, watching
from circuitbreaker_django.operations.status import BreakerStatus


@dataclass(frozen=True, slots=True)
class Study:
    """One breaker: what it is and has been, and what it goes by.

    Attributes:
        key: the breaker's.
        span: of time, by its name in :data:`SPANS`.
        status: what is known of it.
        history: its events with their times, newest first; ``None`` if they cannot be read.
        origins: where each of its options is set that is not a default.
        row: what its page shows and polls.
        banners: what an operator must know before believing it.
    """

    key: Key
    span: str
    status: BreakerStatus | None
    history: Sequence[tuple[datetime, Event]] | None
    origins: Mapping[str, str]
    row: dict[str, Any]
    banners: list[dict[str, str]]


def study(pk: str, asked: QueryDict) -> Study:
    """The breaker of that primary key, over the span of time that was asked for.

    Raises:
        Http404: it is not known.
    """
    try:
        key = Key.of(pk)
    except ValueError as error:
        raise Http404 from error
    span = asked.get("span", "")
    if span not in SPANS:
        span = next(iter(SPANS))
    with watching([key.registry]) as seen:
        if key not in seen.glance():
            raise Http404
        status = seen.statuses([key], minutes=KEPT[MINUTE], day=span == "day").get(key)
        history = seen.history(key)
        row = rows.row(key, status, seen.of[key.registry])
        return Study(
            key,
            span,
            status,
            history,
            seen.origins(key),
            rows.with_figure(row, status, history, SPANS[span]),
            banners(seen.readings),
        )
