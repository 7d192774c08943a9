"""What every backend keeps, whatever it stores circuits in."""

from __future__ import annotations

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.backends.base import PAUSE
from circuitbreaker_django.backends.store import Declaration, Fence
from circuitbreaker_django.core.circuit import Circuit, Command, CommandKind
from circuitbreaker_django.core.errors import CircuitBackendError, CircuitConflictError
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import Mode, Outcome
from circuitbreaker_django.core.traffic import MINUTE, Counts
from circuitbreaker_django.core.trial import Trial
from tests.core.calls import Down, afail, fail, failing, ok
from tests.core.layers import ASYNC, SYNC, by_with, every, raises

POLICY = Policy(failure_threshold=2, recovery_timeout=30)


@pytest.fixture
def ours(join, make):
    """A breaker of one member."""
    return make(join())


@pytest.fixture
def theirs(join, make, ours):
    """The breaker of the same name of another member of the store."""
    return make(join())


@pytest.fixture
def half_open(ours, theirs, clock):
    """Both members know that the circuit may be tried."""
    ours.trip()
    clock.advance(30)
    assert theirs.state is CircuitState.HALF_OPEN
    return ours


def fence_of(breaker: CircuitBreaker) -> Fence:
    return breaker.view.incarnation, breaker.view.shared_epoch


def states(*breakers: CircuitBreaker) -> set[CircuitState]:
    return {breaker.state for breaker in breakers}


def rejected(breaker: CircuitBreaker) -> bool:
    try:
        breaker.call(ok)
    except CircuitOpenError:
        return True
    return False


# -- counting --------------------------------------------------------------------------------


def test_failures_of_all_members_are_summed(ours, theirs):
    failing(ours)
    assert states(ours, theirs) == {CircuitState.CLOSED}
    failing(theirs)
    assert states(ours, theirs) == {CircuitState.OPEN}


def test_a_trip_by_one_is_seen_by_all_at_their_next_call(ours, theirs):
    theirs.call(ok)
    failing(ours)
    failing(ours)
    assert rejected(theirs)


def test_failures_older_than_the_window_do_not_count(ours, theirs, clock):
    failing(ours)
    clock.advance(60)
    failing(theirs)
    assert ours.state is CircuitState.CLOSED


def test_a_failure_admitted_before_a_reset_does_not_count_after_it(ours, theirs):
    def reset_and_fail():
        theirs.reset()
        raise Down

    failing(ours)
    with pytest.raises(Down):
        ours.call(reset_and_fail)
    assert ours.backend.overview().circuits["payments"].failures == ()


def test_a_failure_from_before_the_trip_moves_nothing(ours, theirs, clock):
    def trip_and_fail():
        theirs.trip()
        clock.advance(10)
        raise Down

    with pytest.raises(Down):
        ours.call(trip_and_fail)
    before = ours.backend.overview().circuits["payments"]
    assert before.openings == 1
    assert before.retry_at == clock.now + 20_000_000


def failures_of(breaker: CircuitBreaker) -> int:
    return len(breaker.backend.overview().circuits["payments"].failures)


@every("inner", SYNC)
@every("outer", SYNC)
def test_a_failure_that_passes_two_layers_counts_once(join, make, outer, inner):
    breaker = make(join(), failure_threshold=3)
    run = outer(breaker, inner(breaker, fail))
    for number in (1, 2):
        raises(Down, run)
        assert (breaker.state, failures_of(breaker)) == (CircuitState.CLOSED, number)
    raises(Down, run)
    assert breaker.state is CircuitState.OPEN


@every("inner", ASYNC)
@every("outer", ASYNC)
async def test_a_failure_that_passes_two_layers_of_a_task_counts_once(join, make, outer, inner):
    breaker = make(join(), failure_threshold=3)
    run = outer(breaker, inner(breaker, afail))
    for number in (1, 2):
        with pytest.raises(Down):
            await run()
        assert (breaker.state, failures_of(breaker)) == (CircuitState.CLOSED, number)
    with pytest.raises(Down):
        await run()
    assert breaker.state is CircuitState.OPEN


