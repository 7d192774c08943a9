"""The Lua scripts, and what they are told and answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from circuitbreaker_django.backends.remote_store import Snapshot
from circuitbreaker_django.backends.store import Evidence, Fence, Report, Stats
from circuitbreaker_django.core.circuit import MAX_TEXT, Circuit, Command, Event
from circuitbreaker_django.core.policy import Policy, micros
from circuitbreaker_django.core.record import load_circuit, load_event
from circuitbreaker_django.core.traffic import MINUTE, QUARTER, Bucket, Counts

T = TypeVar("T")

_FOLDER: Final = Path(__file__).parent / "lua"
#: What the fields of traffic begin with.
_COUNTS: Final = {name[0]: name for name in Counts._fields}
#: That a number of the server's has at most; Python refuses those of some thousands.
DIGITS: Final = 19


@dataclass(frozen=True)
class Script:
    """A script, and the name that a server knows it by when it has met it."""

    text: str
    sha: str


def _script(*names: str) -> Script:
    text = "\n".join((_FOLDER / f"{name}.lua").read_text(encoding="utf-8") for name in names)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


APPLY: Final = _script("record", "window", "circuit", "store", "apply")
LOOK: Final = _script("record", "store", "look")
CLEAN: Final = _script("record", "window", "circuit", "store", "clean")
EVENTS: Final = _script("record", "store", "events")
PUBLISH: Final = _script("record", "store", "traffic", "publish")
STATS: Final = _script("record", "store", "traffic", "stats")
RENEW: Final = _script("record", "store", "renew")
DROP: Final = _script("record", "store", "drop")


# -- what they are told --------------------------------------------------------------------------


def as_text(value: Any) -> str:
    """JSON in ASCII. What may be missing is ``false``, for in Lua ``null`` would be true."""
    return json.dumps(value, separators=(",", ":"))


def clean(text: str) -> str:
    """Text as circuits keep it: not too long, and nothing that is no character."""
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()


def policy_data(policy: Policy) -> dict[str, Any]:
    """The numbers of a policy as the scripts want them; durations in microseconds or seconds."""
    return {
        "failure_threshold": policy.failure_threshold or False,
        "failure_window": micros(policy.failure_window),
        "failure_window_seconds": policy.failure_window,
        "failure_rate_threshold": policy.failure_rate_threshold or False,
        "slow_call_duration": policy.slow_call_duration or False,
        "slow_call_rate_threshold": policy.slow_call_rate_threshold,
        "has_rates": policy.has_rates,
        "minimum_calls": policy.minimum_calls,
        "consecutive_failures": policy.consecutive_failures or False,
        "quorum": policy.quorum,
        "recovery_timeout": policy.recovery_timeout,
        "recovery_backoff": policy.recovery_backoff,
        "recovery_jitter": policy.recovery_jitter,
        "wait_max": policy.wait_max,
        "longest_wait": micros(policy.longest_wait),
        "half_open_max_calls": policy.half_open_max_calls,
        "success_threshold": policy.success_threshold,
        "trial_timeout": micros(policy.trial_timeout),
        "ramp_up": micros(policy.ramp_up),
        "initial_mode": policy.initial_mode,
    }


def record_data(name: str, kept: Evidence, now: int, origin: str, patience: int) -> dict[str, Any]:
    """What a process has seen of a circuit; ages, for the store has another clock."""
    incarnation, epoch = kept.fence
    return {
        "operation": "record",
        "name": name,
        "incarnation": str(incarnation),
        "epoch": epoch,
        "policy": policy_data(kept.policy),
        "ages": [now - time for time in kept.times],
        "last_error": clean(kept.last_error),
        "last_message": clean(kept.last_message),
        "slices": [[now - one.start, one.calls, one.failures, one.slow] for one in kept.slices],
        "streak": kept.streak,
        "retry_after": max(0, kept.retry_at - now),
        "spared": kept.spared,
        "paper": kept.paper,
        "origin": origin,
        "patience": patience,
    }


def report_data(report: Report, now: int) -> dict[str, Any]:
    """The end of a trial."""
    incarnation, epoch = report.fence
    return {
        "operation": "report",
        "name": report.name,
        "incarnation": str(incarnation),
        "epoch": epoch,
        "token": report.token,
        "policy": policy_data(report.policy),
        "outcome": report.outcome,
        "last_error": clean(report.last_error),
        "last_message": clean(report.last_message),
        "retry_after": max(0, report.retry_at - now),
    }


def acquire_data(name: str, fence: Fence, token: str, policy: Policy) -> dict[str, Any]:
    """A question for a permit."""
    incarnation, epoch = fence
    return {
        "operation": "acquire",
        "name": name,
        "incarnation": str(incarnation),
        "epoch": epoch,
        "token": token,
        "policy": policy_data(policy),
    }


def command_data(name: str, command: Command, policy: Policy, if_lost: bool) -> dict[str, Any]:
    """An operator's command."""
    return {
        "operation": "command",
        "name": name,
        "kind": command.kind,
        "duration": False if command.duration is None else command.duration,
        "actor": clean(command.actor),
        "reason": clean(command.reason),
        "expected_epoch": False if command.expected_epoch is None else command.expected_epoch,
        "policy": policy_data(policy),
        "if_lost": if_lost,
    }


