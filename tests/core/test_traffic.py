from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitbreaker_django.backends.store import Stats
from circuitbreaker_django.core import traffic
from circuitbreaker_django.core.traffic import KEPT, MINUTE, NOTHING, QUARTER, Bucket, Counts

NOW = 1000 * QUARTER + 30_000_000
widths = st.sampled_from([MINUTE, QUARTER])
counts = st.builds(Counts, *[st.integers(0, 10**6)] * 5)
times = st.integers(0, 10**15)
ages = st.integers(-MINUTE, 2 * 86400 * 1_000_000)


def test_an_hour_of_minutes_and_a_day_of_quarters():
    assert {width * number // 1_000_000 for width, number in KEPT.items()} == {3600, 86400}


@given(counts, ages, widths, times)
def test_what_is_shared_out_is_all_that_was_counted_while_buckets_are_kept(counts, age, width, now):
    shares = list(traffic.shares(counts, age, width, now))
    shared = traffic.total(shares)
    assert len(shares) <= KEPT[width]
    others = sum(len(list(traffic.shares(counts, age, other, now))) for other in KEPT)
    assert others <= traffic.buckets_due(age) <= sum(KEPT.values())
    if age < (KEPT[width] - 1) * width:
        assert shared == counts
    else:
        assert all(part <= whole for part, whole in zip(shared, counts, strict=True))
    for start, share in shares:
        assert start % width == 0
        assert any(share)
        assert max(traffic.oldest(width, now), now - max(age, 0) - width) <= start <= now


def test_what_was_counted_within_a_bucket_is_in_that_bucket():
    five = Counts(5, 4, 3, 2, 1)
    assert list(traffic.shares(five, 5, MINUTE, NOW)) == [Bucket(NOW - 30_000_000, five)]


def test_what_was_counted_at_the_beginning_of_a_bucket_is_not_in_that_before():
    assert list(traffic.shares(Counts(5), 0, MINUTE, MINUTE)) == [Bucket(MINUTE, Counts(5))]


def test_what_was_counted_over_several_is_spread_evenly():
    shares = traffic.shares(Counts(10, 1), 2 * MINUTE, MINUTE, NOW)
    assert [share for _, share in shares] == [Counts(3), Counts(3), Counts(4, 1)]


def test_of_what_was_counted_for_longer_than_is_kept_a_part_is_shared_out():
    shares = list(traffic.shares(Counts(1200), 119 * MINUTE, MINUTE, NOW))
    assert [share.calls for _, share in shares] == [10] * 60


@given(st.lists(st.tuples(st.integers(0, 10**8), counts), max_size=20), widths)
def test_buckets_are_summed_and_ascending_and_no_more_than_are_kept(told, width):
    kept: traffic.Buckets = {}
    now = 0
    for passed, more in told:
        now += passed
        kept = traffic.add(kept, traffic.shares(more, 0, width, now), width, now)
        newest = traffic.newest(kept, width, now)
        assert list(newest) == sorted(newest) == [Bucket(*item) for item in kept.items()]
        assert len(kept) <= KEPT[width]


@pytest.mark.parametrize("into", [0, MINUTE - 1])
def test_what_is_added_counts_with_what_is_kept_of_the_last_hour(into):
    current = 1000 * MINUTE
    kept = {current - number * MINUTE: Counts(9, 3) for number in (60, 59, 0)}
    added = traffic.add(kept, [Bucket(current, Counts(1))], MINUTE, current + into)
    assert added == {current - 59 * MINUTE: Counts(9, 3), current: Counts(10, 3)}


def test_only_as_many_of_the_newest_as_are_asked_for():
    kept = {number * MINUTE: Counts(number) for number in range(1, 6)}
    newest = traffic.newest(kept, MINUTE, 5 * MINUTE, 2)
    assert newest == (Bucket(4 * MINUTE, Counts(4)), Bucket(5 * MINUTE, Counts(5)))


def test_a_bucket_of_the_future_is_nobodys():
    assert traffic.newest({NOW + 1: Counts(1)}, MINUTE, NOW) == ()


def test_counters_that_have_lost_a_race_do_not_count_backwards():
    assert traffic.minus(Counts(5, 1), Counts(6, 1)) == NOTHING
    assert traffic.minus(Counts(7, 1), Counts(5)) == Counts(2, 1)


@pytest.mark.parametrize(
    ("before", "current", "into", "expected"),
    [
        (60, 0, 0, 60),
        (60, 0, 15, 45),
        (60, 10, 30, 40),
        (0, 10, 59, 10),
        (60, 7, 59, 8),
    ],
)
def test_the_last_minute_is_the_current_one_and_a_part_of_that_before(
    before, current, into, expected
):
    start = 1000 * MINUTE
    minutes = [
        Bucket(start - 2 * MINUTE, Counts(999)),
        Bucket(start - MINUTE, Counts(before)),
        Bucket(start, Counts(current)),
    ]
    stats = Stats(start + into * 1_000_000, 5000.0, tuple(minutes))
    assert stats.last_minute == Counts(expected)
    assert stats.calls_per_second == expected / 60
    assert stats.last_hour == Counts(999 + before + current)
    assert stats.wall_time(minutes[1]) == 5000 - into - 60


def test_where_nothing_was_counted_all_is_nothing():
    stats = Stats(NOW, 5000.0)
    assert (stats.last_minute, stats.last_hour, stats.calls_per_second) == (NOTHING, NOTHING, 0)
