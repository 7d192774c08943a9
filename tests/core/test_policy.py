from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from math import inf, nan
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.core.policy import POLICY_FIELDS, Policy, micros, seconds
from circuitbreaker_django.core.states import Mode

COUNTS = [
    "failure_threshold",
    "consecutive_failures",
    "quorum",
    "half_open_max_calls",
    "success_threshold",
]
DURATIONS = ["failure_window", "recovery_timeout", "trial_timeout"]
OPTIONAL_DURATIONS = ["slow_call_duration", "recovery_timeout_max"]
SHARES = ["failure_rate_threshold", "slow_call_rate_threshold"]
RANGES = {"recovery_backoff": (1, 100), "recovery_jitter": (0, 1), "ramp_up": (0, 10**9)}


def made(**options: Any) -> Policy:
    return Policy(**options)


def test_the_defaults_are_those_of_the_documentation():
    assert asdict(Policy()) == {
        "failure_threshold": 5,
        "failure_window": 60.0,
        "failure_rate_threshold": None,
        "slow_call_duration": None,
        "slow_call_rate_threshold": 1.0,
        "minimum_calls": 10,
        "consecutive_failures": None,
        "quorum": 1,
        "recovery_timeout": 30.0,
        "recovery_backoff": 1.0,
        "recovery_timeout_max": None,
        "recovery_jitter": 0.0,
        "half_open_max_calls": 1,
        "success_threshold": 1,
        "trial_timeout": 60.0,
        "ramp_up": 0.0,
        "initial_mode": "auto",
    }
    assert set(POLICY_FIELDS) == {
        *COUNTS,
        *DURATIONS,
        *OPTIONAL_DURATIONS,
        *SHARES,
        *RANGES,
        "minimum_calls",
        "initial_mode",
    }


def test_a_breaker_passes_its_arguments_on_to_its_policy():
    breaker = CircuitBreaker(failure_threshold=1, quorum=2, initial_mode="disabled")
    assert breaker.policy == Policy(failure_threshold=1, quorum=2, initial_mode=Mode.DISABLED)


@pytest.mark.parametrize("make", [Policy, CircuitBreaker])
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [True, 1.0, "5", Decimal(5), timedelta(5), nan, inf])
def test_a_count_that_is_no_whole_number_is_a_type_error(make, name, value):
    with pytest.raises(TypeError, match=f"^{name} must be a whole number from 1 to 1000, not "):
        make(**{name: value})


@pytest.mark.parametrize("make", [Policy, CircuitBreaker])
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1001, 10**400])
def test_a_count_out_of_range_is_a_value_error(make, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number from 1 to 1000, not "):
        make(**{name: value})


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [1, 1000])
def test_the_ends_of_a_count_s_range_are_allowed(name, value):
    assert getattr(Policy(**{name: value}), name) == value


def test_1001_failures_are_refused_with_the_advice_to_use_a_rate():
    with pytest.raises(ValueError, match=r"1001: for more than that use a failure rate$"):
        Policy(failure_threshold=1001)


def test_0_failures_are_refused_without_that_advice():
    with pytest.raises(ValueError, match=r"not 0$"):
        Policy(failure_threshold=0)


def test_1001_of_another_count_are_refused_without_that_advice():
    with pytest.raises(ValueError, match=r"not 1001$"):
        Policy(quorum=1001)


@pytest.mark.parametrize("make", [Policy, CircuitBreaker])
@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [True, False, "5", None, Decimal(5), 1j, [1]])
def test_a_duration_that_is_no_number_is_a_type_error(make, name, value):
    with pytest.raises(TypeError, match=f"^{name} must be a number of seconds from 0.000001 to "):
        make(**{name: value})


@pytest.mark.parametrize("name", DURATIONS)
def test_a_timedelta_is_a_type_error_that_says_what_to_write(name):
    with pytest.raises(TypeError, match=f"^{name} .*not a timedelta: write 90$"):
        Policy(**{name: timedelta(seconds=90)})  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [Policy, CircuitBreaker])
