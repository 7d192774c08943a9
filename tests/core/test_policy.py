from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from math import inf, nan
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.core.policy import POLICY_FIELDS, Policy, micros, seconds

COUNTS = ["failure_threshold", "half_open_max_calls", "success_threshold"]
DURATIONS = ["failure_window", "recovery_timeout", "trial_timeout"]


def test_the_defaults_are_those_of_the_documentation():
    assert Policy() == Policy(5, 60.0, 30.0, 1, 1, 60.0)
    assert set(POLICY_FIELDS) == {*COUNTS, *DURATIONS}


def test_a_breaker_passes_its_arguments_on_to_its_policy():
    breaker = CircuitBreaker(
        failure_threshold=1,
        failure_window=2,
        recovery_timeout=3,
        half_open_max_calls=4,
        success_threshold=5,
        trial_timeout=6,
    )
    assert breaker.policy == Policy(1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("make", [Policy, CircuitBreaker])
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [True, 1.0, "5", None, Decimal(5), timedelta(5), nan, inf])
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
        Policy(**{name: 10**400})


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


def test_no_wait_is_longer_than_the_recovery_timeout():
    assert Policy(recovery_timeout=7).recovery_timeout_max == 7
