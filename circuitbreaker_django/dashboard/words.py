"""What the dashboard says: states, moments, durations and policies in the reader's language."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext, pgettext_lazy

from circuitbreaker_django.core.announce import printable
from circuitbreaker_django.core.circuit import CommandKind, Event
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.core.traffic import Counts
from circuitbreaker_django.operations.looks import OF_MODES, Look
from circuitbreaker_django.operations.status import BreakerStatus
from circuitbreaker_django.operations.words import length, percent, rate, whole_percent

#: Settings that are listed in a cell.
LISTED: Final = 5


#: The word of each look. Other catalogues have some of these words for other things.
LOOKS: Final = {
    Look.OPEN: pgettext_lazy("circuit", "Open"),
    Look.HELD: pgettext_lazy("circuit", "Held open"),
    Look.HALF_OPEN: pgettext_lazy("circuit", "Half-open"),
    Look.UNKNOWN: pgettext_lazy("circuit", "Unknown"),
    Look.DISABLED: pgettext_lazy("circuit", "Disabled"),
    Look.METRICS_ONLY: pgettext_lazy("circuit", "Metrics only"),
    Look.CLOSED: pgettext_lazy("circuit", "Closed"),
}

#: Who has brought that about.
ACTORS: Final = {
    Look.OPEN: gettext_lazy("opened by %(actor)s"),
    Look.HELD: gettext_lazy("held open by %(actor)s"),
    Look.DISABLED: gettext_lazy("disabled by %(actor)s"),
    Look.METRICS_ONLY: gettext_lazy("set to metrics only by %(actor)s"),
    Look.CLOSED: gettext_lazy("reset by %(actor)s"),
}
#: What operators may order.
COMMANDS: Final = {
    CommandKind.HOLD: pgettext_lazy("circuit", "Hold open"),
    CommandKind.TRIP: pgettext_lazy("circuit", "Trip"),
    CommandKind.RESET: pgettext_lazy("circuit", "Reset"),
    CommandKind.DISABLE: pgettext_lazy("circuit", "Disable"),
    CommandKind.METRICS_ONLY: pgettext_lazy("circuit", "Metrics only"),
    CommandKind.ENABLE: pgettext_lazy("circuit", "Enable"),
}
#: Why a circuit has changed, where stores keep a fixed sentence. One with numbers in it stays as
#: it is kept: the numbers are only there.
CAUSES: Final = {
    "first trial": gettext_lazy("first trial"),
    "a trial failed": gettext_lazy("a trial failed"),
    "a trial succeeded": gettext_lazy("a trial succeeded"),
    "a relapse while it ramped up": gettext_lazy("a relapse while it ramped up"),
    **{kind.value: label for kind, label in COMMANDS.items()},
}


class Moment(NamedTuple):
    """A time for people and for machines."""

    text: str
    iso: str


def moment(at: datetime, now: datetime | None = None) -> Moment:
    """A time in the current time zone, with the zone's name; of today without the date."""
    zone = timezone.get_current_timezone()
    local, today = at.astimezone(zone), (now or datetime.now(UTC)).astimezone(zone)
    date = "" if local.date() == today.date() else f"{local:%Y-%m-%d} "
    text = f"{date}{local:%H:%M:%S %Z}"
    return Moment(text, local.isoformat(timespec="seconds"))


def until(status: BreakerStatus) -> str:
    """When the mode of a circuit ends; empty without one."""
    if status.mode is Mode.AUTO:
        return ""
    if status.mode_until is not None:
        return _("until %(time)s") % {"time": moment(status.mode_until).text}
    if status.mode is Mode.FORCED_OPEN:
        return _("until it is reset")
    return _("until it is enabled")


def failures(status: BreakerStatus) -> str:
    """How near a circuit is to opening, by each of its rules; empty where it cannot open."""
    if status.state is not CircuitState.CLOSED or status.mode is Mode.DISABLED:
        return ""
    rules, parts = status.policy, []
    if rules.failure_threshold is not None:
        names = {"count": status.failures, "threshold": rules.failure_threshold}
        parts.append(_("%(count)d of %(threshold)d failures") % names)
    elif not rules.has_rates:
        text = ngettext("%(count)d failure", "%(count)d failures", status.failures)
        parts.append(text % {"count": status.failures})
    if status.calls_needed:
        text = ngettext(
            "rates need %(count)d more call", "rates need %(count)d more calls", status.calls_needed
        )
        return "; ".join([*parts, text % {"count": status.calls_needed}])
    if status.failure_rate is not None and rules.failure_rate_threshold is not None:
        text = _("%(rate)s failed (opens at %(threshold)s)")
        parts.append(_rate(text, status.failure_rate, rules.failure_rate_threshold))
    if status.slow_rate is not None:
        text = _("%(rate)s slow (opens at %(threshold)s)")
        parts.append(_rate(text, status.slow_rate, rules.slow_call_rate_threshold))
    return "; ".join(parts)


