"""Several processes' breakers on one store, held against the reference model.

Other backends run the same machine: derive from :class:`CircuitMachine` and say in
``open_store`` how a process gets at the store, in ``close_store`` how to clean up::

    class SQLiteMachine(CircuitMachine):
        def open_store(self): ...

    TestSQLite = SQLiteMachine.TestCase
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from circuitbreaker_django import CircuitBreaker, CircuitOpenError
from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.core.trial import Admission
from tests.clock import Clock
from tests.reference import Call, Reference

SECOND = 1_000_000
PROCESSES = 3

processes = st.integers(0, PROCESSES - 1)
lengths = st.integers(1, 6)


class CircuitMachine(RuleBasedStateMachine):
    """What every process does and sees must be what the reference model does."""

    calls = Bundle("calls")

    def open_store(self) -> Callable[[], Backend]:
        """A function that gives one more process's backend on one new store."""
        raise NotImplementedError

    def close_store(self) -> None:
        """Clean up."""

    @initialize(
        threshold=st.integers(1, 4),
        window=lengths,
        recovery=lengths,
        most=st.integers(1, 3),
        needed=st.integers(1, 3),
        lease=lengths,
    )
    def make_processes(
        self, threshold: int, window: int, recovery: int, most: int, needed: int, lease: int
    ) -> None:
        self.clock = Clock()
        make_process = self.open_store()
        self.breakers = [
            CircuitBreaker(
                "payments",
                failure_threshold=threshold,
                failure_window=window,
                recovery_timeout=recovery,
                half_open_max_calls=most,
                success_threshold=needed,
                trial_timeout=lease,
                backend=make_process(),
            )
            for _ in range(PROCESSES)
        ]
        self.model = Reference(
            threshold=threshold,
            window=window * SECOND,
            recovery=recovery * SECOND,
            most=most,
            needed=needed,
            lease=lease * SECOND,
        )
        self.epochs = {self.model.life: self._epoch()}

    def _epoch(self) -> int:
        breaker = self.breakers[0]
        breaker.backend.sync()
        return breaker.view.shared_epoch

    # -- what happens -------------------------------------------------------------------------

    @rule(target=calls, process=processes)
    def begin(self, process: int) -> Any:
        now = self.clock.now
        state = self.model.state(now)
        expected = self.model.begin(now)
        breaker = self.breakers[process]
        admission = breaker.enter()
        if expected is not None:
            assert not isinstance(admission, CircuitOpenError), f"rejected while {state}"
            assert admission is not None
            assert isinstance(admission, int) == (expected.ends is None)
            return (process, admission, expected)
        assert isinstance(admission, CircuitOpenError), f"let through while {state}"
        assert (admission.name, admission.state) == ("payments", state)
        if state == "open":
            wait = self.model.wait(now)
            assert admission.retry_after == (None if wait is None else wait / SECOND)
        else:
            assert admission.retry_after is not None
            assert 0 < admission.retry_after <= 1
        return multiple()

    @rule(call=calls, outcome=st.sampled_from(["success", "failure", "ignored"]))
    def end(self, call: tuple[int, Admission, Call], outcome: str) -> None:
        # Not consumed: some calls never end, and others end twice, of which once counts.
        process, admission, expected = call
        if isinstance(admission, int) and expected.is_over:
            return  # only trials have a token that reports once
        self.model.end(expected, outcome, self.clock.now)
        error = ValueError() if outcome == "failure" else None
        self.breakers[process].leave(admission, Outcome(outcome), error)

    @rule(seconds=lengths)
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(micros=st.sampled_from([1, SECOND - 1]))
    def advance_to_the_edge(self, micros: int) -> None:
        self.clock.now += micros

    @precondition(lambda self: self.model.state(self.clock.now) == "open")
    @rule()
    def wait_until_it_may_be_tried(self) -> None:
        wait = self.model.wait(self.clock.now)
        self.clock.now += wait or 0

    @rule(process=processes)
    def trip(self, process: int) -> None:
        self.model.trip(self.clock.now)
        self.breakers[process].trip()

    @rule(process=processes, duration=lengths)
    def hold(self, process: int, duration: int) -> None:
        self.model.hold(self.clock.now, duration * SECOND)
        self.breakers[process].trip(duration=duration)

    @rule(process=processes)
    def hold_without_an_end(self, process: int) -> None:
        self.model.hold(self.clock.now, None)
        self.breakers[process].trip(hold=True)

    @rule(process=processes)
    def reset(self, process: int) -> None:
        self.model.reset(self.clock.now)
        self.breakers[process].reset()

    # -- what must be true at every moment ----------------------------------------------------

    @invariant()
    def all_see_the_state_of_the_model(self) -> None:
        now = self.clock.now
        for breaker in self.breakers:
            assert breaker.state == self.model.state(now)
            assert breaker.mode == self.model.mode(now)

    @invariant()
    def no_more_trials_run_than_may(self) -> None:
        assert self.model.running_trials(self.clock.now) <= self.model.most

    @invariant()
    def epochs_are_one_to_a_life_and_strictly_increase(self) -> None:
        epoch = self.epochs.setdefault(self.model.life, self._epoch())
        assert epoch == self._epoch()
        assert list(self.epochs.values()) == sorted(set(self.epochs.values()))

    def teardown(self) -> None:
        self.close_store()


class MemoryMachine(CircuitMachine):
    def open_store(self) -> Callable[[], Backend]:
        backend = MemoryBackend(clock=self.clock)
        return lambda: backend


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
