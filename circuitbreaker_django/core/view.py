"""What one process believes of one circuit: the shared record, or its own (rules 3, 14, 17, 18)."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core import window
from circuitbreaker_django.core.circuit import Batch, Circuit, Event
from circuitbreaker_django.core.gate import STILL, Bell, Gate
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import CircuitState

if TYPE_CHECKING:
    from circuitbreaker_django.core.breaker import CircuitBreaker

#: Numbers that tell what was first, a change of a view or the beginning of a block.
moments = count(1)


class View:
    """A process's view of one circuit; it changes under the backend's lock only.

    Attributes:
        circuit: what is believed.
        epoch: of it while it is closed, otherwise 0.
        moment: when ``epoch`` last changed, as a number of ``moments``.
        local: whether the circuit believed is this process's own and not the store's.
        incarnation, shared_epoch: of the newest record that came from the store.
        own: the newest failures of this process, as a window.
        pause_until: before this time the store need not be asked for a permit again.
        gate: what calls look at.
        calls, failures, ignored, rejected: counters, without those of the gate.
    """

    __slots__ = (
        "calls",
        "circuit",
        "epoch",
        "failures",
        "gate",
        "ignored",
        "incarnation",
        "local",
        "moment",
        "name",
        "own",
        "pause_until",
        "rejected",
        "shared_epoch",
    )

    def __init__(
        self, breaker: CircuitBreaker, name: str, circuit: Circuit, incarnation: int
    ) -> None:
        self.name = name
        self.calls = self.failures = self.ignored = self.rejected = 0
        self.gate = Gate(breaker)
        self.incarnation = incarnation
        self.own: tuple[int, ...] = ()
        self.epoch = -1
        self._believe(circuit)

    def _believe(self, circuit: Circuit) -> None:
        self.shared_epoch = circuit.epoch
        self._set(circuit, local=False)

    def _set(self, circuit: Circuit, *, local: bool) -> None:
        self.circuit = circuit
        self.local = local
        self.pause_until = 0
        epoch = circuit.epoch if _is_closed(circuit) else 0
        if epoch != self.epoch:
            self.epoch, self.moment = epoch, next(moments)
        self.shut()

    def shut(self) -> None:
        """Make the next call take the long way."""
        self.gate.shut()

    def open_gate(self, bell: Bell, policy: Policy, now: int) -> None:
        """Make the gate for the circuit as it is now."""
        if not self.local:  # kept, since a wait that is shortened anew at each look has no end
            self.circuit = core.clamp(self.circuit, policy, now)
        old = self.gate
        old.shut()  # a block that has taken its exit looks whether it was let in by it
        self.calls += int(old.calls)
        until: float = 0
        if not self.epoch:
            seen = core.effective(self.circuit, policy, now)
            until = inf if seen.wait is None else now + seen.wait
        still = bell.word is STILL and bell.seen == STILL[()]
        self.gate = Gate(
            old.breaker,
            None if still and self.epoch else bell.word,
            admit=bell.seen if self.epoch else None,
            epoch=self.epoch,
            reject=None if self.epoch else bell.seen,
            until=until,
        )

    def adopt(self, circuit: Circuit, incarnation: int) -> None:
        """Believe a shared record, unless it is older than the one believed.

        What this process opened by its own evidence stays open until the shared circuit
        has opened too, or has a newer epoch for another reason (rule 17).
        """
        opened_here = self.local and not self.epoch
        if incarnation != self.incarnation or circuit.epoch > self.shared_epoch:
            self.incarnation = incarnation
            self.own = ()
            self._believe(circuit)
        elif circuit.epoch == self.shared_epoch and not (opened_here and _is_closed(circuit)):
            self._believe(circuit)

    def go_local(self, retry_at: int) -> None:
        """Run the circuit here, since the store is away; the first trial waits for ``retry_at``."""
        circuit = core.settle(self.circuit, retry_at)
        circuit = replace(circuit, retry_at=max(circuit.retry_at, retry_at))
        self._set(circuit, local=True)

    def go_on(self, circuit: Circuit) -> None:
        """Go on with a record that this process made itself."""
        self._set(circuit, local=True)

    def count(self, now: int, policy: Policy) -> None:
        """Count a failure of this process in its own window."""
        self.own = window.add(self.own, (now,), policy)

    def trip_on_own_evidence(
        self, policy: Policy, now: int, error: str, jitter: int
    ) -> tuple[Event, ...]:
        """Open here if this process's own failures reach the threshold."""
        circuit = replace(self.circuit, failures=())
        ages = tuple(now - time for time in self.own)
        circuit, events = core.record(circuit, Batch(circuit.epoch, ages, error), policy, now)
        if events:
            self.own = ()
            self._set(replace(circuit, retry_at=circuit.retry_at + jitter), local=True)
        return events


def _is_closed(circuit: Circuit) -> bool:
    return circuit.state is CircuitState.CLOSED and circuit.override is None
