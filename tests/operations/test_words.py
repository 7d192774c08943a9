"""Short words for figures."""

from __future__ import annotations

import pytest
from django.test import override_settings
from django.utils import translation

from circuitbreaker_django.operations import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-1, "0 s"),
        (0.25, "0.25 s"),
        (12.7, "12 s"),
        (60, "1 min"),
        (119, "119 s"),
        (121, "2 min"),
        (3600, "1 h"),
        (5400, "90 min"),
        (86400, "1 d"),
        (200_000, "2 d"),
    ],
)
def test_a_length_is_in_its_largest_fitting_unit(seconds, text):
    assert words.length(seconds) == text


def test_numbers_are_not_formatted_by_the_locale():
    with override_settings(USE_THOUSAND_SEPARATOR=True), translation.override("de"):
        assert words.percent(0.125) == "12.5 %"


def test_who_is_open_alone():
    assert words.alone(0, 4) == ""
    assert words.alone(2, 4) == "open alone in 2 of 4 processes"


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, ""), (0.04, "< 0.1"), (0.26, "0.3"), (9.96, "10.0"), (1234.5, "1234")],
)
def test_a_rate_is_as_exact_as_it_is_small(rate, text):
    assert words.rate(rate) == text


@pytest.mark.parametrize(
    ("share", "limit", "number"),
    [(0.499, 0.5, 49), (0.5, 0.5, 50), (0.125, 0.1, 12), (0, 0.5, 0), (29 / 100, 0.5, 29)],
)
def test_a_share_below_its_limit_never_reads_as_much(share, limit, number):
    assert words.whole_percent(share, limit) == number


def test_an_age_only_grows_coarser():
    assert [words.age(seconds) for seconds in (-1, 59.9, 60, 61, 119, 120, 7199, 7200)] == [
        *("0 s", "59 s", "60 s", "61 s", "119 s", "2 min", "119 min", "2 h")
    ]