def _rate(text: str, share: float, threshold: float) -> str:
    shown = percent(whole_percent(share, threshold) / 100)
    return text % {"rate": shown, "threshold": percent(threshold)}


def elsewhere(status: BreakerStatus) -> str:
    """What live processes have set otherwise than this page; empty when nothing is known to be."""
    told = [f"{option} = {value}" for option, value in status.elsewhere.items()]
    if not told:
        return ""
    listed = ", ".join(told[:LISTED]) + ", …" * (len(told) > LISTED)
    return _("other processes have %(settings)s") % {"settings": listed}


def common(status: BreakerStatus) -> str:
    """That it stands in for breakers by key, if it does."""
    if not status.common_to:
        return ""
    return _("common breaker of %(pattern)s") % {"pattern": status.common_to}


def would_reject(status: BreakerStatus) -> str:
    """What a circuit on paper would have rejected; empty for nothing, and in any other mode."""
    if status.mode is not Mode.METRICS_ONLY or not status.would_reject:
        return ""
    text = ngettext(
        "would have rejected %(count)d call",
        "would have rejected %(count)d calls",
        status.would_reject,
    )
    return text % {"count": status.would_reject}


def per_second(calls: float) -> str:
    """Calls per second, with their unit; empty for none."""
    return _("%(number)s calls/s") % {"number": rate(calls)} if calls else ""


def rejected(count: int, minutes: int) -> str:
    """Calls that were rejected in the last minutes; empty when none was."""
    if not count:
        return ""
    text = ngettext("%(count)d rejected in %(span)s", "%(count)d rejected in %(span)s", count)
    return text % {"count": count, "span": length(60 * minutes)}


def error(kind: str, message: str) -> str:
    """An error by its class and what it said."""
    return printable(f"{kind}: {message}" if message else kind)


def figure(counts: Iterable[Counts], most: int, bucket: int) -> dict[str, str]:
    """What a chart of calls says in numbers; buckets are so many seconds long."""
    total = Counts(*map(sum, zip(Counts(), *counts, strict=True)))
    return {
        "sum_calls": ngettext("%(count)d call", "%(count)d calls", total.calls)
        % {"count": total.calls},
        "sum_failed": _("%(count)d failed") % {"count": total.failures},
        "sum_rejected": _("%(count)d rejected") % {"count": total.rejected},
        "sum_slow": _("%(count)d slow") % {"count": total.slow},
        "most": _("up to %(count)d in %(length)s") % {"count": most, "length": length(bucket)}
        if total.calls or total.rejected
        else "",
    }


def lengths(found: Mapping[Look, float]) -> str:
    """For how long a circuit was what; not for less than a second."""
    parts = (
        _("%(state)s %(length)s") % {"state": LOOKS[look], "length": length(round(found[look]))}
        for look in Look
        if round(found.get(look, 0))
    )
    return ", ".join(parts)


def cause(text: str) -> str:
    """Why a circuit has changed: what the store keeps, in the reader's language if it can be."""
    sentence, with_error, error = text.partition(", last ")
    known = CAUSES.get(sentence)
    if known is None:
        return text
    return (
        _("%(cause)s, last %(error)s") % {"cause": known, "error": error}
        if with_error
        else str(known)
    )


def reason(status: BreakerStatus) -> str:
    """Why a circuit is as it is; what a person has written stays so."""
    return printable(status.reason if status.updated_by else cause(status.reason))


def actor(status: BreakerStatus) -> str:
    """Who has brought that about; empty when it came by itself."""
    if not status.updated_by:
        return ""
    return ACTORS[status.updated_to] % {"actor": printable(status.updated_by)}


def counted(event: Event) -> str:
    """What counted at the moment of an event; empty when nothing did."""
    parts = []
    if event.calls:
        parts.append(
            ngettext("%(count)d call", "%(count)d calls", event.calls) % {"count": event.calls}
        )
    if event.failures:
        parts.append(
            ngettext("%(count)d failure", "%(count)d failures", event.failures)
            % {"count": event.failures}
        )
    if event.slow:
        parts.append(
            ngettext("%(count)d slow", "%(count)d slow", event.slow) % {"count": event.slow}
        )
    return ", ".join(parts)


def policy(rules: Policy) -> list[tuple[str, list[str]]]:
    """A policy in sentences, each with the settings that it comes from."""
    return [*_opening(rules), *_recovery(rules)]


class Setting(NamedTuple):
    """An option that is in force, and where it is set; empty for a default."""

    name: str
    value: str
    origin: str


def policy_with(rules: Policy, origins: Mapping[str, str]) -> list[tuple[str, list[Setting]]]:
    """A policy in sentences, each with the settings that it comes from, as they are in force."""
    return [
        (text, [Setting(name, str(getattr(rules, name)), origins.get(name, "")) for name in names])
        for text, names in policy(rules)
    ]