# -- what they answer: a ValueError if it is none of ours ----------------------------------------


def snapshot(
    head: Sequence[bytes],
    circuits: Mapping[str, Circuit],
    events: Sequence[bytes] = (),
    more: bool = False,
) -> Snapshot:
    """The head that every answer has, with the circuits and events that follow."""
    now, incarnation, floor, revision = head
    return Snapshot(
        now=int(now),
        incarnation=int(incarnation or 0),
        floor=max(1, int(floor)),
        revision=int(revision),
        circuits=circuits,
        events=tuple((name.decode(), load_event(as_read(text))) for name, text in pairs(events)),
        more=more,
    )


def as_read(text: bytes) -> str:
    """Text of a row: any bytes, for to the scripts that have written it they are no more."""
    return text.decode("utf-8", "replace")


def circuits(rows: Iterable[bytes]) -> tuple[dict[str, Circuit], list[bytes]]:
    """Circuits by name, and the rows that are none."""
    found, unreadable = {}, []
    for name, text in pairs(rows):
        try:
            found[name.decode()] = load_circuit(as_read(text))
        except ValueError:
            unreadable += [name, text]
    return found, unreadable


def named_events(flat: Iterable[bytes]) -> list[tuple[str, Event]]:
    """The history. What cannot be read of it is left out, for it moves nothing."""
    found = []
    for name, text in pairs(flat):
        try:
            found.append((name.decode(), load_event(as_read(text))))
        except ValueError:
            continue
    return found


def stats(
    now: bytes, buckets: Iterable[tuple[bytes, bytes, Sequence[bytes]]], wall: float
) -> dict[str, Stats]:
    """The calls of breakers over time, by name."""
    found: dict[str, dict[int, list[Bucket]]] = {}
    for width, start, fields in buckets:
        counts: dict[str, dict[str, int]] = {}
        for field, value in pairs(fields):
            text = as_read(field)
            if text[:1] in _COUNTS and value.isdigit() and len(value) <= DIGITS:
                counts.setdefault(text[1:], {})[_COUNTS[text[:1]]] = int(value)
        for name, counted in counts.items():
            kept = found.setdefault(name, {}).setdefault(int(width), [])
            kept.append(Bucket(int(start), Counts(**counted)))
    return {
        name: Stats(int(now), wall, tuple(kept.get(MINUTE, ())), tuple(kept.get(QUARTER, ())))
        for name, kept in found.items()
    }


def pairs(flat: Iterable[T]) -> Iterator[tuple[T, T]]:
    """Names and values, as servers give them: one after the other."""
    items = iter(flat)
    return zip(items, items, strict=True)
