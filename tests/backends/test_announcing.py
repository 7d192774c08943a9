"""Who hears of what happens to a circuit, for every backend whose members see each other."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from circuitbreaker_django import CircuitState, Mode
from circuitbreaker_django.backends.store import StoreBusy, StoreLost
from circuitbreaker_django.core import telling
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.news import (
    BackendDegraded,
    BackendRecovered,
    CommandApplied,
    StateChanged,
)
from circuitbreaker_django.core.view import View
from tests.core.calls import failing, ok

OPEN, CLOSED, HALF_OPEN = CircuitState.OPEN, CircuitState.CLOSED, CircuitState.HALF_OPEN


@pytest.fixture
def heard(monkeypatch):
    """All news so far."""
    heard: list[Any] = []
    monkeypatch.setattr(telling, "listeners", [*telling.listeners, heard.append])
    return heard


@pytest.fixture
def changes(heard):
    """The changes since the last look: who says so, before, after, whether it is the origin."""

    def changes():
        found = [
            (one.registry, one.event.before.value, one.event.after.value, one.origin)
            for one in heard
            if isinstance(one, StateChanged)
        ]
        heard.clear()
        return found

    return changes


@pytest.fixture
def members(join, make):
    """Breakers of three members that have met the store; one where the store is of one."""
    backends = list({id(each): each for each in (join(), join(), join())}.values())
    for number, backend in enumerate(backends):
        backend.registry = f"{number}"
    breakers = [make(backend, ramp_up=0) for backend in backends]
    for breaker in breakers:
        breaker.call(ok)
    return breakers


def look(*breakers):
    for breaker in breakers:
        breaker.state  # noqa: B018 # a look is a use


def in_a_thread(what):
    thread = threading.Thread(target=what)
    thread.start()
    thread.join(10)
    return thread


def test_a_change_is_told_once_as_its_origin_and_once_by_each_other(members, changes):
    one, *others = members
    failing(one)
    failing(one)
    look(*members, *members)
    assert changes() == [
        ("0", "closed", "open", True),
        *((other.backend.registry, "closed", "open", False) for other in others),
    ]


def test_every_step_of_a_life_is_told_to_all(members, changes, clock):
    one, *others = members

    def told(before, after):
        look(*members, *members)
        rest = [(each.backend.registry, before, after, False) for each in others]
        assert changes() == [("0", before, after, True), *rest]

    one.trip()
    told("closed", "open")
    clock.advance(30)
    look(*members)
    assert changes() == []  # half-open is what an open circuit is by then
    trial = one.enter()
    told("open", "half_open")
    one.leave_block(trial, None)
    told("half_open", "closed")
    one.trip(hold=True)
    told("closed", "open")
    one.enable()
    told("open", "half_open")
    one.reset()
    told("half_open", "closed")
    one.reset()
    told("closed", "closed")
    one.disable()
    told("closed", "closed")


def test_on_paper_it_is_the_states_of_the_paper_that_are_told(members, changes):
    one, *others = members
    one.metrics_only()
    look(*others)
    changes()
    failing(one)
    failing(one)
    look(*members)
    rest = [(each.backend.registry, "closed", "open", False) for each in others]
    assert changes() == [("0", "closed", "open", True), *rest]


def test_others_are_told_the_reason_and_who_and_when_it_may_be_tried(members, heard):
    one, *others = members
    one.trip(duration=60, actor="ann", reason="upgrade")
    look(*others)
    for news in heard:
        if isinstance(news, StateChanged):
            event = news.event
            assert (event.actor, event.reason) == ("ann", "upgrade")
            assert event.mode is Mode.FORCED_OPEN
            assert event.epoch == one.view.circuit.epoch
            assert event.cause == ("hold" if news.origin else "elsewhere")
            assert news.retry_after == 60
    heard.clear()
    one.reset()
    failing(one)
    failing(one)
    look(*others)
    closed, opened = heard[1], heard[2:]
    assert (closed.event.last_error, closed.retry_after) == ("", None)
    for news in opened:
        if news.origin:
            assert news.event.cause == "2 failures within 60 s"
            assert (news.event.reason, news.event.failures) == ("", 2)
        else:
            assert news.event.reason == "2 failures within 60 s, last Down"
        assert news.event.last_error == "Down"
        assert news.retry_after == 30
    heard.clear()
    one.reset()
    look(*others)
    for news in heard[1:]:
        assert (news.event.last_error, news.retry_after) == ("", None)


def test_a_hold_without_an_end_has_no_time_to_retry_after(members, heard):
    members[0].trip(hold=True)
    look(*members)
    assert {one.retry_after for one in heard if isinstance(one, StateChanged)} == {None}


def test_what_is_seen_late_is_one_change(members, changes):
    one, *others = members
    for _ in range(3):
        one.trip()
        one.reset()
    one.trip(hold=True)
    look(*others)
    seen = [change for change in changes() if change[0] != "0"]
    assert seen == [(other.backend.registry, "closed", "open", False) for other in others]


def test_what_was_there_before_a_process_came_is_no_news_to_it(members, changes, join, make):
    members[0].trip(hold=True)
    look(*members)
    changes()
    late = join()
    late.registry = "late"
    breaker = make(late)
    assert breaker.state is OPEN
    second = make(late)  # of the same circuit: told of once even so
    assert changes() == []
    members[0].reset()
    look(breaker, second)
    assert changes()[-1] == ("late", "open", "closed", late is members[0].backend)


def test_who_does_not_use_a_breaker_hears_of_it_only_as_the_origin(members, changes, make):
    one, *others = members
    make(one.backend, "refunds").trip()
    look(*others)
    assert changes() == [("0", "closed", "open", True)]


def test_a_command_is_told_once_where_it_was_given(members, heard):
    members[0].trip(duration=60, actor="ann", reason="upgrade")
    look(*members)
    (told,) = [one for one in heard if isinstance(one, CommandApplied)]
    assert heard[0] is told  # before what it leads to
    assert (told.registry, told.name) == ("0", "payments")
    assert (told.command.kind.value, told.command.actor, told.command.reason) == (
        "hold",
        "ann",
        "upgrade",
    )
    assert (told.mode, told.mode_ends_in) == (Mode.FORCED_OPEN, 60)
    assert told.epoch == members[0].view.circuit.epoch


def test_a_command_that_changes_nothing_is_told_and_no_change_is(members, heard):
    members[0].enable()
    look(*members)
    assert [type(one) for one in heard] == [CommandApplied]
    assert heard[0].mode_ends_in is None


def test_a_command_that_was_not_applied_is_not_told(members, heard, monkeypatch):
    def refuse(*args):
        raise StoreBusy("busy")

    backend = members[0].backend
    monkeypatch.setattr(backend, "_command", refuse)
    with pytest.raises(CircuitBackendError):
        members[0].trip()
    assert heard == []


def test_listeners_are_called_when_no_lock_is_held(members, heard, monkeypatch):
    """Another thread can use any member while a listener runs."""
    stuck = []

    def use_all_in_another_thread(news):
        def use():
            for breaker in members:
                breaker.view.shut()
                breaker.backend.sync()
                with breaker.backend._here().writing.taken(0) as mine:
                    stuck.append(not mine)

        stuck.append(in_a_thread(use).is_alive())

    telling.listeners.append(use_all_in_another_thread)
    failing(members[0])
    failing(members[0])
    look(*members)
    members[0].reset()
    look(*members)
    assert len(stuck) > 4
    assert not any(stuck)


def test_whoever_comes_in_while_its_thread_has_a_lock_tells_nothing_yet(members, changes):
    """As a signal handler that uses a breaker, or a finaliser."""
    backend = members[0].backend
    process = backend._here()
    turns = [getattr(process, name) for name in ("writing", "reading") if hasattr(process, name)]
    for lock in (process.lock, *(turn.taken(1) for turn in turns)):
        with lock:
            telling.keep(BackendRecovered(None, "here"))
            backend.announce()
            assert len(telling._outbox.kept) == 1
        backend.announce()
        assert not telling._outbox.kept


def test_a_listener_may_trip_what_it_hears_of_without_a_dead_lock(members, changes):
    one = members[0]

    def hold(news):
        if isinstance(news, StateChanged) and news.event.mode is Mode.AUTO:
            one.trip(hold=True)

    telling.listeners.append(hold)
    failing(one)
    failing(one)
    look(*members)
    assert one.mode is Mode.FORCED_OPEN
    assert changes()[:2] == [("0", "closed", "open", True), ("0", "open", "open", True)]


# -- of one process among several ----------------------------------------------------------------


@pytest.fixture
def pair(sqlite, make):
    breakers = [make(sqlite()), make(sqlite())]
    for name, breaker in zip(("ours", "theirs"), breakers, strict=True):
        breaker.backend.registry = name
        breaker.call(ok)
    return breakers


def test_a_change_that_another_thread_sees_first_is_still_this_process_s_own(
    pair, changes, monkeypatch
):
    """Between the commit and the end of the writer's turn it cannot know whose change it sees."""
    ours, _ = pair
    backend = ours.backend
    command = backend._command

    def looked_at_by_another_thread(*args):
        result = command(*args)
        in_a_thread(lambda: look(ours))
        assert ours.view.circuit.state is OPEN  # the other has adopted it
        assert changes() == []
        return result

    monkeypatch.setattr(backend, "_command", looked_at_by_another_thread)
    ours.trip()
    look(ours)
    assert changes() == [("ours", "closed", "open", True)]


