"""Trials on their way through a call, and which of them a thread or task is inside of (rule 15)."""

from __future__ import annotations

import os
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitbreaker_django.core.view import View

ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class Trial:
    """A granted permit on its way through a call; ``live`` until it has reported.

    Attributes:
        expires: when its lease ends, in microseconds of the backend's clock; never later than
            for the store.
        pid: of the process that it was granted to.
        outer: the trial that the thread or task was inside of before.
        by_hand: how many ``__enter__`` called by hand wait for their ``__exit__``, which
            cannot know its trial; ``None`` when the trial's end is known.
    """

    __slots__ = ("by_hand", "expires", "fence", "live", "local", "outer", "pid", "token", "view")

    def __init__(
        self, view: View, fence: tuple[int, int], token: str, expires: int, *, local: bool
    ) -> None:
        self.view = view
        self.fence = fence
        self.token = token
        self.expires = expires
        self.pid = os.getpid()
        self.local = local
        self.live = True
        self.outer: Trial | None = None
        self.by_hand: int | None = None


#: Under what a call was let pass: the epoch of a closed circuit, a trial, or ``None`` where
#: nothing is to be counted.
Admission = int | Trial | None

#: The innermost trial that the current thread or task is inside of, with those around it.
_inside: ContextVar[Trial | None] = ContextVar("circuitbreaker_inside", default=None)


def go_inside(trial: Trial) -> None:
    """What the current thread or task calls from now on is called by this trial."""
    around = other = _current(_inside.get())
    while other is not None and other is not trial:
        other = other.outer
    if other is None:
        trial.outer = around
        _inside.set(trial)


def step_out(trial: Trial) -> None:
    """The trial goes on elsewhere."""
    if _inside.get() is trial:
        _inside.set(trial.outer)


def come_out(trial: Trial) -> None:
    """The trial has ended, perhaps in another context than it began in, or not as the innermost."""
    trial.live = False
    _inside.set(_current(_inside.get()))


def _current(trial: Trial | None) -> Trial | None:
    """The innermost trial, from this one outwards, that can still change its circuit."""
    while trial is not None and not (
        trial.live and trial.fence == (trial.view.incarnation, trial.view.circuit.epoch)
    ):
        trial = trial.outer
    return trial


def _own_trial(view: View) -> Trial | None:
    """The trial of this circuit that the caller is inside of."""
    trial = _current(_inside.get())
    while trial is not None and trial.view is not view:
        trial = _current(trial.outer)
    return trial


def rides_on_a_trial(view: View, now: int) -> bool:
    """Whether the caller is inside a trial of this circuit whose permit is good (rule 15).

    Neither one whose lease is over, as of a block that never ends, nor one that a fork has copied.
    """
    trial = _own_trial(view)
    return trial is not None and now < trial.expires and trial.pid == os.getpid()


def enter_by_hand(view: View, admission: Admission) -> None:
    """Remember that somebody has called ``__enter__`` and will call ``__exit__`` by himself."""
    trial = _own_trial(view)
    if trial is None:
        return
    if trial is admission:
        trial.by_hand = 1
    elif trial.by_hand is not None:  # a block inside of that trial's block
        trial.by_hand += 1


def claim(view: View) -> Trial | None:
    """The trial that an ``__exit__`` called by hand ends."""
    trial = _own_trial(view)
    if trial is None or trial.by_hand is None:
        return None
    trial.by_hand -= 1
    return None if trial.by_hand else trial