def test_a_nested_failure_counts_once_though_another_member_moved_the_store_meanwhile(
    ours, theirs, make
):
    def move_and_fail() -> None:
        make(theirs.backend, "another").trip()
        ours(fail)()

    raises(Down, ours(move_and_fail))
    assert failures_of(ours) == 1
    raises(Down, by_with(ours, move_and_fail))
    assert ours.state is CircuitState.OPEN


def test_one_exception_that_is_raised_by_each_call_counts_each_time(ours):
    error = Down()
    for _ in range(2):
        assert ours.state is CircuitState.CLOSED
        raises(Down, lambda: ours.call(fail, error))
    assert ours.state is CircuitState.OPEN


def test_a_stale_batch_is_dropped(ours, join):
    failing(ours)
    backend = ours.backend
    incarnation, epoch = fence_of(ours)
    for fence in ((incarnation, epoch - 1), (incarnation + 1, epoch)):
        backend._keep(ours.view, POLICY, backend.clock(), (backend.clock(),), "Down")
        backend._pending.evidence["payments"].fence = fence
        backend._flush(backend._here(), 1)
    assert len(backend.overview().circuits["payments"].failures) == 1


def test_the_window_is_empty_after_a_reset(ours, theirs):
    failing(ours)
    theirs.reset()
    failing(ours)
    assert ours.state is CircuitState.CLOSED


def test_success_writes_nothing(ours):
    ours.call(ok)
    assert ours.backend.overview().circuits == {}
    assert ours.backend.events() == []


def test_a_thousand_names_are_kept_apart(join, make):
    backend = join()
    for number in range(1000):
        breaker = make(backend, f"breaker {number}")
        if number % 2:
            breaker.trip()
        else:
            failing(breaker)
    other = join()
    circuits = other.overview().circuits
    assert len(circuits) == 1000
    assert sum(circuit.state is CircuitState.OPEN for circuit in circuits.values()) == 500
    assert rejected(make(other, "breaker 999"))
    assert not rejected(make(other, "breaker 998"))


def test_a_circuit_without_a_row_is_closed_at_the_floor(ours, theirs):
    assert not rejected(ours)
    assert not rejected(theirs)
    assert theirs.view.epoch == theirs.backend._floor > 0
    assert ours.view.shared_epoch == theirs.view.shared_epoch


# -- trials ----------------------------------------------------------------------------------


def test_one_trial_at_once_over_all_members(half_open, theirs):
    def check():
        assert rejected(theirs)
        return "tried"

    assert half_open.call(check) == "tried"
    assert half_open.state is theirs.state is CircuitState.CLOSED


def test_a_call_inside_of_a_trial_rides_on_it(half_open, theirs):
    def again():
        assert rejected(theirs)
        return half_open.call(ok)

    assert half_open.call(again) == "ok"
    assert half_open.backend.overview().circuits["payments"].openings == 0


def test_a_failed_trial_opens_again_for_all(half_open, theirs):
    failing(half_open)
    assert rejected(theirs)
    assert theirs.backend.overview().circuits["payments"].openings == 2


def test_an_ignored_trial_gives_its_permit_back(half_open, theirs):
    with pytest.raises(KeyboardInterrupt):
        half_open.call(fail, KeyboardInterrupt)
    assert theirs.call(ok) == "ok"
    assert half_open.state is CircuitState.CLOSED


def test_the_permit_of_a_trial_that_never_ends_is_given_to_another(half_open, theirs, clock):
    lost = half_open.enter()
    assert isinstance(lost, Trial)
    assert rejected(theirs)
    clock.advance(60)
    assert theirs.call(ok) == "ok"
    assert half_open.state is CircuitState.CLOSED


def test_a_denied_attempt_prolongs_nobodys_lease(half_open, theirs, clock):
    half_open.enter()
    for _ in range(12):
        assert rejected(theirs)
        clock.advance(5)
    assert theirs.call(ok) == "ok"


def test_a_rejection_while_half_open_says_at_most_a_second(half_open, theirs):
    half_open.enter()
    error = theirs.enter()
    assert isinstance(error, CircuitOpenError)
    assert error.state is CircuitState.HALF_OPEN
    assert error.retry_after is not None
    assert 0 < error.retry_after <= PAUSE


