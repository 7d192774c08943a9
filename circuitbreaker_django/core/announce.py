"""How news reads in the log: one line for each, by the process that has brought it about."""

from __future__ import annotations

import logging
from dataclasses import replace

from circuitbreaker_django.core.circuit import Event
from circuitbreaker_django.core.news import BackendDegraded, BackendRecovered, News, StateChanged
from circuitbreaker_django.core.states import CircuitState, Mode

logger = logging.getLogger("circuitbreaker_django")


def printable(text: str) -> str:
    """Text from outside without the characters that could forge a line or steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def event_in_words(event: Event) -> str:
    """Why it has happened, and who did it."""
    words = [event.cause]
    if event.actor:
        words.append(f"by {event.actor}")
    if event.reason:
        words.append(f"({event.reason})")
    if event.last_error:
        message = f": {event.last_message}" if event.last_message else ""
        words.append(f"- last error: {event.last_error}{message}")
    return " ".join(words)


def log_news(news: News) -> None:
    """Log what has happened, by the process that has brought it about.

    Opening is a WARNING, closing INFO, the first trial DEBUG; the loss of the store is a WARNING,
    its return INFO.
    """
    if isinstance(news, StateChanged):
        if news.origin or news.alone:
            _log_event(news.name, news.event, alone=news.alone)
    elif isinstance(news, BackendDegraded):
        logger.warning(
            "circuits are this process's own until the shared store is back: %s", news.problem
        )
    elif isinstance(news, BackendRecovered):
        logger.info("circuits are shared again: %s", news.place)


def _log_event(name: str, event: Event, *, alone: bool) -> None:
    level = {
        CircuitState.OPEN: logging.WARNING,
        CircuitState.CLOSED: logging.INFO,
        CircuitState.HALF_OPEN: logging.DEBUG,
    }[event.after]
    state = event.after.replace("_", "-")
    if event.mode in (Mode.DISABLED, Mode.METRICS_ONLY):
        state += f" ({event.mode})"
    if alone:
        event = replace(event, cause=f"{event.cause}, in this process alone")
    why = printable(event_in_words(event))
    logger.log(level, "circuit %s is %s: %s", printable(name), state, why)
