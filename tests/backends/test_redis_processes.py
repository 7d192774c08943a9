"""The Redis backend among real processes, and what forks make of its threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.backends.hands import hiring
from tests.backends.servers import RedisServer
from tests.backends.test_redis_faults import server
from tests.backends.waiting import until

__all__ = ["server"]


@pytest.fixture
def hire(server: RedisServer) -> Iterator[Callable[..., Any]]:
    with hiring(server.url) as hire:
        yield hire


def test_a_trip_in_one_process_opens_it_in_all(hire):
    first, *others = hire(4)
    for hand in (first, *others):
        assert hand.ok() == "ok"
        until(hand.available)
    for _ in range(3):
        assert first.fail() == "failed"
    assert [hand.wait_for("open") for hand in others] == ["open"] * 3
    assert {hand.openings() for hand in others} == {1}


def test_all_processes_are_known_until_they_are_gone(hire):
    hands = hire(3)
    for hand in hands:
        hand.ok()
    known = sorted(hand.pid for hand in hands)
    until(lambda: hands[0].pids() == known)
    hands[1].kill()
    assert hands[2].end() == 0
    until(lambda: hands[0].pids() == [hands[0].pid])


def test_the_permit_of_a_killed_process_is_given_to_another(hire):
    first, second = hire(2, recovery_timeout=0.2, trial_timeout=1)
    assert first.trip() == "done"
    assert second.wait_for("half_open") == "half_open"
    assert first.wait_for("half_open") == "half_open"
    until(lambda: first.enter() == "trial")  # on a busy host the permit may come for the next call
    first.kill()
    until(lambda: second.ok() == "ok")
    assert second.wait_for("closed") == "closed"


def test_a_process_that_ends_has_told_of_its_last_failures(hire):
    first, second = hire(2)
    first.ok()
    until(first.available)
    first.fail()
    first.fail()
    assert first.end() == 0
    assert second.failures() == 2


def test_a_fork_has_threads_of_its_own(hire):
    parent, other = hire(2)
    parent.ok()
    assert other.hold() == "done"
    assert parent.wait_for("open") == "open"
    # Its parent's threads are not there, and yet it hears of what happens and can act.
    assert parent.fork(["wait_for_open", "reset", "threads"]) == ["open", "done", 2, 0]
    assert other.wait_for("closed") == "closed"
    assert parent.wait_for("closed") == "closed"
    assert parent.threads() == 2


@pytest.mark.parametrize(
    ("fork", "first"), [("fork", "ok"), ("fork_without_hooks", "touch")], ids=["hooks", "none"]
)
def test_a_fork_that_only_serves_hears_of_a_trip(hire, fork, first):
    parent, other = hire(2)
    parent.ok()
    other.ok()
    parent.send(fork, [first, "wait_until_rejected"])
    time.sleep(1)  # by then the fork serves
    assert other.hold() == "done"
    assert parent.answer()[1:] == ["rejected", 0]


def test_a_fork_that_python_does_not_hear_of_notices_at_its_next_request(hire):
    parent, other = hire(2)
    parent.ok()
    other.ok()
    answers = parent.fork_without_hooks(["touch", "ok", "threads", "hold", "wait_for_open"])
    assert answers == ["done", "ok", 2, "done", "open", 0]
    assert other.wait_for("open") == "open"
    assert parent.wait_for("open") == "open"


def test_a_fork_inside_of_a_trial_reports_nothing(hire):
    parent, other = hire(2, recovery_timeout=0.2)
    assert parent.trip() == "done"
    assert parent.wait_for("half_open") == "half_open"
    answers: list[Any] = []

    def is_tried() -> bool:  # on a busy host the permit may come for the next call
        answers[:] = [parent.fork_in_a_trial(["state"])]
        return "CircuitOpenError" not in answers[0]

    until(is_tried)
    assert answers == [["half_open", 0]]
    assert other.wait_for("open") in ("open", "half_open")
    until(lambda: other.openings() == 2)


def test_many_processes_at_the_moment_of_the_trial(hire):
    hands = hire(16, recovery_timeout=1, trial_timeout=30)
    for hand in hands:  # all of them begin at once, so the first may be refused
        until(hand.available)
    assert hands[0].trip() == "done"
    for hand in hands:
        assert hand.wait_for("half_open") == "half_open"
    answers: list[str] = []
    rounds = 0
    while "trial" not in answers or rounds < 3:  # on a busy host an answer may come too late
        for hand in hands:
            hand.send("enter")
        answers += [hand.answer() for hand in hands]
        rounds += 1
        assert rounds < 100
    assert answers.count("trial") == 1
    assert set(answers) == {"trial", "CircuitOpenError"}
