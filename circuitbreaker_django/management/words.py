"""What the command says: of circuits, of who shares them, and of what an order has done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

from circuitbreaker_django.core.announce import event_in_words, printable
from circuitbreaker_django.core.circuit import CommandKind, Event
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.operations.room import CannotSteer, ControlRoom, Unreachable, silence
from circuitbreaker_django.operations.status import BreakerStatus

#: So many differences are listed where not all are asked for.
_MAX_LISTED: Final = 5


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


def problem(error: Exception) -> str:
    """Why the command failed, in one line."""
    line = printable(" ".join(str(error).splitlines()))
    if isinstance(error, CannotSteer):
        return f"nothing was done: {line}"
    if not isinstance(error, Unreachable):
        return line
    return (
        f"{line}. Since when, only the log of the workers says (logger circuitbreaker_django): "
        "whoever cannot reach it goes on alone meanwhile"
    )


def warnings(room: ControlRoom, rows: Iterable[BreakerStatus], verbosity: int) -> Iterator[str]:
    """What an operator must know before believing what is shown of those breakers."""
    alias = room.registry.config.alias
    if not room.registry.config.enabled:
        yield f"Registry {alias!r} is switched off (ENABLED is False): all calls pass."
    if not room.shared:
        yield (
            f"Registry {alias!r} keeps separate circuits in each process: these are the ones of "
            "this command, and say nothing of any other process."
        )
    if room.differing:
        most = None if verbosity > 1 else _MAX_LISTED
        pids = [f"{process.host}:{process.pid}" for process in room.differing]
        there = [
            f"{row.name}: {option} {value}"
            for row in rows
            for option, value in row.elsewhere.items()
        ]
        yield (
            f"Other settings than this command's are in force in {len(pids)} of "
            f"{len(room.processes)} live processes ({_listed(pids, most)}); what is shown goes by "
            "this command's"
            + (f", where the others have {_listed(there, most)}." if there else ".")
        )
    if room.silent:
        yield f"{silence(room.silent)}."
    yield from room.advice


def _listed(texts: Sequence[str], most: int | None) -> str:
    return printable(", ".join(texts[:most])) + ", …" * (len(texts) > len(texts[:most]))


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
