from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from circuitbreaker_django.core import window
from circuitbreaker_django.core.policy import Policy

SECOND = 1_000_000
POLICY = Policy(failure_threshold=3, failure_window=10)


def test_the_newest_failures_are_kept_in_order():
    assert window.add((1, 5), [3, 9], POLICY) == (3, 5, 9)
    assert window.add((), [], POLICY) == ()
    assert window.add((4,), iter([2]), POLICY) == (2, 4)


def test_a_failure_counts_until_it_is_as_old_as_the_window():
    assert window.live((1, 2), POLICY, 10 * SECOND) == (1, 2)
    assert window.live((1, 2), POLICY, 10 * SECOND + 1) == (2,)
    assert window.live((1, 2), POLICY, 10 * SECOND + 2) == ()


def test_it_trips_when_the_oldest_of_the_newest_is_younger_than_the_window():
    assert window.tripped((1, 2, 3), POLICY, 10 * SECOND)
    assert not window.tripped((1, 2, 3), POLICY, 10 * SECOND + 1)
    assert not window.tripped((2, 3), POLICY, 3)
    assert not window.tripped((), POLICY, 3)


def test_only_the_newest_failures_decide_where_another_policy_has_kept_more():
    assert window.tripped((0, 1, 2, 3), POLICY, 10 * SECOND)
    assert not window.tripped((1, 2, 3, 4, 5), POLICY, 10 * SECOND + 3)


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
        assert window.tripped(kept, policy, now) == (len(within) >= threshold)
