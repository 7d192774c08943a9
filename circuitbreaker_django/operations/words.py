"""Short words for figures, which the command and the dashboard both say."""

from __future__ import annotations

import math
from typing import Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

_UNITS: Final = (
    (86400, gettext_noop("%(count)d d")),
    (3600, gettext_noop("%(count)d h")),
    (60, gettext_noop("%(count)d min")),
)


def length(seconds: float, *, whole: bool = True) -> str:
    """A duration in its largest fitting unit: ``12 s``, ``3 min``, ``5 h``, ``2 d``.

    Args:
        seconds: of it.
        whole: whether sixty seconds are ``1 min``, beside ``59 s`` and ``61 s``.
    """
    for size, text in _UNITS:
        if seconds >= 2 * size or (whole and seconds >= size and seconds % size == 0):
            return _(text) % {"count": seconds // size}
    if seconds == int(seconds) or seconds >= 10:
        return _("%(count)d s") % {"count": max(0, seconds)}
    return _("%(count)s s") % {"count": f"{max(0.0, seconds):.3g}"}


def age(seconds: float) -> str:
    """How long ago something was: the same, but always coarser as it grows."""
    return length(math.floor(max(0.0, seconds)), whole=False)


def alone(count: int, processes: int) -> str:
    """How many processes have opened the circuit for themselves only; empty when none has."""
    if not count:
        return ""
    return _("open alone in %(count)d of %(all)d processes") % {"count": count, "all": processes}


def rate(calls: float) -> str:
    """Calls per second, as exact as there are few; empty for none."""
    if not calls:
        return ""
    return f"{calls:.0f}" if calls >= 10 else f"{calls:.1f}" if calls >= 0.1 else "< 0.1"


def percent(share: float) -> str:
    """A share, as ``12.5 %``."""
    return _("%(number)s %%") % {"number": f"{100 * share:.3g}"}


def whole_percent(share: float, limit: float) -> int:
    """A share in whole percent; never as much as the limit where it is less."""
    shown = round(100 * share)
    return math.floor(100 * share) if share < limit <= shown / 100 else shown