def test_asking_twice_with_one_token_is_one_permit(half_open):
    backend, fence = half_open.backend, fence_of(half_open)
    for _ in range(2):
        grant, _ = backend._acquire(backend._here(), "payments", fence, "token", POLICY, 1)
        assert grant.granted
    assert len(backend.overview().circuits["payments"].permits) == 1
    other, _ = backend._acquire(backend._here(), "payments", fence, "other", POLICY, 1)
    assert not other.granted


def test_a_permit_of_a_stale_fence_is_not_given(half_open):
    backend, (incarnation, epoch) = half_open.backend, fence_of(half_open)
    for fence in ((incarnation, epoch - 1), (incarnation + 1, epoch)):
        grant, _ = backend._acquire(backend._here(), "payments", fence, "token", POLICY, 1)
        assert not grant.granted


def test_a_token_reports_once(join, make, clock):
    breaker = make(join(), success_threshold=2, half_open_max_calls=2)
    breaker.trip()
    clock.advance(30)
    trial = breaker.enter()
    for _ in range(3):
        trial.live = True
        breaker.leave(trial, Outcome.SUCCESS)
    assert breaker.backend.overview().circuits["payments"].trial_successes == 1


def test_a_trial_is_reported_once_even_by_its_own_process(half_open):
    trial = half_open.enter()
    half_open.leave(trial, Outcome.IGNORED)
    half_open.leave(trial, Outcome.FAILURE)
    assert half_open.state is CircuitState.HALF_OPEN


def test_a_report_after_the_lease_counts_in_its_epoch(half_open, clock):
    trial = half_open.enter()
    clock.advance(120)
    half_open.leave(trial, Outcome.SUCCESS)
    assert half_open.state is CircuitState.CLOSED


def test_a_report_of_an_earlier_epoch_changes_nothing(half_open, theirs):
    trial = half_open.enter()
    theirs.reset()
    half_open.leave(trial, Outcome.FAILURE, Down())
    assert half_open.state is CircuitState.CLOSED


def test_a_report_of_another_incarnation_changes_nothing(half_open):
    trial = half_open.enter()
    incarnation, epoch = trial.fence
    trial.fence = (incarnation + 1, epoch)
    half_open.leave(trial, Outcome.SUCCESS)
    assert half_open.state is CircuitState.HALF_OPEN


def test_a_token_of_nobody_reports_nothing(half_open):
    trial = half_open.enter()
    stranger = Trial(half_open.view, trial.fence, "other", trial.expires, local=False)
    half_open.leave(stranger, Outcome.SUCCESS)
    assert half_open.state is CircuitState.HALF_OPEN


def test_success_threshold_counts_over_all_members(join, make, clock):
    ours = make(join(), success_threshold=2)
    theirs = make(join(), success_threshold=2)
    ours.trip()
    clock.advance(30)
    ours.call(ok)
    assert states(ours, theirs) == {CircuitState.HALF_OPEN}
    theirs.call(ok)
    assert states(ours, theirs) == {CircuitState.CLOSED}


def test_thresholds_are_arguments_and_not_stored(ours, join, make):
    failing(ours)
    failing(make(join(), failure_threshold=5))
    assert states(ours) == {CircuitState.CLOSED}
    failing(ours)
    assert states(ours) == {CircuitState.OPEN}


def test_a_longer_wait_of_others_is_cut_to_the_own_policy(ours, join, make):
    make(join(), recovery_timeout=3000).trip()
    error = ours.enter()
    assert isinstance(error, CircuitOpenError)
    assert error.retry_after == 300


# -- operators -------------------------------------------------------------------------------


def test_a_hold_reaches_everybody_until_a_reset(ours, theirs, clock):
    ours.trip(hold=True, reason="maintenance", actor="ann")
    clock.advance(10_000)
    assert rejected(theirs)
    assert theirs.mode is Mode.FORCED_OPEN
    hold = theirs.backend.overview().circuits["payments"].override
    assert (hold.actor, hold.reason) == ("ann", "maintenance")
    theirs.reset()
    assert ours.call(ok) == "ok"


