"""How a transition is told: one log line, by the process that caused it."""

from __future__ import annotations

import logging

from circuitbreaker_django.core.circuit import Event
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


def log_event(name: str, event: Event) -> None:
    """Log a transition: opening as WARNING, closing as INFO, the first trial as DEBUG."""
    level = {
        CircuitState.OPEN: logging.WARNING,
        CircuitState.CLOSED: logging.INFO,
        CircuitState.HALF_OPEN: logging.DEBUG,
    }[event.after]
    state = event.after.replace("_", "-")
    if event.mode in (Mode.DISABLED, Mode.METRICS_ONLY):
        state += f" ({event.mode})"
    why = printable(event_in_words(event))
    logger.log(level, "circuit %s is %s: %s", printable(name), state, why)