@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [0, 0.0, -0.0, -1, -0.5, nan, inf, -inf, 1e308, 1e-9, 5e-324])
def test_a_duration_out_of_range_is_a_value_error(make, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a number of seconds from 0.000001 to "):
        make(**{name: value})


@pytest.mark.parametrize("name", DURATIONS)
def test_an_integer_too_large_for_a_float_is_a_value_error(name):
    with pytest.raises(ValueError, match=f"^{name} must be a number of seconds"):
        made(**{name: 10**400})


@pytest.mark.parametrize(
    ("name", "most"),
    [("failure_window", 10**9), ("recovery_timeout", 10**9), ("trial_timeout", 3600)],
)
def test_the_longest_duration_is_allowed_and_named_when_exceeded(name, most):
    assert getattr(Policy(**{name: most}), name) == most
    with pytest.raises(ValueError, match=f"to {most}, not"):
        Policy(**{name: most + 0.001})


@pytest.mark.parametrize("name", DURATIONS)
def test_the_shortest_duration_is_a_microsecond(name):
    shortest: dict[str, Any] = {name: 1e-6}
    assert micros(getattr(Policy(**shortest), name)) == 1


def test_seconds_and_microseconds():
    assert micros(1.5) == 1_500_000
    assert micros(1e-6) == 1
    assert seconds(1_500_000) == 1.5


def test_a_policy_cannot_be_changed():
    with pytest.raises(AttributeError):
        Policy().failure_threshold = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", OPTIONAL_DURATIONS)
def test_a_duration_that_may_be_left_out_is_checked_where_it_is_given(name):
    with pytest.raises(ValueError, match=f"^{name} must be a number of seconds"):
        made(**{name: 0})
    assert getattr(made(**{name: 90}), name) == 90


@pytest.mark.parametrize("name", SHARES)
def test_a_share_is_above_0_and_up_to_1(name):
    wrong: Any
    for wrong in (0, -0.1, 1.0001, nan, inf):
        with pytest.raises(ValueError, match=f"^{name} must be a number above 0 and up to 1, not "):
            made(**{name: wrong})
    for wrong in (True, "0.5", Decimal("0.5")):
        with pytest.raises(TypeError, match=f"^{name} must be a number above 0 and up to 1, not "):
            made(**{name: wrong})
    for right in (1e-9, 0.5, 1):
        assert getattr(made(**{name: right}), name) == right


@pytest.mark.parametrize("name", RANGES)
def test_a_number_of_a_range_may_be_its_ends(name):
    wrong: Any
    least, most = RANGES[name]
    for wrong in (least - 0.001, most + 0.001, nan):
        with pytest.raises(ValueError, match=f"^{name} must be a number from {least} to {most}, "):
            made(**{name: wrong})
    for wrong in (True, "1", None):
        with pytest.raises(TypeError, match=f"^{name} must be a number from {least} to {most}, "):
            made(**{name: wrong})
    for right in (least, most):
        assert getattr(made(**{name: right}), name) == right


def test_a_rate_may_wait_for_a_million_calls():
    assert Policy(minimum_calls=1_000_000).minimum_calls == 1_000_000
    with pytest.raises(
        ValueError, match=r"^minimum_calls must be a whole number from 1 to 1000000"
    ):
        Policy(minimum_calls=1_000_001)


def test_five_failures_open_a_circuit_unless_another_rule_is_set():
    assert Policy().failure_threshold == 5
    assert Policy(slow_call_rate_threshold=0.5, minimum_calls=3).failure_threshold == 5
    for other in ("failure_rate_threshold", "slow_call_duration", "consecutive_failures"):
        assert made(**{other: 1}).failure_threshold is None
        assert made(**{other: 1, "failure_threshold": 3}).failure_threshold == 3


def test_what_makes_successes_matter():
    assert not Policy().counts_successes
    for rule in ("failure_rate_threshold", "slow_call_duration"):
        assert made(**{rule: 1}).has_rates
        assert made(**{rule: 1}).counts_successes
    assert Policy(consecutive_failures=1).counts_successes
    assert not Policy(consecutive_failures=1).has_rates


def test_the_longest_wait_is_that_of_the_backoff_and_its_jitter():
    assert Policy(recovery_timeout=7).longest_wait == 70
    assert Policy(recovery_timeout=7, recovery_backoff=2).longest_wait == 70
    assert Policy(recovery_timeout=7, recovery_timeout_max=20).longest_wait == 20
    assert Policy(recovery_timeout=7, recovery_timeout_max=5).longest_wait == 7
    jittered = Policy(recovery_timeout=8, recovery_timeout_max=8, recovery_jitter=0.5)
    assert jittered.longest_wait == 12


@pytest.mark.parametrize("mode", Mode)
def test_a_mode_may_be_given_as_its_word(mode):
    assert Policy(initial_mode=mode).initial_mode is mode
    assert Policy(initial_mode=str(mode)).initial_mode is mode


@pytest.mark.parametrize("mode", ["open", "", None, True, 3, ["auto"]])
def test_a_mode_that_is_none_is_refused_with_those_there_are(mode):
    with pytest.raises(ValueError, match=r"^initial_mode must be one of 'auto', 'forced_open', "):
        Policy(initial_mode=mode)
