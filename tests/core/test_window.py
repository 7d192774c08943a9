from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from circuitbreaker_django.core import window
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.window import Slice

SECOND = 1_000_000
POLICY = Policy(failure_threshold=3, failure_window=10)


def tripped(failures: tuple[int, ...], policy: Policy, now: int) -> bool:
    return window.why_tripped(failures, (), 0, policy, now) is not None


def test_the_newest_failures_are_kept_in_order():
    assert window.add((1, 5), [3, 9], POLICY) == (3, 5, 9)
    assert window.add((), [], POLICY) == ()
    assert window.add((4,), iter([2]), POLICY) == (2, 4)


def test_a_failure_counts_until_it_is_as_old_as_the_window():
    assert window.live((1, 2), POLICY, 10 * SECOND) == (1, 2)
    assert window.live((1, 2), POLICY, 10 * SECOND + 1) == (2,)
    assert window.live((1, 2), POLICY, 10 * SECOND + 2) == ()


def test_it_trips_when_the_oldest_of_the_newest_is_younger_than_the_window():
    assert tripped((1, 2, 3), POLICY, 10 * SECOND)
    assert not tripped((1, 2, 3), POLICY, 10 * SECOND + 1)
    assert not tripped((2, 3), POLICY, 3)
    assert not tripped((), POLICY, 3)


def test_only_the_newest_failures_decide_where_another_policy_has_kept_more():
    assert tripped((0, 1, 2, 3), POLICY, 10 * SECOND)
    assert not tripped((1, 2, 3, 4, 5), POLICY, 10 * SECOND + 3)


@given(
    st.lists(st.integers(0, 100), max_size=40),
    st.integers(1, 8),
    st.integers(1, 30),
)
def test_it_is_exact_though_only_the_threshold_s_number_is_kept(times, threshold, length):
    policy = Policy(failure_threshold=threshold, failure_window=length)
    kept: tuple[int, ...] = ()
    seen: list[int] = []
    for time in sorted(times):
        now = time * SECOND
        seen.append(now)
        kept = window.add(kept, [now], policy)
        assert len(kept) <= threshold
        within = [other for other in seen if now - other < length * SECOND]
        assert tripped(kept, policy, now) == (len(within) >= threshold)


# -- rates ------------------------------------------------------------------------------------

RATE = Policy(failure_rate_threshold=0.5, minimum_calls=4, failure_window=10)
SLOW = Policy(slow_call_duration=2, slow_call_rate_threshold=0.5, minimum_calls=4)
NOW = 1000 * SECOND


def why(policy: Policy, *slices: Slice, streak: int = 0, now: int = NOW) -> str | None:
    return window.why_tripped((), slices, streak, policy, now)


def test_a_rate_trips_when_it_is_reached():
    assert why(RATE, Slice(NOW, 4, 1)) is None
    assert why(RATE, Slice(NOW, 4, 2)) == "2 of 4 calls failed within 10 s"


def test_a_rate_waits_for_the_minimum_of_calls():
    assert why(RATE, Slice(NOW, 3, 3)) is None
    assert why(RATE, Slice(NOW - SECOND, 2, 1), Slice(NOW, 2, 2)) is not None


def test_a_rate_of_1_is_reached_by_failures_alone():
    policy = Policy(failure_rate_threshold=1, minimum_calls=3)
    assert why(policy, Slice(NOW, 3, 3)) is not None
    assert why(policy, Slice(NOW, 300, 299)) is None


def test_a_share_is_exact_where_it_has_no_exact_number():
    policy = Policy(failure_rate_threshold=0.1, minimum_calls=1)
    assert why(policy, Slice(NOW, 30, 3)) is not None
    assert why(policy, Slice(NOW, 31, 3)) is None


def test_calls_older_than_the_window_do_not_count():
    old = Slice(NOW - 10 * SECOND, 4, 4)
    assert why(RATE, old) is None
    assert why(RATE, old, now=NOW - 1) is not None


def test_slow_calls_trip_when_their_rate_is_reached():
    assert why(SLOW, Slice(NOW, 4, 4, 1)) is None
    assert why(SLOW, Slice(NOW, 4, 0, 2)) == "2 of 4 calls took 2 s or longer within 60 s"
    assert why(RATE, Slice(NOW, 4, 0, 4)) is None


def test_a_row_of_failures_trips_when_it_is_long_enough():
    policy = Policy(consecutive_failures=3)
    assert why(policy, streak=2) is None
    assert why(policy, streak=3) == "3 failures in a row"
    assert why(Policy(consecutive_failures=2), streak=2) == "2 failures in a row"
    assert why(Policy(consecutive_failures=1), streak=1) == "1 failure in a row"
    assert why(RATE, streak=99) is None


def test_without_a_number_of_failures_none_are_kept():
    assert window.add((1,), [2], RATE) == ()


def test_slices_are_summed_by_their_beginning_and_forgotten_after_the_window():
    merged = window.merge(
        [Slice(NOW - 10 * SECOND, 9), Slice(NOW - SECOND, 1, 1)],
        [Slice(NOW, 1), Slice(NOW - SECOND, 2, 1, 2)],
        RATE,
        NOW,
    )
    assert merged == (Slice(NOW - SECOND, 3, 2, 2), Slice(NOW, 1))
    assert window.total(merged, RATE, NOW) == Slice(NOW - 10 * SECOND, 4, 2, 2)


def test_slices_are_bounded_however_others_cut_theirs():
    many = [Slice(NOW + number, 1) for number in range(1000)]
    kept = window.merge([], many, RATE, NOW + 1000)
    assert len(kept) == window.MAX_SLICES
    assert kept[-1] == many[-1]


def test_a_slice_is_a_tenth_of_the_window_and_at_least_a_microsecond():
    assert window.width(RATE) == SECOND
    assert window.width(Policy(failure_window=1.000019)) == 100_001
    assert window.width(Policy(failure_window=1e-6)) == 1
    assert window.slice_start(RATE, NOW + SECOND - 1) == NOW
