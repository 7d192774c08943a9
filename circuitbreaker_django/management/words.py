"""What the command says: of circuits, of who shares them, and of what an order has done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from circuitbreaker_django.core.announce import event_in_words, printable
from circuitbreaker_django.core.circuit import CommandKind, Event
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.operations.room import ControlRoom, silence
from circuitbreaker_django.operations.status import BreakerStatus


def state(row: BreakerStatus) -> str:
    """What a call meets, and who decides so until when."""
    words = {
        Mode.AUTO: row.state.replace("_", "-"),
        Mode.FORCED_OPEN: "held open until reset",
        Mode.DISABLED: "disabled",
        Mode.METRICS_ONLY: "metrics only",
    }[row.mode]
    if row.mode_until is None:
        return words
    return f"{words.removesuffix(' until reset')} until {utc(row.mode_until)}"


def utc(moment: datetime) -> str:
    """A moment, as ``2026-11-25 09:01:12 UTC``."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def crowd(room: ControlRoom) -> str:
    """How many live processes share the circuits, and of what kinds."""
    count = len(room.processes)
    if not count:
        return "no live process"
    kinds = Counter(process.kind for process in room.processes)
    listed = ", ".join(f"{number} {printable(kind)}" for kind, number in sorted(kinds.items()))
    return f"{count} live process{'es' * (count > 1)} ({listed})"


def warnings(room: ControlRoom, verbosity: int) -> Iterator[str]:
    """What an operator must know before believing what is shown."""
    alias = room.registry.config.alias
    if not room.registry.config.enabled:
        yield f"Registry {alias!r} is switched off (ENABLED is False): all calls pass."
    if not room.shared:
        yield (
            f"Registry {alias!r} keeps circuits in each process alone: these are the ones of this "
            "command, and say nothing of any other process."
        )
    if room.differing:
        share = f"{len(room.differing)} of {len(room.processes)} live processes"
        pids = ", ".join(f"{process.host}:{process.pid}" for process in room.differing)
        listed = f" ({printable(pids)})" * (verbosity > 1)
        yield f"Other settings than this command's are in force in {share}{listed}."
    if room.silent:
        yield f"{silence(room.silent)}."
    yield from room.advice


def said(before: BreakerStatus, after: BreakerStatus, kind: CommandKind) -> str:
    """What a command has brought about, in a sentence or two."""
    name = printable(after.name)
    if kind is CommandKind.RESET:
        already = " (it was already)" if before.state is CircuitState.CLOSED else ""
        return f"{name}: closed{already}."
    already = " (it was open already)" if before.state is CircuitState.OPEN else ""
    if kind is CommandKind.ENABLE:
        already = " (it was in no mode)" if before.mode is Mode.AUTO else ""
        return f"{name}: {state(after)}{already}."
    if after.mode in (Mode.DISABLED, Mode.METRICS_ONLY):
        if kind is CommandKind.TRIP:
            return (
                f"{name}: {state(after)} still, since a trip ends no mode: its calls pass. "
                "--hold stops them."
            )
        return f"{name}: {state(after)}."
    if after.mode is Mode.FORCED_OPEN:
        still = ", since a trip ends no hold" if kind is CommandKind.TRIP else ""
        return f"{name}: {state(after)}{still or already}."
    return (
        f"{name}: open{already}. It will be tried again in {math.ceil(after.retry_after or 0)} s, "
        "and may then close by itself; --hold or --for keeps it open."
    )


def event(at: datetime, name: str, event: Event) -> str:
    """A line of the history."""
    words = [utc(at), name, f"{event.before} -> {event.after}"]
    words += [f"[{event.mode}]"] * (event.mode is not Mode.AUTO)
    words.append(event_in_words(event))
    return printable("  ".join(words))