def _opening(rules: Policy) -> list[tuple[str, list[str]]]:
    window = {"window": length(rules.failure_window)}
    found = []
    if rules.failure_threshold is not None:
        text = ngettext(
            "Opens when %(count)d failure falls within %(window)s.",
            "Opens when %(count)d failures fall within %(window)s.",
            rules.failure_threshold,
        ) % {"count": rules.failure_threshold, **window}
        found.append((text, ["failure_threshold", "failure_window"]))
    if rules.failure_rate_threshold is not None:
        text = _("Opens when %(share)s of at least %(calls)d calls within %(window)s fail.") % {
            "share": percent(rules.failure_rate_threshold),
            "calls": rules.minimum_calls,
            **window,
        }
        found.append((text, ["failure_rate_threshold", "minimum_calls", "failure_window"]))
    if rules.slow_call_duration is not None:
        text = _(
            "Opens when %(share)s of at least %(calls)d calls within %(window)s take %(slow)s or "
            "longer."
        ) % {
            "share": percent(rules.slow_call_rate_threshold),
            "calls": rules.minimum_calls,
            "slow": length(rules.slow_call_duration),
            **window,
        }
        names = ["slow_call_duration", "slow_call_rate_threshold", "minimum_calls"]
        found.append((text, [*names, "failure_window"]))
    if rules.consecutive_failures is not None:
        text = ngettext(
            "Opens after %(count)d failure in one process.",
            "Opens after %(count)d failures in a row in one process.",
            rules.consecutive_failures,
        ) % {"count": rules.consecutive_failures}
        found.append((text, ["consecutive_failures"]))
    if rules.quorum > 1:
        text = _("Opens for all only when %(count)d hosts have seen failures.")
        found.append((text % {"count": rules.quorum}, ["quorum"]))
    return found


def _recovery(rules: Policy) -> list[tuple[str, list[str]]]:
    wait = length(rules.recovery_timeout)
    found = [(_("Tries again after %(wait)s.") % {"wait": wait}, ["recovery_timeout"])]
    if rules.recovery_backoff > 1:
        text = _("Waits %(times)s times as long after each failed trial, up to %(most)s.") % {
            "times": f"{rules.recovery_backoff:g}",
            "most": length(rules.wait_max),
        }
        found.append((text, ["recovery_backoff", "recovery_timeout_max"]))
    if rules.recovery_jitter:
        text = _("Waits up to %(share)s longer by chance.")
        found.append((text % {"share": percent(rules.recovery_jitter)}, ["recovery_jitter"]))
    text = ngettext(
        "Closes after %(count)d successful trial.",
        "Closes after %(count)d successful trials.",
        rules.success_threshold,
    )
    found.append((text % {"count": rules.success_threshold}, ["success_threshold"]))
    text = ngettext(
        "Lets %(count)d trial run at a time, and counts it as lost after %(lease)s.",
        "Lets %(count)d trials run at a time, and counts each as lost after %(lease)s.",
        rules.half_open_max_calls,
    ) % {"count": rules.half_open_max_calls, "lease": length(rules.trial_timeout)}
    found.append((text, ["half_open_max_calls", "trial_timeout"]))
    if rules.ramp_up:
        text = _("Admits a growing share of the calls in the %(span)s after it has closed.")
        found.append((text % {"span": length(rules.ramp_up)}, ["ramp_up"]))
    if rules.initial_mode is not Mode.AUTO:
        mode = LOOKS[OF_MODES[Mode(rules.initial_mode)]]
        found.append((_("Begins in the mode “%(mode)s”.") % {"mode": mode}, ["initial_mode"]))
    return found


def next_trial(status: BreakerStatus) -> str:
    """A countdown, as it is when the page is made; or what decides while trials run."""
    seconds, running = status.retry_after or 0, status.trials_running
    if running:
        text = ngettext("%(count)d trial is running", "%(count)d trials are running", running)
        return text % {"count": running}
    if not seconds:
        return _("next trial now")
    return _("next trial in %(length)s") % {"length": length(math.ceil(seconds))}


def of_the_script() -> dict[str, str]:
    """What the page's script says by itself; ``%s`` is a number, or hours, minutes and seconds."""
    return {
        "said": _("%(name)s is now: %(state)s. %(reason)s"),
        "age": _("Updated %s s ago."),
        "lost": _("No answer; the next try is in %s s."),
        "paused": _("Updates are stopped."),
        "ended": _("Your session has ended: log in again to see what is true now."),
        "stop": _("Stop updates"),
        "go": _("Resume updates"),
        "seconds": _("next trial in %s s"),
        "clock": _("next trial in %s"),
        "now": _("next trial now"),
    }