def test_a_hold_that_ends_leaves_a_trial_first(ours, theirs, clock):
    ours.trip(duration=100)
    clock.advance(100)
    assert theirs.state is CircuitState.HALF_OPEN
    theirs.call(ok)
    assert ours.state is CircuitState.CLOSED


def test_a_reset_of_a_closed_circuit_is_a_new_epoch(ours, theirs):
    theirs.call(ok)
    before = theirs.view.epoch
    ours.reset()
    theirs.call(ok)
    assert theirs.view.epoch > before


def test_tripping_an_open_circuit_restarts_its_time(ours, theirs, clock):
    ours.trip()
    clock.advance(29)
    theirs.trip()
    clock.advance(29)
    assert ours.state is CircuitState.OPEN


def test_a_command_for_an_earlier_epoch_is_a_conflict(ours, theirs):
    ours.trip()
    epoch = ours.view.shared_epoch
    theirs.reset()
    command = Command(CommandKind.TRIP, expected_epoch=epoch)
    with pytest.raises(CircuitConflictError):
        ours.backend.order({"payments": (command, POLICY)})
    assert ours.state is CircuitState.CLOSED


def test_a_command_may_expect_that_nothing_has_happened_yet(ours, theirs):
    ours.call(ok)
    command = Command(CommandKind.TRIP, expected_epoch=ours.backend.overview().floor)
    assert ours.backend.overview().circuits == {}
    ours.backend.order({"payments": (command, POLICY)})
    assert theirs.state is CircuitState.OPEN
    with pytest.raises(CircuitConflictError):
        theirs.backend.order({"payments": (command, POLICY)})


def test_commands_are_applied_all_or_none(ours, join):
    stale = Command(CommandKind.TRIP, expected_epoch=1_000_000_000_000_000)
    with pytest.raises(CircuitBackendError, match="search"):
        ours.backend.order(
            {"payments": (Command(CommandKind.TRIP), POLICY), "search": (stale, POLICY)}
        )
    assert ours.state is CircuitState.CLOSED
    assert join().events() == []


def test_a_command_answers_with_the_circuits(ours):
    found = ours.backend.order({"payments": (Command(CommandKind.TRIP), POLICY)})
    assert isinstance(found["payments"], Circuit)
    assert found["payments"].state is CircuitState.OPEN


# -- telling ---------------------------------------------------------------------------------


def test_events_are_kept_newest_first(ours, theirs, clock):
    ours.trip(actor="ann", reason="why not")
    clock.advance(30)
    theirs.call(ok)
    events = ours.backend.events()
    assert [(name, event.after.value) for name, event in events] == [
        ("payments", "closed"),
        ("payments", "half_open"),
        ("payments", "open"),
    ]
    assert events[-1][1].actor == "ann"
    assert len(theirs.backend.events(limit=1)) == 1
    assert theirs.backend.events(names=["search"]) == []
    assert theirs.backend.events(names=["payments", "search"]) == theirs.backend.events()
    assert theirs.backend.events(1, ["payments"]) == theirs.backend.events(1)
    assert theirs.backend.events(limit=0) == []


def test_half_open_is_told_once_an_epoch(join, make, clock):
    breaker = make(join(), half_open_max_calls=3)
    breaker.trip()
    clock.advance(30)
    for _ in range(3):
        breaker.enter()
    assert [event.after.value for _, event in breaker.backend.events()] == ["half_open", "open"]


def test_a_first_rejection_that_cannot_be_told_harms_nobody(ours, caplog):
    ours.backend.on_first_rejection = fail
    ours.trip()
    assert rejected(ours)
    assert "could not be told" in caplog.text


def test_the_overview_has_every_circuit(ours, theirs, clock):
    failing(ours)
    theirs.trip()
    overview = ours.backend.overview()
    assert overview.now == clock.now
    assert set(overview.circuits) == {"payments"}


def test_the_first_rejection_of_an_opening_is_told_once(ours, clock):
    told: list[CircuitOpenError] = []
    ours.backend.on_first_rejection = told.append
    ours.trip(hold=True)
    for _ in range(3):
        ours.view.shut()
        assert rejected(ours)
    assert len(told) == 1
    ours.trip()
    assert rejected(ours)
    assert [type(error) for error in told] == [CircuitOpenError] * 2


