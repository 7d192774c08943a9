"""What happens to circuits, as Django signals with plain data: strings, numbers, booleans, None.

They are sent with ``send_robust``, by the thread in which it has happened, when none of this
package's locks is held; so a receiver may call, trip or reset any breaker. The caller waits for
it: it should hand over what takes time. The sender is the class :class:`CircuitBreaker`, for
the two of the backend the class :class:`Backend`. In each, ``registry`` is the alias of the
registry, or ``None`` for a breaker made by hand, and ``name`` is the breaker's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from django.dispatch import Signal

from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.core.breaker import CircuitBreaker
from circuitbreaker_django.core.circuit import MAX_TEXT
from circuitbreaker_django.core.kinds import Kind, kind_of
from circuitbreaker_django.core.news import (
    BackendDegraded,
    CallRejected,
    CommandApplied,
    News,
    StateChanged,
)
from circuitbreaker_django.core.telling import listeners, rejection_listeners

logger = logging.getLogger("circuitbreaker_django")


class CircuitSignal(Signal):
    """A signal for receivers that need not be awaited."""

    def connect(self, receiver: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Connect a receiver.

        Raises:
            TypeError: it is async. It would never run where a breaker is used on an event loop.
        """
        if kind_of(receiver) is Kind.ASYNC:
            raise TypeError(
                f"{receiver!r} is async, and circuits change where nobody can await it: connect "
                "a plain function, which may start a task or put the data into a queue"
            )
        super().connect(receiver, *args, **kwargs)

    def _log_robust_failure(self, receiver: Any, error: Exception) -> None:
        # Django's own wants each receiver's ``__qualname__``, which a partial does not have.
        name = getattr(receiver, "__qualname__", receiver)
        logger.error("the receiver %s of a signal failed: %s", name, error, exc_info=error)


class RejectionSignal(CircuitSignal):
    """A signal that costs nothing while nobody listens."""

    def connect(self, receiver: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Connect a receiver; raises what :meth:`CircuitSignal.connect` does."""
        super().connect(receiver, *args, **kwargs)
        self._switch()

    def disconnect(self, *args: Any, **kwargs: Any) -> bool:
        """Disconnect a receiver; whether it was connected."""
        found = super().disconnect(*args, **kwargs)
        self._switch()
        return found

    def _switch(self) -> None:
        if not self.has_listeners(CircuitBreaker):
            rejection_listeners[:] = [one for one in rejection_listeners if one is not _send]
        elif _send not in rejection_listeners:
            rejection_listeners.append(_send)


#: A circuit has opened, become half-open, closed, or begun or ended a mode; also when it was
#: tripped or reset as what it was already. Each transition is sent in the process that has brought
#: it about, with ``origin=True``, and with ``origin=False`` in every other process that uses the
#: breaker, when that notices, which it does at its next call or within seconds. There, what was
#: missed is one change; and what it finds when it first meets the store is none.
#:
#: * ``before``, ``after``: ``"closed"``, ``"open"`` or ``"half_open"``, as callers see it; in
#:   the mode ``"metrics_only"`` what the circuit is on paper.
#: * ``mode``: that is in force now: ``"auto"``, ``"forced_open"``, ``"disabled"`` or
#:   ``"metrics_only"``.
#: * ``cause``: as ``"5 failures within 60 s"``, ``"a trial succeeded"``, ``"trip"``; with
#:   ``origin=False`` it is ``"elsewhere"``.
#: * ``actor``, ``reason``: who has given the command and why; empty if nobody has. With
#:   ``origin=False`` the reason is what ``breaker status`` shows.
#: * ``last_error``, ``last_message``: the class of the newest failure's exception, when failures
#:   opened it, and what it said, as far as ``ERROR_DETAIL`` lets it be kept.
#: * ``failures``, ``calls``, ``slow``: that counted at that moment; 0 with ``origin=False``.
#: * ``retry_after``: seconds until a call may pass; ``None`` when it is not open, or held open
#:   without an end.
#: * ``epoch``: a number that each change makes larger, the same in all processes.
#: * ``origin``: as above.
#: * ``alone``: whether it is so in this process alone, since the store is away or a quorum was not
#:   reached; ``origin`` is false then.
state_changed = CircuitSignal()

#: A call was not let through; not sent for calls that receivers make.
#:
#: * ``state``: ``"open"`` or ``"half_open"``, or ``"closed"`` while the circuit ramps up.
#: * ``retry_after``: seconds until a call may pass; ``None`` in a hold without an end.
call_rejected = RejectionSignal()

#: The store has confirmed a command: of code, of ``manage.py breaker`` or of the admin. Sent once,
#: in the process where it was given; the ``state_changed`` that it leads to follows.
#:
#: * ``command``: ``"trip"``, ``"hold"``, ``"disable"``, ``"metrics_only"``, ``"enable"`` or
#:   ``"reset"``.
#: * ``mode``: that is in force now, as in ``state_changed``.
#: * ``until``: when that mode ends by itself, in seconds since 1970; ``None`` if it does not.
#: * ``actor``, ``reason``: as they were given; perhaps empty.
#: * ``epoch``: of the circuit now.
command_applied = CircuitSignal()

#: This process cannot use the shared store any more, and goes on with circuits of its own. Sent by
#: each process for itself, once for each time.
#:
#: * ``place``: where the store is; never with a password.
#: * ``problem``: what hinders it.
backend_degraded = CircuitSignal()

#: This process shares its circuits again; the other end of ``backend_degraded``. Of a store on a
#: server it is sent when that has stayed for a second; if it was lost again within five seconds of
#: coming back, when it has stayed for five.
#:
#: * ``place``: where the store is.
backend_recovered = CircuitSignal()


def _send(news: News) -> None:
    match news:
        case StateChanged(event=event):
            state_changed.send_robust(
                CircuitBreaker,
                registry=news.registry,
                name=news.name or None,
                before=event.before.value,
                after=event.after.value,
                mode=event.mode.value,
                cause=str(event.cause),
                actor=event.actor,
                reason=event.reason,
                last_error=event.last_error,
                last_message=event.last_message,
                failures=event.failures,
                calls=event.calls,
                slow=event.slow,
                retry_after=news.retry_after,
                epoch=event.epoch,
                origin=news.origin,
                alone=news.alone,
            )
        case CallRejected():
            call_rejected.send_robust(
                CircuitBreaker,
                registry=news.registry,
                name=news.name or None,
                state=news.state.value,
                retry_after=news.retry_after,
            )
        case CommandApplied(command=command, mode_ends_in=left):
            command_applied.send_robust(
                CircuitBreaker,
                registry=news.registry,
                name=news.name or None,
                command=command.kind.value,
                mode=news.mode.value,
                until=None if left is None else time.time() + left,
                actor=command.actor[:MAX_TEXT],
                reason=command.reason[:MAX_TEXT],
                epoch=news.epoch,
            )
        case BackendDegraded():
            backend_degraded.send_robust(
                Backend, registry=news.registry, place=news.place, problem=news.problem
            )
        case _:
            backend_recovered.send_robust(Backend, registry=news.registry, place=news.place)


listeners.append(_send)
