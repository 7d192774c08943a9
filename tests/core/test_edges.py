"""Every rule at one less than its threshold, at it, and just outside of its window or time."""

from __future__ import annotations

from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from tests.core.calls import Down, fail, ok

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
TICK = 1
WINDOW = 10_000_000
ONLY: dict[str, Any] = {"failure_threshold": None, "failure_window": 10}
RATE = {**ONLY, "failure_rate_threshold": 0.3, "minimum_calls": 10}
SLOW = {**ONLY, "slow_call_duration": 2, "slow_call_rate_threshold": 0.3, "minimum_calls": 10}


def play(breaker: CircuitBreaker, clock: Any, *steps: str | int) -> CircuitState:
    """Calls that succeed (S), fail (F), or take 2 seconds (L) or a little less (l); and waiting."""
    for step in steps:
        if isinstance(step, int):
            clock.now += step
            continue
        for letter in step:
            took = {"L": 2_000_000, "l": 1_999_000}.get(letter, 0)

            def work(letter: str = letter, took: int = took) -> None:
                clock.now += took
                (fail if letter == "F" else ok)()

            try:
                breaker.call(work)
            except Down:
                pass
    return breaker.state


@pytest.mark.parametrize(
    ("options", "steps", "state"),
    [
        # failure_threshold, in failure_window
        ({"failure_threshold": 3, "failure_window": 10}, ("FF",), CLOSED),
        ({"failure_threshold": 3, "failure_window": 10}, ("FFF",), OPEN),
        ({"failure_threshold": 3, "failure_window": 10}, ("F", WINDOW - TICK, "FF"), OPEN),
        ({"failure_threshold": 3, "failure_window": 10}, ("F", WINDOW, "FF"), CLOSED),
        # failure_rate_threshold
        (RATE, ("SSSSSSSSFF",), CLOSED),
        (RATE, ("SSSSSSSFFF",), OPEN),
        (RATE, ("SSSSSSSF", WINDOW - TICK, "FF"), OPEN),
        (RATE, ("SSSSSSSF", WINDOW, "FF"), CLOSED),
        (RATE, ("F", WINDOW, "SSSSSSSSFF"), CLOSED),
        ({**RATE, "failure_rate_threshold": 1}, ("FFFFFFFFF",), CLOSED),
        ({**RATE, "failure_rate_threshold": 1}, ("FFFFFFFFFF",), OPEN),
        ({**RATE, "failure_rate_threshold": 1}, ("SFFFFFFFFFFF",), CLOSED),
        # minimum_calls, completed by a success
        (RATE, ("FFFFFFFFF",), CLOSED),
        (RATE, ("FFFFFFFFFS",), OPEN),
        (RATE, ("FFFFFFFFF", WINDOW, "S"), CLOSED),
        # slow_call_rate_threshold, and slow_call_duration
        (SLOW, ("SSSSSSSSLL",), CLOSED),
        (SLOW, ("SSSSSSSLLL",), OPEN),
        (SLOW, ("SSSSSSSLLl",), CLOSED),
        (SLOW, ("LSSSSSSS", 8_000_000, "LL"), CLOSED),
        # consecutive_failures, which no time ends
        ({**ONLY, "consecutive_failures": 3}, ("FF",), CLOSED),
        ({**ONLY, "consecutive_failures": 3}, ("FFF",), OPEN),
        ({**ONLY, "consecutive_failures": 3}, ("FFSFF",), CLOSED),
        ({**ONLY, "consecutive_failures": 3}, ("FF", 100 * WINDOW, "F"), OPEN),
        # several rules: any of them
        ({**RATE, "failure_threshold": 2}, ("F",), CLOSED),
        ({**RATE, "failure_threshold": 2}, ("FF",), OPEN),
        ({**RATE, "consecutive_failures": 4}, ("SSSSFFF",), CLOSED),
        ({**RATE, "consecutive_failures": 4}, ("SSSSFFFF",), OPEN),
    ],
)
def test_what_opens_it(make, clock, options, steps, state):
    clock.now = 1_000_000_000  # the beginning of a slice: a window has not begun before it
    assert play(make(**options), clock, *steps) is state


