"""What an operator may order: the actions, the form that asks the rest, and carrying them out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from django import forms
from django.contrib import messages
from django.core.exceptions import BadRequest, ImproperlyConfigured, ValidationError
from django.http import QueryDict
from django.utils.functional import Promise
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from circuitbreaker_django.backends.store import OrderUnsure
from circuitbreaker_django.core.circuit import MAX_TEXT, MODES, CommandKind
from circuitbreaker_django.core.errors import (
    CircuitBreakerError,
    CircuitConflictError,
    UnknownBreakerError,
)
from circuitbreaker_django.core.policy import micros
from circuitbreaker_django.core.states import Mode
from circuitbreaker_django.dashboard.keys import Key
from circuitbreaker_django.dashboard.words import COMMANDS, LOOKS
from circuitbreaker_django.operations.duration import LONGEST, parse_duration
from circuitbreaker_django.operations.looks import Look, look_of
from circuitbreaker_django.operations.room import AppliedUnseen, ControlRoom
from circuitbreaker_django.operations.status import BreakerStatus
from circuitbreaker_django.operations.words import length
from circuitbreaker_django.project import registries


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that an operator may do.

    Attributes:
        kind: of the command.
        permission: that it needs, as in ``trip_breaker``.
        effect: what it will do, in a sentence.
        dangerous: whether it stops or unprotects what now works.
    """

    kind: CommandKind
    permission: str
    effect: str | Promise
    dangerous: bool = False

    @property
    def label(self) -> str | Promise:
        """What is on its button."""
        return COMMANDS[self.kind]

    @property
    def lasts(self) -> bool:
        """Whether it is for a time."""
        return self.kind in MODES

    def effect_on(self, statuses: Iterable[BreakerStatus]) -> str:
        """What it will do to those; of a trip, what it does not do, and for how long the rest."""
        if self.kind is not CommandKind.TRIP:
            return str(self.effect)
        waits, parts = set(), []
        for status in statuses:
            if status.mode is Mode.AUTO:
                waits.add(status.policy.recovery_timeout)
            else:
                parts = [str(NOT_BY_A_TRIP)]
        if len(waits) == 1:
            text = gettext(
                "Every call is rejected for %(length)s. Then it is tried again, and may close by "
                "itself."
            )
            parts.insert(0, text % {"length": length(waits.pop())})
        elif waits:
            parts.insert(0, str(self.effect))
        return " ".join(parts)


#: What is to be said of a trip of circuits that are held open or in another mode.
NOT_BY_A_TRIP: Final = _(
    "A trip ends no hold and no mode: what is disabled or on metrics only goes on letting calls "
    "pass. Hold open stops them."
)
ACTIONS: Final = {
    action.kind.value: action
    for action in (
        Action(
            CommandKind.HOLD,
            "trip",
            _("Every call is rejected for the time that you choose. Then one trial decides."),
            dangerous=True,
        ),
        Action(
            CommandKind.TRIP,
            "trip",
            _(
                "Every call is rejected until the recovery timeout is over. Then it is tried "
                "again, and may close by itself."
            ),
            dangerous=True,
        ),
        Action(
            CommandKind.RESET,
            "reset",
            _("Closes the circuit, ends any hold or mode and forgets what was counted."),
        ),
        Action(
            CommandKind.DISABLE,
            "change_mode",
            _("Every call passes and nothing is counted: there is no protection meanwhile."),
            dangerous=True,
        ),
        Action(
            CommandKind.METRICS_ONLY,
            "change_mode",
            _("Every call passes. What would have been rejected is counted."),
            dangerous=True,
        ),
        Action(
            CommandKind.ENABLE,
            "change_mode",
            _("Ends a hold or a mode and keeps what was counted. After a hold one trial decides."),
        ),
    )
}

OTHER: Final = "other"
FOREVER: Final = "forever"
#: Names that are listed in a message.
NAMED: Final = 5
#: Seconds of the durations that are offered.
DURATIONS: Final = {
    "300": _("5 minutes"),
    "900": _("15 minutes"),
    "1800": _("30 minutes"),
    "3600": _("1 hour"),
    "7200": _("2 hours"),
    "14400": _("4 hours"),
    "28800": _("8 hours"),
    "86400": _("24 hours"),
}
DEFAULT_DURATION: Final = "1800"


class OrderForm(forms.Form):
    """Why, and for how long."""

    reason = forms.CharField(
        label=_("Reason"),
        required=False,
        max_length=MAX_TEXT,
        help_text=_("Kept in the history for whoever comes next."),
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )

    def __init__(self, action: Action, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data)
        if action.lasts:
            self.fields["duration"] = forms.ChoiceField(
                label=_("For how long"),
                initial=DEFAULT_DURATION,
                choices=[
                    *DURATIONS.items(),
                    (
                        FOREVER,
                        _("Until it is reset")
                        if action.kind is CommandKind.HOLD
                        else _("Until it is enabled"),
                    ),
                    (OTHER, _("Another time:")),
                ],
                widget=forms.RadioSelect,
            )
            self.fields[OTHER] = forms.CharField(
                label=_("Another time"),
                required=False,
                help_text=_("For example 90s, 10m, 2h or 1h30m."),
                widget=forms.TextInput(attrs={"autocomplete": "off", "size": "10"}),
            )

    def clean(self) -> dict[str, Any]:
        """Make ``duration`` microseconds, or ``None`` for one without end."""
        cleaned: dict[str, Any] = super().clean() or {}
        chosen, typed = cleaned.get("duration"), cleaned.get(OTHER, "").strip()
        if typed and chosen not in (None, OTHER):
            message = gettext("Choose “Another time” for what you have typed, or take it out.")
            raise ValidationError({OTHER: message})
        if chosen is None or chosen == FOREVER:
            return {**cleaned, "duration": None}
        if chosen != OTHER:
            return {**cleaned, "duration": micros(int(chosen))}
        try:
            return {**cleaned, "duration": parse_duration(typed)}
        except ValueError:
            message = gettext(
                "Give a time with its unit: 90s, 10m, 2h or 1h30m, up to %(longest)s."
            )
            raise ValidationError({OTHER: message % {"longest": LONGEST}}) from None


