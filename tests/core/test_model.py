"""Several processes' breakers on one store, held against the reference model.

Other backends run the same machine: derive from :class:`CircuitMachine`, say in ``open_store``
how a process gets at the store and in ``close_store`` how to clean up, and give it to
:func:`prove`. With ``--hypothesis-profile=nightly`` it runs for long, and with ``-s`` it says
how often it came where.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from circuitbreaker_django import CircuitBreaker, CircuitOpenError
from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core import telling
from circuitbreaker_django.core.options import make
from circuitbreaker_django.core.states import CircuitState, Outcome
from circuitbreaker_django.core.trial import Admission, Trial
from tests.clock import Clock
from tests.reference import SECOND, Call, Record, Reference, Rules

lengths = st.integers(1, 6)
chances = st.sampled_from([0.0, 0.05, 0.3, 0.7, 0.99])
outcomes = st.sampled_from(["success", "failure", "ignored"])
#: Mostly none: as long as a lease, a recovery or a slow call may be.
durations = st.sampled_from([0, 0, 0, 1, 2, 4])

#: What may open a circuit; another rule than the number of failures in most.
detection = st.fixed_dictionaries(
    {"minimum_calls": st.integers(1, 6)},
    optional={
        "failure_threshold": st.integers(1, 4),
        "failure_rate_threshold": st.sampled_from([0.1, 0.3, 0.5, 1.0]),
        "consecutive_failures": st.integers(1, 4),
    },
)
recovery = st.fixed_dictionaries(
    {
        "recovery_timeout": lengths,
        "recovery_backoff": st.integers(1, 3),
        "half_open_max_calls": st.integers(1, 3),
        "success_threshold": st.integers(1, 3),
        "trial_timeout": lengths,
        "ramp_up": st.sampled_from([20, 20, 20, 5, 0]),
    }
)


class Ignored(Exception):
    """What counts as nothing."""


class Failed(Exception):
    """What counts; it may ask for some seconds of rest."""

    @property
    def rest(self) -> float:
        return float(self.args[0])


class CircuitMachine(RuleBasedStateMachine):
    """What every process does and sees must be what the reference model does."""

    calls = Bundle("calls")
    processes: ClassVar[int] = 3
    quorums: ClassVar[st.SearchStrategy[int]] = st.sampled_from([1, 1, 2, 3])
    #: How often examples came where.
    reached: ClassVar[Counter[str]]

    def open_store(self) -> Callable[[], Backend]:
        """A function that gives one more process's backend on one new store."""
        raise NotImplementedError

    def close_store(self) -> None:
        """Clean up."""

    def keep_house(self) -> None:
        """What a process does every second, for all of them."""

    @initialize(
        data=st.data(),
        detection=detection,
        recovery=recovery,
        mode=st.sampled_from(["auto"] * 9 + ["metrics_only", "disabled", "forced_open"]),
        goes=st.sampled_from(["nowhere", "alone", "half-open", *["closed again"] * 3]),
    )
    def make_processes(
        self, data: Any, detection: dict[str, Any], recovery: dict[str, Any], mode: str, goes: str
    ) -> None:
        self.clock = Clock()
        self.chance = 0.0
        self.places: set[str] = set()
        self.steps = 0
        self.options = {
            **detection,
            **recovery,
            "failure_window": data.draw(lengths),
            # No sum of the other durations: seconds are floats, and round at an exact end.
            "slow_call_duration": data.draw(st.sampled_from([None, 1.7])),
            "slow_call_rate_threshold": data.draw(st.sampled_from([0.4, 1.0])),
            "quorum": data.draw(self.quorums),
            "recovery_timeout_max": data.draw(st.sampled_from([6, 20])),
            "recovery_jitter": data.draw(st.sampled_from([0.0, 0.0, 0.5])),
            "initial_mode": mode,
            "ignore_exceptions": Ignored,
            "retry_after": _rest,
        }
        join = self.open_store()
        # Chance is the test's: so long does one wait longer who has opened alone.
        self.patches: list[Any] = [
            patch("random.uniform", lambda least, most: most / 3),
            patch.object(telling, "listeners", []),  # the log would take more time than all else
        ]
        for one in self.patches:
            one.start()
        self.breakers = [
            CircuitBreaker("payments", backend=join(), **self.options)
            for _ in range(self.processes)
        ]
        for breaker in self.breakers:
            breaker.backend.chance = lambda: self.chance
        self.work = [breaker(self._work) for breaker in self.breakers]
        self.model = Reference(self._rules(), self.processes)
        self.epochs = {self.model.life: self._row().epoch}
        self.most = self.options["half_open_max_calls"]
        if goes != "nowhere" and self.model.mode(self.now) == "auto":
            if goes == "alone":
                self.one_fails_until_it_is_open()
            else:
                self.fail_until_it_opens(rest=0)
            if self.model.state(0, self.now) == "closed":
                self.trip(process=0)  # where only slow calls matter
            self.wait_until_it_may_be_tried(micros=0)
            if goes == "closed again":
                self.try_until_it_closes()

    def _rules(self) -> Rules:
        policy = make(self.options)[0]
        whole = self.options
        slow = whole["slow_call_duration"]
        return Rules(
            threshold=policy.failure_threshold,
            window=whole["failure_window"] * SECOND,
            rate=policy.failure_rate_threshold,
            slow=None if slow is None else round(slow * SECOND),
            slow_rate=whole["slow_call_rate_threshold"],
            minimum=whole["minimum_calls"],
            row=policy.consecutive_failures,
            quorum=whole["quorum"],
            recovery=whole["recovery_timeout"] * SECOND,
            backoff=whole["recovery_backoff"],
            longest=max(whole["recovery_timeout_max"], whole["recovery_timeout"]) * SECOND,
            jitter=whole["recovery_jitter"],
            most=whole["half_open_max_calls"],
            needed=whole["success_threshold"],
            lease=whole["trial_timeout"] * SECOND,
            ramp=whole["ramp_up"] * SECOND,
            initial_mode=whole["initial_mode"],
            patience=self.breakers[0].backend.gathering,
            local_jitter=round(whole["recovery_timeout"] / 10 / 3 * SECOND),
        )

    @property
    def now(self) -> int:
        return self.clock.now

    def _row(self) -> core.Circuit:
        """The shared circuit."""
        backend = self.breakers[0].backend
        stored = backend.overview().circuits.get("payments") or backend._row("payments")
        return core.settle(stored, self.now)

    # -- calls --------------------------------------------------------------------------------

    def _work(self, outcome: str, seconds: float, rest: int) -> None:
        self.clock.advance(seconds)
        if outcome == "failure":
            raise Failed(rest)
        if outcome == "ignored":
            raise Ignored

    def _call(self, process: int, outcome: str, seconds: float = 0, rest: int = 0) -> None:
        """A whole call through the decorator."""
        expected = self.model.begin(process, self.now, self.chance)
        try:
            self.work[process](outcome, seconds, rest)
        except CircuitOpenError:
            assert expected is None
            return
        except (Failed, Ignored):
            pass
        assert expected is not None
        self.model.end(expected, outcome, self.now, asked=rest * SECOND)
        self._observe()

    @rule(target=calls, process=st.integers(0, 2), chance=chances, number=st.integers(1, 2))
    def begin(self, process: int, chance: float, number: int) -> Any:
        self.chance = chance
        begun = [self._begin(process % self.processes) for _ in range(number)]
        return multiple(*(call for call in begun if call is not None))

    def _begin(self, process: int) -> tuple[int, Admission, Call, float] | None:
        now, state = self.now, self.model.state(process, self.now)
        expected = self.model.begin(process, now, self.chance)
        breaker = self.breakers[process]
        started = breaker.backend.seconds()
        admission = breaker.enter()
        if expected is not None:
            assert not isinstance(admission, CircuitOpenError), f"rejected while {state}"
            kind = "trial" if isinstance(admission, Trial) else "counted" if admission else "free"
            assert kind == expected.kind
            return (process, admission, expected, started)
        assert isinstance(admission, CircuitOpenError), f"let through while {state}"
        assert (admission.name, admission.state) == ("payments", state)
        if state == "open":
            wait = self.model.wait(process, now)
            assert admission.retry_after == (None if wait is None else wait / SECOND)
        else:
            assert admission.retry_after is not None
            assert 0 < admission.retry_after <= 1
        return None

    @rule(call=calls, outcome=outcomes, rest=st.sampled_from([0, 0, 3, 100]), timed=st.booleans())
    def end(
        self, call: tuple[int, Admission, Call, float], outcome: str, rest: int, timed: bool
    ) -> None:
        # Not consumed: some calls never end, and others end twice, of which once counts.
        process, admission, expected, started = call
        if isinstance(admission, int) and expected.is_over:
            return  # only trials have a token that reports once
        self.model.end(expected, outcome, self.now, timed=timed, asked=rest * SECOND)
        error = Failed(rest) if outcome == "failure" else None
        self.breakers[process].leave(admission, Outcome(outcome), error, started if timed else None)
        self._observe()

    @rule(
        process=st.integers(0, 2),
        chance=chances,
        ends=st.lists(st.tuples(outcomes, durations), min_size=1, max_size=8),
    )
    def call(self, process: int, chance: float, ends: list[tuple[str, int]]) -> None:
        process %= self.processes
        self.chance = chance
        for outcome, seconds in ends:
            alone = self.model.is_alone(process)
            self._call(process, outcome, seconds)
            if alone or self.model.is_alone(process):
                break  # the rest of the row has to wait until it has heard of the others

    @rule(process=st.integers(0, 2), success=st.booleans(), chance=chances)
    def tell_of_a_call(self, process: int, success: bool, chance: float) -> None:
        process %= self.processes
        self.chance = chance
        expected = self.model.begin(process, self.now, chance)
        if expected is not None:
            outcome = "success" if success else "failure"
            self.model.end(expected, outcome, self.now, timed=False)
        breaker = self.breakers[process]
        breaker.record_success() if success else breaker.record_failure(Failed(0))
        self._observe()

    # -- ways to where it is interesting --------------------------------------------------------

    @precondition(lambda self: self.model.state(0, self.now) == "closed")
    @rule(rest=st.sampled_from([0, 0, 9]))
    def fail_until_it_opens(self, rest: int) -> None:
        self.chance = 0.0
        for _ in range(12):
            for process in range(self.processes):
                if self.model.state(process, self.now) == "closed":
                    self._call(process, "failure", rest=rest)
            self._settle()

    @precondition(lambda self: self.model.state(0, self.now) == "closed")
    @rule()
    def one_fails_until_it_is_open(self) -> None:
        self.chance = 0.0
        for _ in range(12):
            if self.model.state(0, self.now) == "closed":
                self._call(0, "failure")

    @precondition(lambda self: self.model.state(0, self.now) == "open")
    @rule(micros=st.sampled_from([0, 0, 0, -1]))
    def wait_until_it_may_be_tried(self, micros: int) -> None:
        wait = self.model.wait(0, self.now)
        self.clock.now += max(0, (wait or 0) + micros)

    @precondition(lambda self: self.model.state(0, self.now) == "half_open")
    @rule()
    def try_until_it_closes(self) -> None:
        for _ in range(3):
            if self.model.state(0, self.now) == "half_open":
                self._call(0, "success")

    # -- time, operators, settings --------------------------------------------------------------

    @rule(seconds=lengths)
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(micros=st.sampled_from([1, SECOND // 4, SECOND - 1]))
    def advance_to_the_edge(self, micros: int) -> None:
        self.clock.now += micros

    @rule(micros=st.sampled_from([0, -1]))
    def advance_by_the_window(self, micros: int) -> None:
        self.clock.now += self.model.rules.window + micros

    @rule(seconds=st.sampled_from([60, 3600, 1_000_000]))
    def be_idle(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(process=st.integers(0, 2))
    def trip(self, process: int) -> None:
        self.model.trip(self.now)
        self.breakers[process % self.processes].trip()
        self._observe()

    @rule(
        process=st.integers(0, 2),
        mode=st.sampled_from(["forced_open", "disabled", "metrics_only", "metrics_only"]),
        duration=st.none() | lengths,
    )
    def begin_mode(self, process: int, mode: str, duration: int | None) -> None:
        breaker = self.breakers[process % self.processes]
        self.model.begin_mode(mode, self.now, None if duration is None else duration * SECOND)
        if mode == "forced_open":
            breaker.trip(hold=duration is None, duration=duration)
        elif mode == "disabled":
            breaker.disable(duration=duration)
        else:
            breaker.metrics_only(duration=duration)

    @precondition(lambda self: self.model.mode(self.now) != "auto")
    @rule(process=st.integers(0, 2))
    def enable(self, process: int) -> None:
        self.model.enable(self.now)
        self.breakers[process % self.processes].enable()

    @rule(process=st.integers(0, 2))
    def reset(self, process: int) -> None:
        self.model.reset(self.now)
        self.breakers[process % self.processes].reset()

    @rule(data=st.data(), recovery=recovery)
    def change_the_settings(self, data: Any, recovery: dict[str, Any]) -> None:
        # Neither what is counted nor for how long: bounded memory cannot grow after the fact.
        numbers = {"failure_rate_threshold": st.sampled_from([0.1, 0.3, 0.5, 1.0])}
        numbers["minimum_calls"] = st.integers(1, 6)
        if self.options["quorum"] == 1:
            numbers["failure_threshold"] = st.integers(1, 4)
        known = [key for key in numbers if self.options.get(key) is not None]
        self.options |= recovery | {key: data.draw(numbers[key]) for key in known}
        self.most = max(self.most, self.options["half_open_max_calls"])
        policy, _ = make(self.options)
        for breaker in self.breakers:
            breaker.policy = policy
            breaker.view.open_gate(breaker.backend.bell, policy, self.now)
        self.model.change(self._rules())
        self.clock.advance(1)  # for so long a process believes that there is no permit

    # -- what must be true at every moment ----------------------------------------------------

    def _observe(self) -> None:
        """How long the wait is that has just begun, where that is left to chance."""
        record, self.model.opened = self.model.opened, None
        if record is None:
            return
        real = self._circuit_of(record).retry_at
        least = record.waits_until
        most = least + (least - self.now) * self.options["recovery_jitter"]
        assert least <= real <= most + 1
        record.waits_until = real

    def _circuit_of(self, record: Record) -> core.Circuit:
        for process, breaker in zip(self.model.processes, self.breakers, strict=True):
            if record is process.alone:
                return breaker.view.circuit
        return self._row()

    def _settle(self) -> None:
        self.steps += 1
        self.keep_house()
        self._observe()

    @invariant()
    def all_see_what_the_model_sees(self) -> None:
        self._settle()
        now, model, row = self.now, self.model, self._row()
        mode = model.mode(now)
        for process, breaker in enumerate(self.breakers):
            state = model.state(process, now)
            assert (breaker.state, breaker.mode) == (state, mode)
            may_try = state == "half_open" and model.may_try(process, now)
            assert breaker.allows() == (state == "closed" or may_try)
            self._note(process, state)
        record = model.record
        assert row.state == ("open" if record.is_open else "closed")
        assert row.spared == record.spared
        if record.is_open:
            assert (row.openings, row.trial_successes) == (record.openings, record.successes)
            assert row.retry_at == record.waits_until
            longest = model.rules.longest * (1 + model.rules.jitter)
            assert row.retry_at - now <= longest
        live = [permit for permit in row.permits if now < permit.expires]
        assert len(live) == model.running_trials(record, now) <= self.most
        epoch = self.epochs.setdefault(model.life, row.epoch)
        assert epoch == row.epoch, "an epoch to each life"
        assert list(self.epochs.values()) == sorted(set(self.epochs.values()))

    def _note(self, process: int, state: str) -> None:
        """Remember where this example has come."""
        model, now = self.model, self.now
        self.places |= {
            state,
            model.mode(now),
            *(["ramp-up"] if state == "closed" and model.share(process, now) < 1 else []),
            *(["alone"] if model.is_alone(process) else []),
        }

    def teardown(self) -> None:
        if not hasattr(self, "patches"):
            return
        for one in self.patches:
            one.stop()
        try:
            # The history: no epoch twice, but for the first trial, which begins none.
            history = [told for _, told in reversed(self.breakers[0].backend.events(10_000))]
            for before, after in itertools.pairwise(history):
                is_trial = after.after is CircuitState.HALF_OPEN and after.cause == "first trial"
                assert before.epoch < after.epoch or (is_trial and before.epoch == after.epoch)
        finally:
            self.close_store()
        for place in self.places:
            event(place)
        self.reached.update(self.places)
        self.reached.update(examples=1, steps=self.steps)


def _rest(error: object) -> float:
    return error.rest if isinstance(error, Failed) else 0.0


#: Examples of which a share can be told; of fewer chance makes anything.
MANY = 1000


def fewer(part: int) -> int:
    """How many examples there are of a model that takes long: a part, but in a nightly run all."""
    many = settings().max_examples
    return many if many >= MANY else many // part


def prove(machine: type[CircuitMachine], *, least: dict[str, float], **limits: Any) -> None:
    """Run the machine, and see how large a share of its examples came where it is to come.

    Args:
        machine: the model.
        least: the shares that are asked for, where there are examples enough to tell.
        limits: hypothesis's settings.
    """
    machine.reached = Counter()
    run_state_machine_as_test(machine, settings=settings(deadline=None, **limits))
    reached = dict(machine.reached)
    examples, steps = reached.pop("examples"), reached.pop("steps")
    shares = {place: number / examples for place, number in sorted(reached.items())}
    told = ", ".join(f"{place} {share:.0%}" for place, share in shares.items())
    print(f"\n{machine.__name__}: {steps} steps in {examples} examples: {told}")
    if examples >= MANY:
        for place, share in least.items():
            assert shares.get(place, 0) >= share, f"{place}: too few examples"


class MemoryMachine(CircuitMachine):
    # What is in one process is told to nobody, and nobody has to be waited for.
    processes = 1
    quorums = st.just(1)

    def open_store(self) -> Callable[[], Backend]:
        backend = MemoryBackend(clock=self.clock)
        return lambda: backend


def test_a_process_does_what_the_model_does():
    prove(
        MemoryMachine,
        least={"half_open": 0.4, "ramp-up": 0.2, "metrics_only": 0.15},
        max_examples=2 * settings().max_examples,
        stateful_step_count=40,
    )