# -- the end ---------------------------------------------------------------------------------


def test_a_backend_that_was_closed_is_taken_up_again(ours):
    ours.trip(hold=True)
    ours.backend.close()
    ours.backend.close()
    assert rejected(ours)


def test_closing_delivers_what_is_pending(ours, join):
    ours.call(ok)
    now = ours.backend.clock()
    ours.backend._keep(ours.view, POLICY, now, (now,), "Down")
    ours.backend.close()
    ours.backend.touch()
    ours.state  # noqa: B018 # a store of this process alone has it when it is used again
    ours.backend._flush(ours.backend._here(), 1)
    assert len(join().overview().circuits["payments"].failures) == 1


def test_what_a_registry_asks_of_a_backend_is_there(ours):
    ours.backend.declare(Declaration("payments", {"failure_threshold": 2}, "somewhere"))
    ours.backend.open(create=True)
    ours.backend.touch()
    assert ours.backend.problem is None
    assert ours.backend.describe()


# -- rates, quorum, modes ------------------------------------------------------------------------

RATE = {"failure_threshold": None, "failure_rate_threshold": 0.5, "minimum_calls": 10}


def keep_house(*breakers: CircuitBreaker) -> None:
    """What a thread does now and then, where there is one."""
    for breaker in breakers:
        breaker.backend._keep_contributions()
        breaker.backend._flush(breaker.backend._here(), 1)


def test_a_rate_is_of_the_calls_of_all_members(join, make, clock):
    ours, theirs = make(join(), **RATE), make(join(), **RATE)
    for _ in range(6):
        theirs.call(ok)
    for _ in range(4):
        failing(ours)
    assert states(ours, theirs) == {CircuitState.CLOSED}
    keep_house(theirs)
    clock.advance(2)
    keep_house(ours)
    assert states(ours, theirs) == {CircuitState.CLOSED}
    failing(theirs)
    failing(theirs)
    assert states(ours, theirs) == {CircuitState.OPEN}
    assert ours.backend.events()[0][1].cause == "6 of 12 calls failed within 60 s"


def test_a_rate_does_not_open_it_before_the_others_could_tell_of_their_successes(join, make, clock):
    ours, theirs = make(join(), **RATE), make(join(), **RATE)
    for _ in range(100):
        theirs.call(ok)
    for _ in range(9):
        failing(ours)
    clock.advance(0.5)
    keep_house(theirs)
    clock.advance(2)
    keep_house(ours)
    assert ours.backend.overview().circuits["payments"].state is CircuitState.CLOSED


def test_members_that_have_opened_it_alone_open_it_for_all(join, make, clock):
    ours, theirs, third = (make(join(), **RATE) for _ in range(3))
    for _ in range(10):
        failing(ours)
    clock.advance(2)
    keep_house(ours, theirs)
    assert states(ours, theirs, third) == {CircuitState.OPEN}
    assert ours.backend.overview().circuits["payments"].state is CircuitState.OPEN


def test_successes_are_told_at_most_four_times_a_second_while_it_is_suspect(join, make, clock):
    ours = make(join(), **{**RATE, "minimum_calls": 1})
    for _ in range(9):
        ours.call(ok)
    failing(ours)

    def told() -> int:
        circuit = ours.backend.overview().circuits["payments"]
        return sum(one.calls for one in circuit.slices)

    before = told()
    ours.call(ok)
    assert told() == before
    clock.advance(0.25)
    ours.call(ok)
    assert told() == 12


@pytest.mark.parametrize("mode", ["disabled", "metrics_only"])
def test_a_mode_reaches_everybody_and_ends_for_everybody(ours, theirs, mode):
    begin = {"disabled": ours.disable, "metrics_only": ours.metrics_only}[mode]
    begin(reason="rollout", actor="ann")
    for breaker in (ours, theirs):
        for _ in range(3):
            failing(breaker)
        assert (breaker.mode, breaker.state) == (mode, CircuitState.CLOSED)
    theirs.enable()
    assert (ours.mode, ours.state) == ("auto", CircuitState.CLOSED)


