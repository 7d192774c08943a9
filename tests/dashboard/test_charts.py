from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from circuitbreaker_django import CircuitState, Mode
from circuitbreaker_django.backends.store import Stats
from circuitbreaker_django.core.circuit import Event
from circuitbreaker_django.core.traffic import MINUTE, QUARTER, Bucket, Counts
from circuitbreaker_django.dashboard import charts
from circuitbreaker_django.dashboard.charts import SPANS
from circuitbreaker_django.operations.looks import Look

HOUR, DAY = SPANS["hour"], SPANS["day"]
#: On the minute and on the quarter.
NOW = 10_000 * QUARTER


def stats(minutes=(), quarters=(), now=NOW):
    return Stats(
        now,
        1e9,
        tuple(Bucket(now - ago * MINUTE, counts) for ago, counts in minutes),
        tuple(Bucket(now - ago * QUARTER, counts) for ago, counts in quarters),
    )


def boxes(path):
    """Left, top, width and height of each box of a path."""
    found = re.findall(r"M(\S+) (\S+)h(\S+)v(\S+)h-\S+z", path)
    return [tuple(map(float, box)) for box in found]


def points(path):
    return [tuple(map(int, point.split())) for point in path.removeprefix("M").split("L")]


def spark(seen):
    return charts.spark(charts.lately(seen), seen.last_minute)


# -- sparklines -------------------------------------------------------------------------------


def test_without_calls_there_is_no_line():
    assert spark(stats()) == {"spark": "", "spark_bad": ""}


def test_a_line_runs_over_the_last_minutes_up_to_now():
    drawn = spark(stats([(2, Counts(calls=4)), (1, Counts(calls=8))]))
    line = points(drawn["spark"])
    assert len(line) == charts.SPARKS
    assert [x for x, _ in line] == list(range(charts.SPARKS))
    assert [y for _, y in line[-4:-1]] == [100, 50, 0]  # the most is at the top
    assert drawn["spark_bad"] == ""


def test_what_was_before_is_not_in_it():
    seen = stats([(charts.SPARKS, Counts(calls=9)), (charts.SPARKS - 1, Counts(calls=1))])
    assert [y for _, y in points(spark(seen)["spark"])[:2]] == [0, 100]


def test_failures_and_rejections_are_a_line_of_their_own():
    drawn = spark(stats([(1, Counts(calls=6, failures=1, rejected=2))]))
    assert [y for _, y in points(drawn["spark"])[-2:-1]] == [0]
    assert [y for _, y in points(drawn["spark_bad"])[-2:-1]] == [63]


# -- charts -----------------------------------------------------------------------------------


def test_a_bar_has_three_parts_one_upon_the_other():
    drawn = charts.bars(stats([(30, Counts(calls=6, failures=2, slow=1, rejected=4))]), HOUR)
    [ok], [failed], [rejected], [slow] = (boxes(path) for path in drawn.values())
    assert {box[0] for box in (ok, failed, rejected, slow)} == {500}
    assert ok[1:] == (60, 14.2, 40)
    assert failed[1:] == (40, 14.2, 20)
    assert rejected[1:] == (0, 14.2, 40)
    assert slow[1] == 90


def test_what_was_before_the_span_is_cut_off():
    seen = stats([(61, Counts(calls=1)), (60, Counts(calls=1))], now=NOW + MINUTE // 2)
    [box] = boxes(charts.bars(seen, HOUR)["bar_ok"])
    assert box[0] == 0
    assert [start for start, _ in charts.buckets(seen, HOUR)] == [1e9 - 3600]


def test_a_day_is_of_quarters():
    seen = stats([(1, Counts(calls=1))], [(48, Counts(calls=5))])
    [box] = boxes(charts.bars(seen, DAY)["bar_ok"])
    assert box[0] == 500


def test_the_current_bar_ends_now():
    seen = stats([(0, Counts(calls=1))], now=NOW + MINUTE // 2)
    seen = Stats(seen.now, seen.wall, (Bucket(NOW, Counts(calls=1)),))
    [(x, _, width, _)] = boxes(charts.bars(seen, HOUR)["bar_ok"])
    assert x + width <= charts.WIDTH


@pytest.mark.parametrize("minutes", [[], [(1, Counts())]])
def test_without_calls_the_most_is_none_and_there_is_no_bar(minutes):
    seen = stats(minutes)
    assert charts.most_of(charts.buckets(seen, HOUR)) == 0
    assert set(charts.bars(seen, HOUR).values()) == {""}


# -- states -----------------------------------------------------------------------------------

END = datetime(2026, 11, 25, 12, tzinfo=UTC)


def event(minutes_ago, before, after, mode="auto"):
    made = Event(1, 0, CircuitState(before), CircuitState(after), Mode(mode), "")
    return END - timedelta(minutes=minutes_ago), made


def drawn(history, look="closed", span=HOUR):
    paths, lengths = charts.strip(history, Look(look), END, span)
    shown = {
        name.removeprefix("strip_"): [(x, x + width) for x, _, width, _ in boxes(path)]
        for name, path in paths.items()
        if path
    }
    return shown, {str(look): round(length / 60) for look, length in lengths.items()}


def test_where_nothing_has_happened_it_was_what_it_is():
    assert drawn([], "open") == ({"open": [(0, 1000)]}, {"open": 60})


def test_each_event_begins_a_state():
    history = [
        event(6, "half_open", "closed"),
        event(12, "open", "half_open"),
        event(30, "closed", "open"),
    ]
    assert drawn(history) == (
        {"closed": [(0, 500), (900, 1000)], "half_open": [(800, 900)], "open": [(500, 800)]},
        {"closed": 36, "half_open": 6, "open": 18},
    )


def test_what_was_short_is_seen_and_many_changes_are_no_long_path():
    second = 1 / 60
    history = [
        event(30 - second, "open", "closed"),
        event(30, "closed", "open"),
    ]
    shown, _ = drawn(history, span=DAY)
    [(left, right)] = shown["open"]
    assert (right - left, round(left)) == (1, 979)
    busy = [
        event(number * second, *("closed", "open") if number % 2 else ("open", "closed"))
        for number in range(3000)
    ]
    shown, lengths = drawn(busy)
    assert sum(map(len, shown.values())) <= charts.WIDTH
    assert lengths["open"] == pytest.approx(lengths["closed"] - 10, abs=1)


def test_modes_are_seen():
    history = [event(15, "open", "closed"), event(45, "closed", "open", "forced_open")]
    assert drawn(history)[1] == {"closed": 30, "held": 30}


def test_events_before_the_span_say_what_it_began_with():
    history = [event(30, "open", "closed"), event(90, "closed", "open", "forced_open")]
    assert drawn(history)[1] == {"closed": 30, "held": 30}
    assert drawn(history, span=DAY)[1] == {"closed": 30 + 24 * 60 - 90, "held": 60}


def test_an_open_circuit_that_nobody_has_tried_yet_is_half_open_now():
    assert drawn([event(30, "closed", "open")], "half_open")[1] == {"half_open": 30, "closed": 30}


def test_events_of_one_moment_leave_no_gap():
    history = [event(30, "open", "closed"), event(30, "closed", "open")]
    assert drawn(history)[1] == {"closed": 60}


@pytest.mark.parametrize("minutes_ago", [-5, 0])
def test_a_clock_that_was_set_back_draws_nothing_outside(minutes_ago):
    shown, _ = drawn([event(minutes_ago, "closed", "open"), event(30, "open", "closed")], "open")
    assert all(0 <= x <= end <= 1000 for spans in shown.values() for x, end in spans)