def test_what_another_thread_has_left_is_told_after_the_turn(pair, changes):
    ours, theirs = pair
    theirs.trip()
    changes()
    with ours.backend._here().writing.taken(1):
        in_a_thread(lambda: look(ours))
        assert changes() == []
    ours.backend.announce()
    assert changes() == [("ours", "closed", "open", False)]


def test_who_writes_on_top_of_what_he_has_not_seen_tells_of_one_change(pair, changes):
    ours, theirs = pair
    theirs.trip()
    ours.backend.bell.seen = ours.backend.bell.word[()]  # it has not heard the bell
    ours.trip(hold=True)
    look(ours, theirs)
    assert changes() == [
        ("theirs", "closed", "open", True),
        ("ours", "open", "open", True),
        ("theirs", "open", "open", False),
    ]


def test_half_open_is_seen_once_an_epoch(pair, changes, clock):
    ours, theirs = pair
    theirs.policy = ours.policy
    ours.trip()
    look(theirs)
    clock.advance(30)
    trial = ours.enter()
    look(theirs)
    changes()
    ours.backend.touch()
    ours.leave_block(trial, KeyboardInterrupt())  # neutral: the permit comes back
    look(theirs)
    ours.enter()
    look(theirs)
    assert changes() == []


def test_a_dropped_row_is_no_change(pair, changes):
    ours, _ = pair
    ours.reset()
    changes()
    backend = ours.backend
    process = backend._here()
    meta, _ = process.file.news()
    with process.lock:
        backend._rows = {}
        backend._take(process, process.file, type(meta)(**{**_as_dict(meta), "floor": 2**60}), {})
    backend.announce()
    assert ours.view.circuit.epoch == 2**60
    assert changes() == []


