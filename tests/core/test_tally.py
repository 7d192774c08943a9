from __future__ import annotations

from math import inf

from circuitbreaker_django.core.policy import MICROS, Policy
from circuitbreaker_django.core.tally import TELL_EVERY, Tally, seconds_of
from circuitbreaker_django.core.window import Slice
from tests.clock import Clock

SECOND = 1_000_000
NOW = 1000 * SECOND
POLICY = Policy(failure_rate_threshold=0.5, minimum_calls=3, failure_window=10)


def tally_of(policy: Policy = POLICY) -> Tally:
    return Tally(policy, lambda: 0)


def test_a_new_tally_lets_nobody_pass_by_before_the_first_look():
    assert tally_of().due == -inf


def test_slow_is_what_takes_as_long_as_the_policy_says():
    assert tally_of().limit is None
    assert tally_of(Policy(slow_call_duration=2)).limit == 2


def test_calls_are_counted_in_slices_of_a_tenth_of_the_window():
    tally = tally_of()
    tally.count(NOW, failed=True, slow=False)
    tally.count(NOW + SECOND - 1, failed=False, slow=True)
    tally.count(NOW + SECOND, failed=False, slow=False)
    assert tally.slices(NOW + SECOND) == (Slice(NOW, 2, 1, 1), Slice(NOW + SECOND, 1, 0, 0))


def test_what_has_passed_by_belongs_to_the_slice_that_it_passed_in_also_after_idle_times():
    tally = tally_of()
    tally.count(NOW, failed=False, slow=False)
    tally.calls += 4
    assert tally.slices(NOW + 9 * SECOND) == (Slice(NOW, 5),)
    assert tally.slices(NOW + 10 * SECOND) == ()
    assert tally.calls == 0


def test_nothing_is_told_twice():
    tally = tally_of()
    tally.count(NOW, failed=True, slow=False)
    assert tally.untold(NOW) == (Slice(NOW, 1, 1),)
    assert tally.untold(NOW) == ()
    tally.calls += 2
    tally.count(NOW + SECOND, failed=False, slow=True)
    assert tally.untold(NOW + SECOND) == (Slice(NOW, 2), Slice(NOW + SECOND, 1, 0, 1))


def test_it_tells_four_times_a_second_at_most():
    tally = tally_of()
    assert tally.may_tell(NOW)
    tally.untold(NOW)
    assert not tally.may_tell(NOW + TELL_EVERY - 1)
    assert tally.may_tell(NOW + TELL_EVERY)


def test_it_is_suspect_while_a_failure_or_a_slow_call_is_in_the_window():
    for failed, slow in ((True, False), (False, True)):
        tally = tally_of()
        tally.count(NOW, failed=False, slow=False)
        assert not tally.is_suspect(NOW)
        tally.count(NOW, failed=failed, slow=slow)
        assert tally.is_suspect(NOW + 10 * SECOND - 1)
        assert not tally.is_suspect(NOW + 10 * SECOND)


def test_calls_pass_by_until_the_end_of_the_slice():
    tally = tally_of()
    tally.wait(NOW + SECOND // 2, suspect=False)
    assert tally.due == (NOW + SECOND) / MICROS


def test_while_it_is_suspect_calls_pass_by_until_it_is_time_to_tell():
    tally = tally_of()
    for _ in range(3):
        tally.count(NOW, failed=True, slow=False)
    tally.untold(NOW)
    tally.wait(NOW, suspect=True)
    assert tally.due == (NOW + TELL_EVERY) / MICROS


def test_the_call_that_makes_a_rate_count_does_not_pass_by():
    tally = tally_of()
    tally.count(NOW, failed=True, slow=False)
    tally.untold(NOW)
    tally.wait(NOW, suspect=True)
    assert tally.due == NOW / MICROS


def test_a_success_after_a_failure_does_not_pass_by_where_rows_count():
    tally = tally_of(Policy(consecutive_failures=3))
    tally.count(NOW, failed=True, slow=False)
    assert tally.streak == 1
    tally.wait(NOW, suspect=False)
    assert tally.due == NOW / MICROS
    tally.count(NOW, failed=False, slow=False)
    assert tally.streak == 0
    tally.wait(NOW, suspect=False)
    assert tally.due > NOW / MICROS


def test_a_clock_of_microseconds_as_one_of_seconds():
    clock = Clock()
    assert seconds_of(clock)() == clock.now / MICROS


def test_a_new_tally_has_counted_nothing_and_told_nobody():
    tally = tally_of()
    assert (tally.calls, tally.streak, tally.slices(NOW)) == (0, 0, ())
    assert tally.may_tell(TELL_EVERY)
    assert not tally.may_tell(TELL_EVERY - 1)


def test_of_a_slice_that_was_told_of_the_rest_is_told():
    tally = tally_of()
    tally.count(NOW, failed=True, slow=True)
    tally.untold(NOW)
    for failed, slow in ((True, False), (False, True), (False, True)):
        tally.count(NOW, failed=failed, slow=slow)
    assert tally.untold(NOW) == (Slice(NOW, 3, 1, 2),)
    tally.count(NOW, failed=False, slow=False)
    assert tally.untold(NOW) == (Slice(NOW, 1),)


def test_a_slice_begins_at_a_whole_microsecond():
    assert tally_of(Policy(failure_rate_threshold=0.5, failure_window=1.00001))._start(7) == 0
    width = 100_001
    tally = tally_of(Policy(failure_rate_threshold=0.5, failure_window=1.000019))
    tally.count(width, failed=False, slow=False)
    assert tally.slices(width) == (Slice(width, 1),)
