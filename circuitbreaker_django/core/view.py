"""What one process believes of one circuit: the shared record, or its own (rules 3, 14, 17, 18)."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final

from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core import window
from circuitbreaker_django.core.circuit import Batch, Circuit, Event
from circuitbreaker_django.core.gate import STILL, Bell, Gate
from circuitbreaker_django.core.nesting import moments
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.core.tally import Tally
from circuitbreaker_django.core.traffic import NOTHING, Counts, minus

if TYPE_CHECKING:
    from circuitbreaker_django.core.breaker import CircuitBreaker

#: The cause of a change that another process has brought about.
ELSEWHERE: Final = "elsewhere"


class View:
    """A process's view of one circuit; it changes under the backend's lock only.

    Attributes:
        circuit: what is believed.
        announced: what was believed when a change was last told of.
        epoch: of it while it is closed, be it on paper, otherwise 0; 0 where nothing is counted.
        moment: when ``epoch`` last changed, as a number of ``moments``.
        local: whether the circuit believed is this process's own and not the store's.
        incarnation, shared_epoch: of the newest record that came from the store.
        own: the newest failures of this process, as a window.
        tally: the calls of this process, where successes matter too; of this epoch.
        pause_until: before this time the store need not be asked for a permit again.
        asked_at: when it last was, by ``time.monotonic()``, where late permits are kept.
        gate: what calls look at.
        calls, failures, slow, ignored, rejected: counters; the gate and the tally have more calls.
        told: what of all these was told of already.
    """

    __slots__ = (
        "announced",
        "asked_at",
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
        "slow",
        "tally",
        "told",
    )

    def __init__(
        self, breaker: CircuitBreaker, name: str, circuit: Circuit, incarnation: int
    ) -> None:
        self.name = name
        self.calls = self.failures = self.slow = self.ignored = self.rejected = 0
        self.told = NOTHING
        self.gate = Gate(breaker)
        self.incarnation = incarnation
        self.own: tuple[int, ...] = ()
        self.tally: Tally | None = None
        self.epoch = -1
        self.asked_at = 0.0
        self._believe(circuit)
        self.announced = circuit

    @property
    def policy(self) -> Policy:
        """The breaker's."""
        return self.gate.breaker.policy

    def _believe(self, circuit: Circuit) -> None:
        self.shared_epoch = circuit.epoch
        self._set(circuit, local=False)

    def _set(self, circuit: Circuit, *, local: bool) -> None:
        self.circuit = circuit
        self.local = local
        self.pause_until = 0
        self._find_epoch()
        self.shut()

    def _find_epoch(self) -> None:
        """What calls are admitted under; another life is counted from the beginning (rule 10)."""
        policy = self.policy
        epoch = self.circuit.epoch if self._is_closed(self.circuit) else 0
        if epoch != self.epoch:
            self.epoch, self.moment = epoch, next(moments)
            self.own = ()
            self._drop_tally()
        if self.tally is not None and self.tally.policy != policy:
            self._drop_tally()
        if self.tally is None and epoch and policy.counts_successes:
            self.tally = Tally(policy, self.gate.breaker.backend.seconds)

    def _drop_tally(self) -> None:
        self.calls += _passed(self.tally)
        self.tally = None

    def _is_closed(self, circuit: Circuit) -> bool:
        """Whether calls move the circuit, be it on paper, and may open it."""
        return circuit.state is CircuitState.CLOSED and core.counts(circuit, self.policy)

    def shut(self) -> None:
        """Make the next call take the long way."""
        self.gate.shut()

    def settle(self, policy: Policy, now: int) -> None:
        """See what time has changed in the circuit, or another policy in what it means."""
        circuit = core.settle(self.circuit, now)
        if self.local and circuit.epoch != self.circuit.epoch:
            # What was opened here on paper is thrown away with the paper (rule 19). The epoch of
            # that end follows the shared one, as all others reckon it.
            circuit = core.settle(replace(self.circuit, epoch=self.shared_epoch), now)
            self.local = False
        if not self.local:  # kept, since a wait that is shortened anew at each look has no end
            circuit = core.clamp(circuit, policy, now)
        if circuit is self.circuit:
            self._find_epoch()
        elif self.local:
            self._set(circuit, local=True)
        else:
            self._believe(circuit)

    def open_gate(self, bell: Bell, policy: Policy, now: int) -> None:
        """Make the gate for the circuit as it is now."""
        self.settle(policy, now)
        old = self.gate
        old.shut()  # a block that has taken its exit looks whether it was let in by it
        self.calls += int(old.calls)
        seen = core.effective(self.circuit, policy, now)
        admit = reject = None
        if seen.state is not CircuitState.CLOSED:
            reject = bell.seen
        elif self._may_pass_by(policy, now):
            admit = bell.seen
        still = bell.word is STILL and bell.seen == STILL[()]
        bypass = still and admit is not None and self.tally is None
        self.gate = Gate(
            old.breaker,
            None if bypass else bell.word,
            admit=admit,
            epoch=self.epoch,
            reject=reject,
            until=inf if seen.wait is None else now + seen.wait,
            tally=self.tally,
        )

    def _may_pass_by(self, policy: Policy, now: int) -> bool:
        """Whether calls may pass without a look at the clock or at more than the gate."""
        override = self.circuit.override
        if override is not None and override.until is not None:
            return False
        if core.mode_of(self.circuit, policy) is Mode.DISABLED:
            return True
        return bool(self.epoch) and core.share(self.circuit, policy, now) == 1

    def adopt(self, circuit: Circuit, incarnation: int) -> bool:
        """Believe a shared record, unless it is older than the one believed.

        What this process opened by its own evidence stays open until the shared circuit
        has opened too, or has a newer epoch for another reason (rule 17).

        Returns:
            Whether that may be a change that was not announced.
        """
        before, was_local, opened_here = self.circuit, self.local, self.is_open_alone
        if incarnation != self.incarnation or circuit.epoch > self.shared_epoch:
            self.incarnation = incarnation
            self.own = ()
            self._believe(circuit)
            return True
        if circuit.epoch == self.shared_epoch and not (opened_here and self._is_closed(circuit)):
            self._believe(circuit)
            return was_local or (circuit.trials > 0 and not before.trials)
        return False

    def take_change(self, now: int) -> Event | None:
        """What others have brought about since the last announcement, as one event."""
        policy = self.policy
        before, after = core.settle(self.announced, now), core.settle(self.circuit, now)
        self.announced = self.circuit
        was, mode = core.mode_of(before, policy), core.mode_of(after, policy)
        # On paper the states of the paper, for those of the circuit do not change.
        look = core.automatic if was is mode is Mode.METRICS_ONLY else core.effective
        state, then = look(before, policy, now).state, look(after, policy, now).state
        newer = after.epoch > before.epoch and after != Circuit(epoch=after.epoch)
        if after.epoch == before.epoch and not before.trials and after.trials:
            state, newer = CircuitState.OPEN, True  # half-open has no epoch of its own (rule 22)
        if not newer and (state, was) == (then, mode):
            return None
        # Under AUTO an operator has brought about no more than the mode itself.
        by_order = after.override if (was, mode) != (Mode.AUTO, Mode.AUTO) else None
        who = by_order or after
        return Event(
            epoch=after.epoch,
            at=now,
            before=state,
            after=then,
            mode=mode,
            cause=ELSEWHERE,
            actor=who.actor,
            reason=who.reason,
            last_error=after.last_error if then is CircuitState.OPEN else "",
            last_message=after.last_message if then is CircuitState.OPEN else "",
        )

    def go_local(self, retry_at: int) -> None:
        """Run the circuit here, since the store is away; the first trial waits for ``retry_at``."""
        circuit = core.settle(self.circuit, retry_at)
        circuit = replace(circuit, retry_at=max(circuit.retry_at, retry_at))
        self._set(circuit, local=True)

    def go_on(self, circuit: Circuit) -> None:
        """Go on with a record that this process made itself."""
        self._set(circuit, local=True)

    @property
    def is_open_alone(self) -> bool:
        """Whether this process has opened the circuit for itself only (rule 17)."""
        return self.local and not self.epoch

    @property
    def all_calls(self) -> int:
        """The calls that were let through, wherever they were counted."""
        return self.calls + int(self.gate.calls) + _passed(self.tally)

    def untold(self) -> Counts:
        """What was counted and told nobody; whoever asks tells of it (rule 23)."""
        counted = Counts(self.all_calls, self.failures, self.slow, self.ignored, self.rejected)
        new, self.told = minus(counted, self.told), counted
        return new

    def rejects(self, now: int) -> bool:
        """Whether the circuit that is believed lets no call pass but trials."""
        return core.effective(self.circuit, self.policy, now).state is not CircuitState.CLOSED

    def count(self, policy: Policy, now: int, *, failed: bool, slow: bool) -> None:
        """Count a call of this process in its own window."""
        if failed:
            self.own = window.add(self.own, (now,), policy)
            self.shut()  # whoever passes from now on began after this failure
        if self.tally is not None:
            self.tally.count(now, failed=failed, slow=slow)

    def is_suspect(self, policy: Policy, now: int) -> bool:
        """Whether anybody, as far as is known here, has failed in the window (rule 7)."""
        if self.tally is None or not policy.has_rates:
            return False
        return self.tally.is_suspect(now) or core.is_suspect(self.circuit, policy, now)

    def has_to_tell(self, policy: Policy, now: int) -> bool:
        """Whether others are to hear of successes now: while it is suspect, but not of each."""
        tally = self.tally
        if tally is None or not self.is_suspect(policy, now):
            return False
        if tally.may_tell(now):
            return True
        return window.why_tripped((), tally.slices(now), 0, policy, now) is not None

    def own_evidence(
        self, now: int, error: str = "", retry_after: int = 0, message: str = ""
    ) -> Batch:
        """All that this process has seen by itself."""
        tally = self.tally
        return Batch(
            epoch=self.circuit.epoch,
            ages=tuple(now - time for time in self.own),
            last_error=error,
            slices=() if tally is None else tally.slices(now),
            streak=0 if tally is None else tally.streak,
            retry_after=retry_after,
            last_message=message,
        )

    def trip_on_own_evidence(
        self, policy: Policy, now: int, own: Batch, jitter: int
    ) -> tuple[Event, ...]:
        """Open here if what this process has seen by itself reaches a rule."""
        alone = replace(policy, quorum=1)
        circuit = replace(self.circuit, failures=(), slices=())
        circuit, events = core.record(circuit, own, alone, now)
        if events:
            self._set(replace(circuit, retry_at=circuit.retry_at + jitter), local=True)
        return events


def _passed(tally: Tally | None) -> int:
    """The calls that have succeeded in time, which only the tally knows of."""
    return 0 if tally is None else tally.passed + int(tally.calls)