def _as_dict(meta):
    return {name: getattr(meta, name) for name in type(meta).__dataclass_fields__}


def test_a_process_without_its_store_says_that_it_is_alone(pair, heard, monkeypatch, clock):
    ours, theirs = pair
    process = ours.backend._here()
    with monkeypatch.context() as patch:
        patch.setattr(ours.backend, "touch", lambda: None)  # and it does not come back yet
        ours.backend._lost(process, process.file, StoreLost("the disk is full"))
        failing(ours)
        failing(ours)
    degraded, opened = heard
    place = ours.backend.describe()
    assert degraded == BackendDegraded("ours", place, "the disk is full")
    assert (opened.origin, opened.alone, opened.event.after) == (False, True, OPEN)
    assert theirs.state is CLOSED
    heard.clear()
    clock.advance(33)
    with monkeypatch.context() as patch:
        patch.setattr(ours.backend, "touch", lambda: None)
        ours.call(ok)
    assert [(one.event.after, one.origin, one.alone) for one in heard] == [
        (HALF_OPEN, False, True),
        (CLOSED, False, True),
    ]
    heard.clear()
    theirs.trip(hold=True)
    heard.clear()
    ours.backend.keep_house(process)
    assert heard[0] == BackendRecovered("ours", place)
    assert [(one.event.before, one.event.after, one.origin) for one in heard[1:]] == [
        (CLOSED, OPEN, False)
    ]


def test_what_a_process_opens_for_itself_is_told_once_when_the_store_opens_too(
    pair, changes, monkeypatch
):
    """Its own evidence was enough, while another process was writing what opened it for all."""
    ours, theirs = pair

    def busy(process, patience):
        raise StoreBusy("busy")

    with monkeypatch.context() as patch:
        patch.setattr(ours.backend, "_transaction", busy)
        failing(ours)
        failing(ours)
        assert ours.view.is_open_alone
        assert changes() == []
    theirs.trip()
    look(ours)
    assert changes() == [("theirs", "closed", "open", True), ("ours", "closed", "open", False)]


def test_a_change_is_looked_for_once_for_each_breaker_of_the_name(pair, make, monkeypatch):
    ours, theirs = pair
    others = [make(ours.backend) for _ in range(5)]
    taken, take_change = [], View.take_change

    def counted(view, now):
        taken.append(view)
        return take_change(view, now)

    monkeypatch.setattr(View, "take_change", counted)
    theirs.trip()
    look(ours)
    assert len(taken) == len([ours, *others, theirs])


def test_a_fork_leaves_what_is_pending_to_its_parent(pair, changes, monkeypatch):
    ours, theirs = pair
    theirs.trip()
    changes()
    with ours.backend._here().writing.taken(1):
        in_a_thread(lambda: look(ours))
    assert ours.backend._unannounced
    monkeypatch.setattr("os.getpid", lambda: -1)
    ours.backend.announce()
    monkeypatch.undo()
    assert not ours.backend._unannounced
    assert changes() == []