def wanted(data: QueryDict) -> tuple[Action, dict[Key, int]]:
    """The action, and the circuits with the epochs at which the operator saw them.

    Raises:
        BadRequest: no page of ours sends that.
    """
    one = data.get("one")
    kind, _space, only = (one or "").partition(" ")
    action = ACTIONS.get(kind if one else data.get("action", ""))
    if action is None:
        raise BadRequest("no such action")
    epochs = {}
    for chosen in [only] if one else data.getlist("selected"):
        epoch, _space, pk = chosen.partition(" ")
        try:
            epochs[Key.of(pk)] = int(epoch)
        except ValueError as error:
            raise BadRequest("no circuit breaker was selected") from error
    return action, epochs


@dataclass(frozen=True, slots=True)
class Carried:
    """What has come of an order, for the circuits of one registry.

    Attributes:
        keys: those that it was for.
        applied: whether the store has confirmed it.
        statuses: what they are now, if that could be seen.
        processes: how many live processes it reaches.
        error: what went wrong, if anything did.
    """

    keys: tuple[Key, ...]
    applied: bool
    statuses: tuple[BreakerStatus, ...] = ()
    processes: int = 0
    error: Exception | None = None


def carry_out(
    action: Action,
    epochs: Mapping[Key, int],
    *,
    duration: int | None,
    actor: str,
    reason: str,
) -> list[Carried]:
    """Give the order to each registry: there to all of its circuits, or to none.

    Args:
        action: what to do.
        epochs: which circuits, and the epoch at which the operator saw each.
        duration: in microseconds.
        actor: who orders it.
        reason: why.
    """
    found = []
    for alias in dict.fromkeys(key.registry for key in epochs):
        expected = {key.name: epoch for key, epoch in epochs.items() if key.registry == alias}
        keys = tuple(Key(alias, name) for name in expected)
        try:
            with closing(ControlRoom(registries[alias])) as room:
                unknown = expected.keys() - set(room.known.names(expected))
                if unknown:  # a name is no pattern here
                    raise UnknownBreakerError(f"no breaker {min(unknown)!r} is known")
                after = room.order(
                    expected,
                    action.kind,
                    duration=duration,
                    actor=actor,
                    reason=reason,
                    expected=expected,
                )
                found.append(Carried(keys, True, tuple(after), len(room.processes)))
        except AppliedUnseen as error:
            found.append(Carried(keys, True, error=error))
        except (CircuitBreakerError, ImproperlyConfigured) as error:
            found.append(Carried(keys, False, error=error))
    return found


def told(action: Action, part: Carried) -> tuple[int, str] | None:
    """What to say of what has come of an order, and the level of the message.

    No name comes first, for the admin makes the first letter a capital. Nothing is said where
    the operator is asked again.
    """
    names: dict[str, Any] = {"action": action.label, "names": named(part.keys), "error": part.error}
    if isinstance(part.error, CircuitConflictError):
        return None
    if part.error is not None and part.applied:
        text = gettext(
            "%(action)s: %(names)s. It was applied, but then the store could not be read."
        )
        return messages.ERROR, text % names
    if isinstance(part.error, OrderUnsure):
        text = gettext("%(action)s: %(names)s. The store has not confirmed it: %(error)s")
        return messages.ERROR, text % names
    if part.error is not None:
        names["error"] = str(part.error).removeprefix("nothing was applied: ")
        return messages.ERROR, gettext("%(action)s: %(names)s. Nothing was done: %(error)s") % names
    looks = {look_of(status.state, status.mode) for status in part.statuses}
    text = ngettext(
        "%(state)s: %(names)s. It reaches %(count)d live process.",
        "%(state)s: %(names)s. It reaches %(count)d live processes.",
        part.processes,
    )
    names["state"] = ", ".join(str(LOOKS[look]) for look in Look if look in looks)
    names["count"] = part.processes
    if action.kind is CommandKind.TRIP and looks != {Look.OPEN}:
        return messages.WARNING, f"{text % names} {NOT_BY_A_TRIP}"
    return messages.SUCCESS, text % names


def named(keys: Iterable[Key]) -> str:
    """Names for a sentence, with the registry where there are several: a few, and how many more."""
    names = [f"{key.name} ({key.registry})" if len(registries) > 1 else key.name for key in keys]
    listed = ", ".join(names[:NAMED])
    more = len(names) - NAMED
    if more <= 0:
        return listed
    return gettext("%(names)s and %(count)d more") % {"names": listed, "count": more}
