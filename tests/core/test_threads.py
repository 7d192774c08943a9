"""Many threads on one breaker, with the interpreter switching between them as often as it can."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from circuitbreaker_django import CircuitOpenError, CircuitState
from circuitbreaker_django.core import window
from circuitbreaker_django.core.states import Outcome
from circuitbreaker_django.core.trial import Trial
from tests.core.calls import Down, fail, failing, ok

THREADS, CALLS = 8, 100
#: A rate that nothing reaches.
COUNTED = {
    "failure_threshold": None,
    "failure_rate_threshold": 1.0,
    "minimum_calls": 1_000_000,
    "slow_call_duration": 1000,
}


@pytest.fixture(autouse=True)
def restless() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(*jobs: Callable[[], None]) -> None:
    """Do the jobs in a thread each, all beginning together; nothing may be raised in any."""
    raised: list[BaseException] = []
    ready = threading.Barrier(len(jobs))

    def run(job: Callable[[], None]) -> None:
        ready.wait(60)
        try:
            job()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert raised == []


def often(job: Callable[[], object], number: int = CALLS) -> Callable[[], None]:
    def do() -> None:
        for _ in range(number):
            job()

    return do


def test_no_failure_is_lost_from_a_rate(make):
    breaker = make(**COUNTED)
    at_once(*[often(lambda: failing(breaker))] * THREADS)
    circuit = breaker.backend.overview().circuits["payments"]
    seen = window.total(circuit.slices, breaker.policy, breaker.backend.clock())
    assert (seen.calls, seen.failures) == (THREADS * CALLS, THREADS * CALLS)
    assert breaker.view.failures == THREADS * CALLS


def test_successes_beside_failures_are_all_but_a_few_counted_and_no_failure_is_lost(make):
    breaker = make(**COUNTED)
    at_once(*[often(breaker(ok)), often(lambda: failing(breaker))] * (THREADS // 2))
    calls = breaker.view.tally.slices(breaker.backend.clock())
    seen = window.total(calls, breaker.policy, breaker.backend.clock())
    half = THREADS // 2 * CALLS
    assert seen.failures == half
    # An increment that is lost to a race is tolerated (rule 7), none is counted twice.
    assert 0.9 * 2 * half <= seen.calls <= 2 * half


def test_successes_alone_are_all_but_a_few_counted(make):
    breaker = make(**COUNTED)
    at_once(*[often(breaker(ok), 10 * CALLS)] * THREADS)
    seen = window.total(
        breaker.view.tally.slices(breaker.backend.clock()),
        breaker.policy,
        breaker.backend.clock(),
    )
    assert 0.9 * 10 * THREADS * CALLS <= seen.calls <= 10 * THREADS * CALLS


@pytest.mark.parametrize(
    "rules",
    [
        {"failure_threshold": 50},
        {"failure_threshold": None, "failure_rate_threshold": 1.0, "minimum_calls": 50},
        {"failure_threshold": None, "consecutive_failures": 50},
    ],
    ids=["failures", "rate", "row"],
)
def test_it_opens_at_the_very_failure_and_once(make, rules):
    breaker = make(**rules)
    let_through: list[int] = []
    turn = threading.Lock()

    def fail_until_it_opens() -> None:
        for _ in range(CALLS):
            with turn:  # whatever is in flight when it opens was let through rightly
                try:
                    breaker.call(fail)
                except Down:
                    let_through.append(1)
                except CircuitOpenError:
                    return

    at_once(*[fail_until_it_opens] * THREADS)
    assert len(let_through) == 50
    circuit = breaker.backend.overview().circuits["payments"]
    assert (circuit.state, circuit.openings) == (CircuitState.OPEN, 1)


@pytest.mark.parametrize(
    "rules",
    [
        {"failure_threshold": 50},
        {"failure_threshold": None, "failure_rate_threshold": 1.0, "minimum_calls": 50},
        {"failure_threshold": None, "consecutive_failures": 50},
    ],
    ids=["failures", "rate", "row"],
)
def test_at_once_it_opens_at_the_failure_and_those_in_flight(make, rules):
    breaker = make(**rules)
    let_through: list[int] = []

    def fail_until_it_opens() -> None:
        for _ in range(CALLS):
            try:
                breaker.call(fail)
            except Down:
                let_through.append(1)
            except CircuitOpenError:
                return

    at_once(*[fail_until_it_opens] * THREADS)
    assert 50 <= len(let_through) <= 50 + THREADS - 1
    assert breaker.backend.overview().circuits["payments"].openings == 1


def test_no_more_trials_run_at_once_than_may(half_open):
    breaker = half_open(half_open_max_calls=3, success_threshold=1000)
    running: list[int] = []
    most: list[int] = []
    counting = threading.Lock()

    def try_it() -> None:
        for number in range(CALLS):
            admission = breaker.enter()
            if isinstance(admission, CircuitOpenError):
                continue
            assert isinstance(admission, Trial)
            with counting:
                running.append(1)
                most.append(len(running))
            with counting:
                running.pop()
            breaker.leave(admission, Outcome.IGNORED if number % 2 else Outcome.SUCCESS)

    at_once(*[try_it] * THREADS)
    assert 1 <= max(most) <= 3
    assert breaker.backend.overview().circuits["payments"].permits == ()


def test_a_storm_of_everything_leaves_a_circuit_that_works(make, clock):
    breaker = make(**COUNTED, ramp_up=10, half_open_max_calls=2)
    work = breaker(ok)

    def call() -> None:
        for number in range(CALLS):
            try:
                breaker.call(fail) if number % 5 == 0 else work()
            except (Down, CircuitOpenError):
                pass

    def steer() -> None:
        for _ in range(CALLS // 4):
            breaker.trip()
            clock.advance(40)
            breaker.metrics_only()
            breaker.enable()
            breaker.disable()
            clock.advance(1)
            breaker.reset()

    at_once(*[call] * (THREADS - 1), steer)
    breaker.reset()
    assert breaker.state is CircuitState.CLOSED
    assert work() == "ok"
    assert breaker.backend.overview().circuits["payments"].permits == ()