def test_calls_that_would_have_been_rejected_are_summed(ours, theirs):
    ours.metrics_only()
    for breaker in (ours, ours, ours, theirs, theirs):
        failing(breaker)
    keep_house(ours, theirs)
    assert ours.backend.overview().circuits["payments"].spared == 3


def test_what_was_counted_on_a_paper_that_is_thrown_away_counts_on_no_other(join, make, clock):
    ours = make(join(), initial_mode="metrics_only")
    for _ in range(3):
        failing(ours)
    keep_house(ours)
    ours.metrics_only(duration=1)
    for _ in range(2):
        failing(ours)
    ours.call(lambda: clock.advance(1))  # would have been rejected, and ends with the mode
    failing(ours)
    keep_house(ours)
    assert ours.backend.overview().circuits["payments"].spared == 2


def test_a_mode_that_ends_by_itself_ends_for_everybody(ours, theirs, clock):
    ours.metrics_only(duration=10)
    failing(theirs)
    clock.advance(10)
    assert {ours.mode, theirs.mode} == {"auto"}
    failing(ours)
    failing(theirs)
    assert states(ours, theirs) == {CircuitState.OPEN}


def test_a_member_that_runs_alone_sees_the_end_of_a_mode(ours, clock):
    ours.metrics_only(duration=10)
    ours.call(ok)
    ours.view.go_local(clock())
    clock.advance(10)
    assert ours.call(ok) == "ok"
    assert ours.mode is Mode.AUTO


# -- what operators see --------------------------------------------------------------------------


def publish(*breakers: CircuitBreaker) -> None:
    for breaker in breakers:
        breaker.backend.publish()


def test_calls_of_all_members_are_summed_by_the_minute(ours, theirs, clock):
    publish(ours, theirs)
    for breaker in (ours, ours, theirs):
        breaker.call(ok)
    failing(ours)
    publish(ours, theirs)
    clock.advance(60)
    theirs.call(ok)
    clock.advance(1)
    publish(ours, theirs)
    stats = theirs.backend.stats()["payments"]
    assert sum(bucket.counts.calls for bucket in stats.minutes) == 5
    assert stats.last_hour == Counts(calls=5, failures=1)
    assert stats.quarters == ()
    assert 0 <= stats.now - stats.minutes[-1].start < MINUTE


def test_each_kind_of_end_is_counted(join, make, clock):
    ours = make(
        join(),
        failure_threshold=3,
        slow_call_duration=1,
        minimum_calls=100,
        ignore_exceptions=OSError,
    )

    def slow() -> None:
        clock.advance(1)

    ours.call(ok)
    ours.call(slow)
    failing(ours, OSError)
    for _ in range(3):
        failing(ours)
    for _ in range(4):
        assert rejected(ours)
    publish(ours)
    assert ours.backend.stats()["payments"].last_hour == Counts(
        calls=6, failures=3, slow=1, ignored=1, rejected=4
    )


def test_what_was_told_is_not_told_again(ours):
    ours.call(ok)
    for _ in range(3):
        publish(ours)
    assert ours.backend.stats()["payments"].last_hour == Counts(calls=1)


def test_nobody_is_told_of_breakers_that_nobody_calls(ours, join, make):
    make(join(), "idle")
    ours.call(ok)
    publish(ours)
    assert set(ours.backend.stats()) == {"payments"}


def test_stats_are_of_the_names_that_were_asked_for(join, make):
    backend = join()
    for name in ("a", "b", "c"):
        make(backend, name).call(ok)
    backend.publish()
    assert set(backend.stats(["a", "c", "missing"])) == {"a", "c"}
    assert backend.stats([]) == {}