def test_what_a_process_has_opened_alone_and_all_have_since_is_open_before_and_after(
    sqlite, make, changes
):
    ours, theirs = make(sqlite(), quorum=2), make(sqlite(), quorum=2)
    failing(ours)
    failing(ours)
    assert changes() == [(None, "closed", "open", False)]
    theirs.trip()
    look(ours)
    assert changes() == [(None, "closed", "open", True), (None, "open", "open", False)]


def test_a_store_that_comes_back_as_it_was_may_be_a_change(pair, changes, clock, monkeypatch):
    """It is still open there, and was closed by a trial here."""
    ours, _ = pair
    ours.trip()
    clock.advance(30)
    process = ours.backend._here()
    with monkeypatch.context() as patch:
        patch.setattr(ours.backend, "touch", lambda: None)
        ours.backend._lost(process, process.file, StoreLost("the disk is full"))
        look(ours)
        rejected = ours.enter()  # it begins later than others
        clock.advance(3)
        ours.leave_block(ours.enter(), None)
    assert rejected
    assert ours.view.local
    assert ours.state is CLOSED
    changes()
    ours.backend.keep_house(process)
    assert changes() == [("ours", "closed", "half_open", False)]


def test_a_wait_that_is_too_long_for_this_process_is_no_change_at_each_look(
    pair, changes, clock, make
):
    ours, theirs = pair
    ours.policy = make(ours.backend, "shorter", recovery_timeout_max=30).policy
    theirs.policy = make(theirs.backend, "longer", recovery_timeout=1000).policy
    theirs.trip()
    assert ours.allows() is False
    ours.enter()
    clock.advance(31)
    assert ours.state is HALF_OPEN
    changes()
    process = ours.backend._here()
    process.resync = True
    ours.backend.keep_house(process)
    assert changes() == []


# -- every way to meet news tells of it ------------------------------------------------------------


def test_the_first_look_tells_that_there_is_no_store(location, sqlite, make, heard):
    backend = sqlite()
    location.parent.mkdir()
    backend.place.database.mkdir()
    look(make(backend))
    assert [type(news) for news in heard] == [BackendDegraded]


def test_housekeeping_without_a_thread_tells(pair, changes):
    ours, theirs = pair
    theirs.trip()
    ours.backend._here().ticked_at = 0
    ours.backend.touch()
    assert changes()[1:] == [("ours", "closed", "open", False)]


def test_the_end_tells_of_what_it_delivers(pair, changes, monkeypatch):
    ours, _ = pair

    def busy(process, patience):
        raise StoreBusy("busy")

    with monkeypatch.context() as patch:
        patch.setattr(ours.backend, "_transaction", busy)
        failing(ours)
        failing(ours)
    ours.backend.close()
    assert changes() == [("ours", "closed", "open", True)]


def test_a_question_that_meets_a_lost_store_tells(pair, heard, monkeypatch):
    backend = pair[0].backend

    def lost(question):
        raise StoreLost("gone")

    monkeypatch.setattr(backend._here().file, "read", lost)
    with pytest.raises(CircuitBackendError):
        backend.overview()
    assert [type(news) for news in heard] == [BackendDegraded]


def test_an_operator_who_finds_the_store_again_is_told(pair, sqlite, heard):
    observer = sqlite(observer=True)
    observer.open(create=False)
    process = observer._here()
    observer._lost(process, process.file, StoreLost("gone"))
    observer.announce()
    observer.open(create=False)
    assert [type(news) for news in heard] == [BackendDegraded, BackendRecovered]


def test_a_fork_that_loses_the_store_tells(pair, heard, monkeypatch):
    backend = pair[0].backend

    def lost(patience):
        raise OSError("gone")

    file = backend._here().file
    backend.before_fork()
    with monkeypatch.context() as patch:
        patch.setattr(file, "connect_again", lost)
        backend.after_fork_in_parent()
    assert [type(news) for news in heard] == [BackendDegraded]


def test_what_the_circuit_does_after_an_enable_is_not_told_as_the_operators_doing(
    join, make, heard
):
    one, other = (make(join(), initial_mode="disabled", ramp_up=0) for _ in range(2))
    for breaker in (one, other):
        breaker.call(ok)
    one.enable(reason="it is ready", actor="anna")
    look(one, other)
    heard.clear()
    while one.state is CLOSED:
        failing(one)
    look(one, other)
    told = [each.event for each in heard if isinstance(each, StateChanged)]
    assert told
    assert {event.after for event in told} == {OPEN}
    assert {(event.actor, "ready" in event.reason) for event in told} == {("", False)}
