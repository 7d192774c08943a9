"""What processes publish of themselves and of breakers, as JSON text (rule 23)."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from circuitbreaker_django.backends import host
from circuitbreaker_django.backends.store import KEYED, MAX_DECLARED, Declaration, ProcessInfo
from circuitbreaker_django.core.policy import MAX_DURATION, Policy, seconds

#: Seconds between two publications of a process, and of what its code declares.
PUBLISH_EVERY: Final = 5.0
DECLARE_EVERY: Final = 3600.0
#: Seconds between two looks of a process for what may go.
CLEAN_EVERY: Final = 60.0
#: Seconds after which a process that tells nothing counts as silent.
SILENT_AFTER: Final = 8.0
#: Seconds after which a silent process counts as gone, unless its pid is known to run.
GONE_AFTER: Final = 15.0
#: Seconds after which it does even so, for its pid may be another's by then.
FORGOTTEN_AFTER: Final = 3600.0
#: Seconds that a declaration is kept after it was last seen (7 days).
KEEP_DECLARED: Final = 7 * 86400.0

_TYPES: Final = {
    "host": str,
    "pid": int,
    "kind": str,
    "started": float,
    "digest": str,
    "pid_space": str,
}


def dump_process(info: ProcessInfo) -> str:
    """A process as one line of JSON."""
    return json.dumps(asdict(info))


def load_process(text: str) -> ProcessInfo | None:
    """The process; ``None`` for what another release has published unreadably."""
    values = _object(text)
    if any(not isinstance(values.get(key), kind) for key, kind in _TYPES.items()):
        return None
    alone = values.get("alone")
    return ProcessInfo(
        **{key: values[key] for key in _TYPES},
        alone=tuple(map(str, alone)) if isinstance(alone, list) else (),
    )


def dump_declaration(declaration: Declaration) -> str:
    """A declaration as one line of JSON, without its name."""
    return json.dumps({"policy": dict(declaration.policy), "where": declaration.where}, default=str)


@functools.lru_cache(maxsize=MAX_DECLARED)  # whoever looks again finds most of them as they were
def load_declaration(name: str, text: str) -> Declaration | None:
    """The declaration; ``None`` for what another release has published unreadably."""
    values = _object(text)
    policy, where = values.get("policy"), values.get("where")
    if not isinstance(policy, dict) or not isinstance(where, str):
        return None
    return Declaration(name, policy, where)


def is_keyed(declaration: Declaration) -> bool:
    """Whether it is of a breaker that has a key, of which there may be any number."""
    return ":" in declaration.name and declaration.policy.get(KEYED) is True


def patient_policy(policies: Iterable[Mapping[str, Any]]) -> Policy:
    """A policy for which things count as long as for the longest of these."""
    longest = Policy().failure_window
    for values in policies:
        for value in (values.get("failure_window"), values.get("ramp_up")):
            if isinstance(value, int | float) and longest < value <= MAX_DURATION:
                longest = value
    return Policy(failure_window=longest, ramp_up=longest)


def is_gone(info: ProcessInfo) -> bool:
    """Whether it is known to be gone: one that was killed could not say so.

    Only where its pid can be compared: in the same container of the same host.
    """
    return _is_here(info) and not host.is_running(info.pid)


def is_forgotten(info: ProcessInfo | None, age: float) -> bool:
    """Whether a process that was not heard of for ``age`` seconds counts no more, even as silent.

    One that runs and cannot reach its store is not to be forgotten like one that is gone.
    """
    if info is None or is_gone(info):
        return True
    return age >= (FORGOTTEN_AFTER if _is_here(info) else GONE_AFTER)


def roll_call(
    entries: Iterable[tuple[str, int]], now: int
) -> tuple[tuple[ProcessInfo, ...], dict[ProcessInfo, float]]:
    """The live processes, and the silent ones with the seconds since they were heard of.

    Args:
        entries: processes as JSON, and when each was written.
        now: by the same clock.
    """
    live, silent = [], {}
    for text, seen_at in entries:
        info, age = load_process(text), seconds(now - seen_at)
        if info is None or is_forgotten(info, age):
            continue
        if age <= SILENT_AFTER:
            live.append(info)
        else:
            silent[info] = age
    return tuple(live), silent


def _is_here(info: ProcessInfo) -> bool:
    return (info.host, info.pid_space) == (host.host_name(), host.pid_space())


def _object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
