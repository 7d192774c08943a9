from __future__ import annotations

from typing import get_type_hints

import pytest

from circuitbreaker_django import CircuitBreaker, Mode
from circuitbreaker_django.core import options
from circuitbreaker_django.core.classify import Classifier
from circuitbreaker_django.core.policy import POLICY_FIELDS, Policy

JUDGING = {
    "exceptions": [OSError],
    "ignore_exceptions": "ConnectionError",
    "failure_predicate": bool,
    "result_predicate": "json.loads",
    "retry_after": len,
}


def test_an_option_is_a_number_of_the_policy_or_one_of_the_classifier():
    named = get_type_hints(options.BreakerOptions)
    assert list(options.TEXTS) == list(named)
    assert set(named) == {*POLICY_FIELDS, *JUDGING}


def test_every_option_is_documented_in_a_sentence():
    assert all(text.endswith(".") for text in options.TEXTS.values())


def test_no_options_are_the_defaults():
    assert options.make({}) == (Policy(), Classifier())


def test_options_become_a_policy_and_a_classifier():
    policy, classifier = options.make({"failure_rate_threshold": 0.5, "quorum": 2, **JUDGING})
    assert policy == Policy(failure_rate_threshold=0.5, quorum=2)
    assert classifier == Classifier(
        OSError, [ConnectionError], bool, "json.loads", retry_after="builtins.len"
    )


def test_a_breaker_takes_them_all():
    given = {**{key: getattr(Policy(), key) for key in POLICY_FIELDS}, "quorum": 3, **JUDGING}
    breaker = CircuitBreaker("payments", **given)
    assert (breaker.policy, breaker.classifier) == options.make(given)
    assert breaker.policy.quorum == 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"failure_treshold": 5}, "^'failure_treshold' is no option of a breaker; did you mean "
         "'failure_threshold'[?]$"),
        ({"ignored_exceptions": ()}, "did you mean 'ignore_exceptions'[?]$"),
        ({"xyz": 5}, "^'xyz' is no option of a breaker$"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [options.make, lambda given: CircuitBreaker(**given)])
def test_an_unknown_option_is_a_type_error_that_names_the_nearest(make, wrong, words):
    with pytest.raises(TypeError, match=words):
        make(wrong)


def test_in_code_a_key_that_is_no_string_is_unknown_too():
    with pytest.raises(TypeError, match=r"^5 is no option of a breaker$"):
        options.make({5: 5})  # type: ignore[dict-item]


def test_the_policy_alone_is_made_once_of_the_same_numbers():
    policy = options.make_policy({"quorum": 2, **JUDGING})
    assert policy == Policy(quorum=2)
    assert options.make_policy({"exceptions": [KeyError], "quorum": 2}) is policy


@pytest.mark.parametrize("value", [1.0, True])
def test_the_policy_alone_refuses_what_equals_a_count_and_is_none(value):
    assert options.make_policy({"quorum": 1}) == Policy()
    with pytest.raises(TypeError, match="quorum"):
        options.make_policy({"quorum": value})


def test_they_can_be_told_as_plain_values():
    policy, classifier = options.make({"initial_mode": "metrics_only", **JUDGING})
    data = options.as_data(policy, classifier)
    assert list(data) == list(options.TEXTS)
    assert data["failure_threshold"] == 5
    assert data["initial_mode"] is Mode.METRICS_ONLY
    assert data["exceptions"] == ["builtins.OSError"]
    assert data["ignore_exceptions"] == ["builtins.ConnectionError"]
    assert data["failure_predicate"] == "builtins.bool"
    assert data["result_predicate"] == "json.loads"
    assert data["retry_after"] == "builtins.len"


def test_only_the_nearest_name_is_told():
    assert options.nearest("trip", ["trap", "trips", "reset"]) == "; did you mean 'trips'?"