@pytest.mark.parametrize(
    ("options", "wait"),
    [
        ({"recovery_timeout": 30}, 30),
        ({"recovery_timeout": 30, "recovery_timeout_max": 3}, 30),
        ({"recovery_timeout": 30, "retry_after": lambda error: 29}, 30),
        ({"recovery_timeout": 30, "retry_after": lambda error: 31}, 31),
        ({"recovery_timeout": 30, "retry_after": lambda error: 301}, 300),
        ({"recovery_timeout": 30, "retry_after": lambda error: 99, "recovery_timeout_max": 40}, 40),
    ],
)
def test_how_long_it_is_open(make, clock, options, wait):
    breaker = make(**options)
    assert play(breaker, clock, "F", wait * 1_000_000 - TICK) is OPEN
    clock.now += TICK
    assert breaker.state is HALF_OPEN


@pytest.mark.parametrize(("openings", "wait"), [(1, 10), (2, 20), (3, 40), (4, 50), (5, 50)])
def test_how_long_it_is_open_after_some_openings_in_a_row(make, clock, openings, wait):
    breaker = make(recovery_timeout=10, recovery_backoff=2, recovery_timeout_max=50)
    play(breaker, clock, *("F", 50_000_000) * (openings - 1), "F")
    assert play(breaker, clock, wait * 1_000_000 - TICK) is OPEN
    assert play(breaker, clock, TICK) is HALF_OPEN


@pytest.mark.parametrize("most", [1, 3])
def test_how_many_trials_run_at_once(half_open, most):
    breaker = half_open(half_open_max_calls=most)
    for _ in range(most):
        assert breaker.allows()
        assert not isinstance(breaker.enter(), CircuitOpenError)
    assert not breaker.allows()
    assert isinstance(breaker.enter(), CircuitOpenError)


def test_when_a_permit_is_given_to_another(half_open, clock):
    breaker = half_open(trial_timeout=7)
    breaker.enter()
    clock.now += 7_000_000 - TICK
    assert isinstance(breaker.enter(), CircuitOpenError)
    clock.now += TICK
    assert not isinstance(breaker.enter(), CircuitOpenError)


def test_how_many_successes_close_it(half_open, clock):
    breaker = half_open(success_threshold=3)
    assert play(breaker, clock, "SS") is HALF_OPEN
    assert play(breaker, clock, "S") is CLOSED


@pytest.mark.parametrize(
    ("micros", "chance", "passes"),
    [
        (0, 0.0999, True),
        (0, 0.1, False),
        (10_000_000, 0.0999, True),
        (10_000_000, 0.1, False),
        (50_000_000, 0.4999, True),
        (50_000_000, 0.5, False),
        (100_000_000 - TICK, 0.99999999, False),
        (100_000_000, 1, True),
    ],
)
def test_whom_it_admits_while_it_ramps_up(half_open, clock, micros, chance, passes):
    breaker = half_open(ramp_up=100)
    play(breaker, clock, "S", micros)
    breaker.backend.chance = lambda: chance
    assert isinstance(breaker.enter(), CircuitOpenError) is not passes


@pytest.mark.parametrize(("micros", "state"), [(100_000_000 - TICK, OPEN), (100_000_000, CLOSED)])
def test_until_when_one_failure_is_a_relapse(half_open, clock, micros, state):
    breaker = half_open(failure_threshold=2, ramp_up=100)
    breaker.backend.chance = lambda: 0.0
    assert play(breaker, clock, "S", micros, "F") is state


@pytest.mark.parametrize("mode", ["trip", "disable", "metrics_only"])
def test_until_when_a_mode_is_in_force(make, clock, mode):
    breaker = make()
    getattr(breaker, mode)(duration=5)
    begun = breaker.mode
    clock.now += 5_000_000 - TICK
    assert breaker.mode is begun != "auto"
    clock.now += TICK
    assert breaker.mode == "auto"
