"""Rates, rows of failures, ramp-up and modes, as callers and operators meet them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState, Mode
from circuitbreaker_django.core.states import Outcome
from tests.clock import Clock
from tests.core.calls import Down, afail, aok, fail, failing, ok

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
RATE = {"failure_threshold": None, "failure_rate_threshold": 0.5, "minimum_calls": 4}
SLOW = {"failure_threshold": None, "slow_call_duration": 2, "minimum_calls": 2}


class Service:
    """Calls of one breaker, in one form; each may fail, and takes as long as it is told to."""

    def __init__(self, breaker: CircuitBreaker, clock: Clock) -> None:
        self.breaker, self.clock = breaker, clock
        self.work = breaker(self.answer)
        self.async_work = breaker(self.async_answer)

    def answer(self, failed: bool = False, seconds: float = 0) -> str:
        self.clock.advance(seconds)
        if failed:
            raise Down
        return "ok"

    async def async_answer(self, failed: bool = False, seconds: float = 0) -> str:
        return self.answer(failed, seconds)


def by_decorator(service: Service, *args: Any) -> Any:
    return service.work(*args)


def by_async_decorator(service: Service, *args: Any) -> Any:
    return asyncio.run(service.async_work(*args))


def by_call(service: Service, *args: Any) -> Any:
    return service.breaker.call(service.answer, *args)


def by_with(service: Service, *args: Any) -> Any:
    with service.breaker:
        return service.answer(*args)


@pytest.fixture(params=[by_decorator, by_async_decorator, by_call, by_with])
def run(request, make, clock):
    """Makes a breaker and says how to call it: ``run(breaker, failed, seconds)``."""
    services: dict[int, Service] = {}

    def run(breaker: CircuitBreaker, failed: bool = False, seconds: float = 0) -> Any:
        service = services.setdefault(id(breaker), Service(breaker, clock))
        try:
            return request.param(service, failed, seconds)
        except Down:
            return "failed"

    return run


# -- rates ------------------------------------------------------------------------------------


def test_a_rate_opens_it_when_it_is_reached(make, run):
    breaker = make(**RATE)
    for failed in (False, False, True):
        run(breaker, failed)
    assert breaker.state is CLOSED
    run(breaker, True)
    assert breaker.state is OPEN
    assert breaker.backend.events()[0][1].cause == "2 of 4 calls failed within 60 s"


def test_the_last_call_of_the_minimum_may_be_a_success(make, run):
    breaker = make(**RATE)
    for failed in (True, True, False):
        run(breaker, failed)
    assert breaker.state is CLOSED
    run(breaker)
    assert breaker.state is OPEN


def test_many_successes_keep_it_closed(make, run):
    breaker = make(**RATE)
    for _ in range(20):
        run(breaker)
    for _ in range(19):
        run(breaker, True)
    assert breaker.state is CLOSED
    run(breaker, True)
    assert breaker.state is OPEN


def test_successes_older_than_the_window_count_no_more_also_after_idle_times(make, run, clock):
    breaker = make(**RATE)
    for _ in range(20):
        run(breaker)
    clock.advance(60)
    for _ in range(4):
        run(breaker, True)
    assert breaker.state is OPEN


def test_failures_older_than_the_window_count_no_more(make, run, clock):
    breaker = make(**RATE)
    for _ in range(3):
        run(breaker, True)
    clock.advance(60)
    run(breaker)
    assert breaker.state is CLOSED


def test_a_healthy_breaker_writes_nothing(make, run):
    breaker = make(**RATE)
    for _ in range(100):
        run(breaker)
    assert breaker.backend.overview().circuits == {}


def test_ignored_calls_are_in_no_rate(make):
    breaker = make(**RATE, exceptions=(Down,))
    for _ in range(10):
        with pytest.raises(ValueError):
            breaker.call(fail, ValueError)
    for _ in range(3):
        failing(breaker)
    assert breaker.state is CLOSED
    failing(breaker)
    assert breaker.state is OPEN


def test_slow_calls_open_it_though_they_succeed(make, run):
    breaker = make(**SLOW)
    run(breaker, False, 2)
    assert breaker.state is CLOSED
    run(breaker, False, 2)
    assert breaker.state is OPEN
    assert "took 2 s or longer" in breaker.backend.events()[0][1].cause


def test_a_call_that_is_just_not_slow_is_not(make, run):
    breaker = make(**SLOW)
    for _ in range(9):
        run(breaker, False, 1.999)
    assert breaker.state is CLOSED


def test_slow_failures_are_slow_too(make, run):
    breaker = make(**SLOW)
    for _ in range(2):
        run(breaker, True, 3)
    assert breaker.state is OPEN


def test_a_slow_trial_does_not_close_it(make, run, clock):
    breaker = make(**SLOW)
    breaker.trip()
    clock.advance(30)
    assert run(breaker, False, 2) == "ok"
    assert breaker.state is OPEN
    clock.advance(30)
    assert run(breaker) == "ok"
    assert breaker.state is CLOSED


def test_failures_in_a_row_open_it_and_a_success_begins_anew(make, run):
    breaker = make(failure_threshold=None, consecutive_failures=3)
    for failed in (True, True, False, True, True):
        run(breaker, failed)
    assert breaker.state is CLOSED
    run(breaker, True)
    assert breaker.state is OPEN


def test_a_row_makes_nobody_tell_of_successes(make, clock):
    breaker = make(failure_threshold=None, consecutive_failures=3)
    failing(breaker)
    told: list[Any] = []
    breaker.backend._deliver = lambda *args: told.append(args)
    for _ in range(20):
        clock.advance(1)
        breaker.call(ok)
    assert told == []


def test_the_window_of_a_rate_is_empty_after_a_recovery(make, run, clock):
    breaker = make(**RATE)
    for _ in range(4):
        run(breaker, True)
    clock.advance(30)
    run(breaker)
    for _ in range(3):
        run(breaker, True)
    assert breaker.state is CLOSED


def test_another_policy_counts_anew(make):
    breaker = make(**RATE)
    failing(breaker)
    other = make(**{**RATE, "minimum_calls": 3}).policy
    breaker.policy = other
    breaker.view.shut()
    breaker.call(ok)
    assert breaker.view.tally.policy is other


def test_one_alone_is_open_for_itself_where_a_quorum_is_asked_for(make, clock, caplog):
    breaker = make(failure_threshold=2, quorum=2)
    failing(breaker)
    failing(breaker)
    assert breaker.view.is_open_alone
    assert "2 failures within 60 s, in this process alone" in caplog.text
    assert breaker.backend.overview().circuits["payments"].state is CLOSED
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)
    clock.advance(33)
    assert breaker.call(ok) == "ok"
    assert breaker.state is CLOSED


def test_a_fallback_answers_for_failures_where_rates_count(make):
    async def answer(failed):
        return await (afail() if failed else aok())

    breaker = make(**RATE)
    instead = breaker.protect(fallback="instead", fallback_on_failure=True)
    work, async_work = instead(lambda failed: fail() if failed else ok()), instead(answer)
    assert [work(False), work(False), work(True)] == ["ok", "ok", "instead"]
    assert [asyncio.run(async_work(failed)) for failed in (False, False)] == ["ok", "ok"]
    assert asyncio.run(async_work(True)) == "instead"
    assert breaker.state is CLOSED
    assert [work(True), work(True)] == ["instead", "instead"]
    assert breaker.state is OPEN


def test_a_coroutine_of_a_sync_function_is_followed_where_rates_count(make):
    breaker = make(**RATE)
    work = breaker(lambda failed: afail() if failed else aok())
    for failed in (False, False, True):
        try:
            asyncio.run(work(failed))
        except Down:
            pass
    assert breaker.state is CLOSED
    with pytest.raises(Down):
        asyncio.run(work(True))
    assert breaker.state is OPEN


def test_an_iteration_is_never_slow_since_its_pace_is_that_of_who_iterates(make, clock):
    breaker = make(**SLOW)

    @breaker
    def pages():
        clock.advance(9)
        yield 1

    for _ in range(3):
        assert list(pages()) == [1]
    assert breaker.state is CLOSED


# -- what counts as a failure -------------------------------------------------------------------


@pytest.fixture(params=["decorator", "async decorator", "call", "async call"])
def give(request):
    """Lets functions of a breaker return what they are given."""

    def give(breaker: CircuitBreaker, *results: Any) -> None:
        work, async_work = breaker(ok), breaker(aok)
        for result in results:
            answer = {
                "decorator": lambda result=result: work(result),
                "async decorator": lambda result=result: asyncio.run(async_work(result)),
                "call": lambda result=result: breaker.call(ok, result),
                "async call": lambda result=result: asyncio.run(breaker.call(aok, result)),
            }[request.param]()
            assert answer is result

    return give


def is_bad(result: Any) -> bool:
    return bool(result == "bad")


@pytest.mark.parametrize("rules", [{}, RATE], ids=["failures", "rate"])
def test_a_result_may_be_a_failure(make, give, rules):
    breaker = make(**{"failure_threshold": 2, **rules}, result_predicate=is_bad)
    give(breaker, None, "bad", "good")
    assert breaker.state is CLOSED
    give(breaker, "bad")
    assert breaker.state is OPEN


def test_results_are_looked_at_from_the_moment_that_the_options_say_so(make):
    breaker = make()
    work = breaker(ok)
    work("bad")
    work("bad")
    assert breaker.state is CLOSED
    breaker.classifier = make(result_predicate=is_bad).classifier
    breaker.view.shut()
    work("good")
    work("bad")
    assert breaker.state is OPEN


def test_what_a_predicate_says_of_an_exception_decides(make, run):
    breaker = make(failure_predicate=lambda error: False)
    run(breaker, True)
    assert breaker.state is CLOSED


def test_a_failing_answer_says_how_long_it_wants_to_be_left_alone(make, run, clock):
    breaker = make(retry_after=lambda answer: 50, recovery_timeout_max=100)
    run(breaker, True)
    assert breaker.backend.overview().circuits["payments"].retry_at == clock() + 50_000_000
    clock.advance(50)
    run(breaker, True)
    assert breaker.backend.overview().circuits["payments"].retry_at == clock() + 50_000_000


def test_a_failing_result_is_asked_too(make, clock):
    breaker = make(
        result_predicate=is_bad, retry_after=len, recovery_timeout=1, recovery_timeout_max=9
    )
    breaker.call(ok, "bad")
    assert breaker.backend.overview().circuits["payments"].retry_at == clock() + 3_000_000


def test_a_trial_of_a_process_alone_is_asked_too(make, clock):
    breaker = make(retry_after=lambda answer: 50, recovery_timeout_max=100)
    breaker.trip()
    breaker.view.go_local(clock())
    clock.advance(30)
    failing(breaker)
    assert breaker.view.circuit.retry_at == clock() + 50_000_000


def test_a_failure_that_was_handled_may_be_told_of(make):
    breaker = make(failure_threshold=2)
    breaker.record_failure()
    breaker.record_failure(Down("late"))
    assert breaker.state is OPEN
    assert breaker.backend.events()[0][1].last_error == "Down"


def test_a_success_that_was_told_of_counts_in_a_rate(make):
    breaker = make(**RATE)
    for _ in range(3):
        breaker.record_success()
    breaker.record_failure()
    assert breaker.state is CLOSED
    breaker.record_failure()
    breaker.record_failure()
    assert breaker.state is OPEN


@pytest.mark.parametrize("success", [True, False])
def test_what_is_told_of_a_half_open_circuit_is_a_trial(half_open, success):
    breaker = half_open()
    (breaker.record_success if success else breaker.record_failure)()
    assert breaker.state is (CLOSED if success else OPEN)


def test_what_is_told_of_an_open_circuit_changes_nothing(make):
    breaker = make()
    breaker.trip()
    before = breaker.view.circuit
    breaker.record_success()
    breaker.record_failure()
    assert breaker.view.circuit == before


def test_inside_of_a_trial_its_own_end_decides(half_open):
    breaker = half_open()
    breaker.call(breaker.record_failure)
    assert breaker.state is CLOSED


# -- ramp-up ----------------------------------------------------------------------------------


def test_after_a_recovery_a_growing_share_of_the_calls_passes(make, run, clock):
    breaker = make(ramp_up=100)
    breaker.trip()
    clock.advance(30)
    run(breaker)
    assert breaker.state is CLOSED
    breaker.backend.chance = lambda: 0.5
    for _ in range(2):
        clock.advance(20)
        with pytest.raises(CircuitOpenError, match="is recovering; retry after 1 s") as caught:
            run(breaker)
        assert (caught.value.state, caught.value.retry_after) == (CLOSED, 1)
    clock.advance(20)
    assert run(breaker) == "ok"


def test_a_relapse_opens_it_at_once(make, run, clock):
    breaker = make(failure_threshold=5, ramp_up=100)
    breaker.backend.chance = lambda: 0
    breaker.trip()
    clock.advance(30)
    run(breaker)
    run(breaker, True)
    assert breaker.state is OPEN


def test_after_the_ramp_calls_pass_by_again(make, clock, monkeypatch):
    breaker = make(ramp_up=100)
    breaker.trip()
    clock.advance(30)
    breaker.call(ok)
    clock.advance(100)
    breaker.call(ok)
    monkeypatch.setattr(breaker.backend, "admit", lambda *args: pytest.fail("the long way"))
    assert breaker.call(ok) == "ok"


# -- modes ------------------------------------------------------------------------------------


def test_a_disabled_breaker_lets_all_pass_and_counts_nothing(make, run):
    breaker = make()
    breaker.trip(hold=True)
    breaker.disable(reason="noise", actor="ann")
    assert (breaker.mode, breaker.state) == (Mode.DISABLED, CLOSED)
    for _ in range(5):
        assert run(breaker, True) == "failed"
    assert breaker.backend.overview().circuits["payments"].failures == ()
    breaker.enable()
    assert (breaker.mode, breaker.state) == (Mode.AUTO, CLOSED)


def test_a_disabled_breaker_costs_no_long_way(make, monkeypatch):
    breaker = make()
    breaker.disable()
    breaker.call(ok)
    monkeypatch.setattr(breaker.backend, "admit", lambda *args: pytest.fail("the long way"))
    assert breaker.call(ok) == "ok"
    failing(breaker)
    assert breaker.state is CLOSED


def test_what_was_counted_before_it_was_disabled_counts_again_afterwards(make, run):
    breaker = make(failure_threshold=2)
    run(breaker, True)
    breaker.disable()
    run(breaker, True)
    breaker.enable()
    assert breaker.state is CLOSED
    run(breaker, True)
    assert breaker.state is OPEN


@pytest.mark.parametrize("mode", ["disable", "metrics_only"])
def test_a_mode_may_end_by_itself(make, run, clock, mode):
    breaker = make()
    getattr(breaker, mode)(duration=10)
    run(breaker)
    clock.advance(10)
    assert breaker.mode is Mode.AUTO
    run(breaker, True)
    assert breaker.state is OPEN


@pytest.mark.parametrize("mode", ["disable", "metrics_only", "trip"])
def test_a_duration_must_be_one(make, mode):
    with pytest.raises(ValueError, match="duration must be a number of seconds"):
        getattr(make(), mode)(duration=0)


def test_metrics_only_lets_all_pass_and_tells_what_it_would_have_rejected(make, run, clock):
    breaker = make()
    breaker.metrics_only(reason="rollout")
    assert (breaker.mode, breaker.state) == (Mode.METRICS_ONLY, CLOSED)
    run(breaker, True)
    for _ in range(3):
        assert run(breaker, True) == "failed"
    circuit = breaker.backend.overview().circuits["payments"]
    assert (circuit.spared, circuit.state) == (3, OPEN)
    clock.advance(30)
    assert run(breaker) == "ok"
    assert breaker.backend.overview().circuits["payments"].state is CLOSED
    assert breaker.state is CLOSED
    breaker.enable()
    assert breaker.backend.overview().circuits["payments"].spared == 0


def test_a_failure_on_paper_counts_no_more_when_the_mode_ends_by_itself(make, run, clock):
    breaker = make(failure_threshold=2)
    breaker.metrics_only(duration=10)
    run(breaker, True)
    clock.advance(10)
    run(breaker, True)
    assert breaker.state is CLOSED
    run(breaker, True)
    assert breaker.state is OPEN


def test_a_breaker_may_begin_in_a_mode(make, run):
    breaker = make(initial_mode="metrics_only")
    run(breaker, True)
    run(breaker)
    assert (breaker.mode, breaker.state) == (Mode.METRICS_ONLY, CLOSED)
    breaker.enable()
    run(breaker, True)
    assert (breaker.mode, breaker.state) == (Mode.AUTO, OPEN)


def test_an_event_of_a_mode_says_so_in_the_log(make, caplog):
    caplog.set_level(logging.INFO, "circuitbreaker_django")
    breaker = make()
    breaker.metrics_only(actor="ann")
    failing(breaker)
    assert [record.getMessage() for record in caplog.records] == [
        "circuit payments is closed (metrics_only): metrics_only by ann",
        "circuit payments is open (metrics_only): 1 failure within 60 s - last error: Down",
    ]


# -- whether a call would pass --------------------------------------------------------------------


def test_asking_whether_a_call_would_pass_changes_nothing(make, clock):
    breaker = make(half_open_max_calls=1)
    assert breaker.allows()
    breaker.trip()
    assert not breaker.allows()
    clock.advance(30)
    before = breaker.view.circuit
    assert breaker.allows()
    assert breaker.view.circuit is before
    trial = breaker.enter()
    assert not breaker.allows()
    breaker.leave(trial, Outcome.SUCCESS)
    assert breaker.allows()


def test_a_trial_would_pass_when_a_mode_is_over_that_nobody_has_looked_at(make, clock):
    breaker = make()
    breaker.trip()
    breaker.metrics_only(duration=40)
    clock.advance(40)
    assert breaker.state is HALF_OPEN
    assert breaker.allows()
    assert breaker.call(ok) == "ok"


def test_of_a_process_alone_one_trial_at_a_time_would_pass(make, clock):
    breaker = make(quorum=2, half_open_max_calls=2)
    failing(breaker)
    assert breaker.view.is_open_alone
    clock.advance(33)
    assert breaker.allows()
    trial = breaker.enter()
    assert not breaker.allows()
    assert isinstance(breaker.enter(), CircuitOpenError)
    breaker.leave(trial, Outcome.SUCCESS)
    assert breaker.allows()


def test_a_call_inside_of_a_trial_would_pass(half_open):
    breaker = half_open()
    assert breaker.call(breaker.allows)


@pytest.mark.parametrize("mode", ["disable", "metrics_only"])
def test_all_calls_would_pass_in_such_a_mode(make, mode):
    breaker = make()
    breaker.trip()
    getattr(breaker, mode)()
    assert breaker.allows()