def test_an_hour_of_minutes_and_a_day_of_quarters_are_kept(ours, clock):
    publish(ours)
    for _ in range(26 * 60):
        ours.call(ok)
        clock.advance(60)
        publish(ours)
    stats = ours.backend.stats(["payments"], day=True)["payments"]
    assert 58 <= sum(bucket.counts.calls for bucket in stats.minutes) <= 60
    assert (len(stats.minutes), len(stats.quarters)) == (60, 96)
    latest = ours.backend.stats(["payments"], minutes=30)["payments"]
    assert (latest.minutes, latest.quarters) == (stats.minutes[-30:], ())
    assert stats.wall_time(stats.minutes[-1]) <= stats.wall
    clock.advance(3600)
    assert ours.backend.stats() == {}
    assert ours.backend.stats(day=True)["payments"].minutes == ()
    clock.advance(86400)
    assert ours.backend.stats(day=True) == {}


def test_counts_that_could_not_be_told_for_long_are_spread_over_that_time(ours, clock):
    publish(ours)
    for _ in range(100):
        ours.call(ok)
    clock.advance(9 * 60)
    publish(ours)
    stats = ours.backend.stats()["payments"]
    assert [bucket.counts.calls for bucket in stats.minutes] == [10] * 10


def test_a_member_that_closes_tells_of_its_last_calls(ours, theirs):
    publish(ours, theirs)
    ours.call(ok)
    ours.backend.close()
    assert theirs.backend.stats()["payments"].last_hour.calls == 1


def test_stats_that_are_turned_off_cost_nothing(ours):
    ours.backend.stats_interval = 0
    ours.call(ok)
    publish(ours)
    assert ours.backend.stats() == {}


def test_counts_of_a_view_that_changes_its_tally_are_not_lost(join, make):
    ours = make(join(), **RATE)
    ping = ours(ok)
    for _ in range(4):  # the first finds the gate
        ping()
    ours.reset()
    ping()
    publish(ours)
    assert ours.backend.stats()["payments"].last_hour.calls == 5


def test_calls_by_the_short_path_are_counted_once(join, make, clock):
    ours = make(join(), **RATE)

    @ours
    def ping(error: bool = False) -> str:
        if error:
            raise Down
        return "pong"

    publish(ours)
    for _ in range(7):
        assert ping() == "pong"
        with ours:
            clock.advance(0.1)
    for _ in range(2):
        with pytest.raises(Down):
            ping(error=True)
    publish(ours)
    assert ours.backend.stats()["payments"].last_hour == Counts(calls=16, failures=2)


async def test_async_calls_by_the_short_path_are_counted_once(join, make, clock):
    ours = make(join(), **RATE)

    @ours
    async def ping(error: bool = False) -> str:
        if error:
            raise Down
        return "pong"

    publish(ours)
    for _ in range(7):
        assert await ping() == "pong"
        clock.advance(7)
    for _ in range(2):
        with pytest.raises(Down):
            await ping(error=True)
    publish(ours)
    assert ours.backend.stats()["payments"].last_hour == Counts(calls=9, failures=2)


def alone(breaker: CircuitBreaker) -> list[tuple[str, ...]]:
    """What each member has open alone, as operators are told."""
    return sorted(process.alone for process in breaker.backend.overview().processes)


def test_what_one_member_has_open_alone_is_told_until_it_is_over(join, make, clock):
    ours, theirs = (make(join(), quorum=2) for _ in range(2))
    if not ours.backend.shared:
        pytest.skip("nobody else could be told")
    theirs.call(ok)
    failing(ours)
    failing(ours)
    assert rejected(ours)
    assert theirs.call(ok) == "ok"
    publish(ours, theirs)
    assert alone(theirs) == [(), ("payments",)]
    theirs.reset()
    assert ours.call(ok) == "ok"
    publish(ours)
    assert alone(theirs) == [(), ()]


def test_what_is_open_for_all_is_open_alone_nowhere(ours, theirs):
    ours.call(ok)
    failing(theirs)
    failing(theirs)
    publish(ours, theirs)
    assert set(alone(ours)) <= {()}


def test_what_lets_all_calls_pass_is_open_nowhere(join, make, clock):
    ours = make(join(), quorum=2)
    failing(ours)
    failing(ours)
    assert ours.backend._open_alone() == ("payments",)
    ours.disable()
    ours.view.go_local(clock())
    assert ours.view.is_open_alone
    assert ours.backend._open_alone() == ()
