"""The SQLite backend among real processes. Every wait is bounded and by looking again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.backends import host, sqlite_tables
from circuitbreaker_django.backends.place import place_for
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from tests.backends import worker as worker_module
from tests.backends.hands import Hand, hiring
from tests.backends.sqlite_store import (
    fill_with_garbage,
    garbage_rows,
    remove,
    remove_bell,
    remove_index,
    replace_with_garbage,
)
from tests.backends.users import ANN, common, needs_root
from tests.backends.waiting import until

__all__ = ["common"]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hire(location):
    with hiring(location) as hire:
        yield hire


@pytest.fixture
def place(location):
    return place_for(str(location), "shop", "default")


# -- counting --------------------------------------------------------------------------------


def test_four_processes_fail_five_times_in_total(hire):
    hands = hire(4, failure_threshold=5)
    assert [hand.ok() for hand in hands] == ["ok"] * 4
    answers = [hand.fail() for _ in range(3) for hand in hands]
    assert answers == ["failed"] * 5 + ["rejected"] * 7


def test_at_once_they_fail_five_times_and_those_in_flight(hire):
    hands = hire(4, failure_threshold=5)
    assert [hand.ok() for hand in hands] == ["ok"] * 4
    start = time.time() + 0.2
    for hand in hands:
        hand.send("storm", start)
    answers = [hand.answer() for hand in hands]
    failed = sum(count for count, _ in answers)
    late = sum(late for _, late in answers)
    assert 5 <= failed <= 5 + 3 + late
    assert until(lambda: hands[0].openings() == 1)


def test_a_change_is_announced_once_as_its_origin_and_once_in_every_other_process(hire):
    hands = hire(4)
    assert [hand.ok() for hand in hands] == ["ok"] * 4
    expected: list[list[Any]] = [[], [], [], []]
    for number in range(40):
        origin = number // 2 % 4
        before, after = ("open", "closed") if number % 2 else ("closed", "open")
        answer = hands[origin].reset() if number % 2 else hands[origin].trip()
        assert answer == "done"
        assert [hand.state() for hand in hands] == [after] * 4
        for each, changes in enumerate(expected):
            changes.append([before, after, each == origin])
        # In one that has it from its thread, the thread may be about to tell.
        until(partial(have_told_more_than, number, hands))
    assert [hand.changes() for hand in hands] == expected


def have_told_more_than(number: int, hands: list[Hand]) -> bool:
    return all(len(hand.changes()) > number for hand in hands)


def test_who_opens_it_in_a_storm_is_its_only_origin(hire):
    hands = hire(4, failure_threshold=5)
    assert [hand.ok() for hand in hands] == ["ok"] * 4
    start = time.time() + 0.2
    for hand in hands:
        hand.send("storm", start)
    for hand in hands:
        hand.answer()

    def changes() -> list[Any]:
        return sorted(change for hand in hands for change in hand.changes())

    until(lambda: len(changes()) >= 4)
    assert {hand.state() for hand in hands} == {"open"}
    assert changes() == [*[["closed", "open", False]] * 3, ["closed", "open", True]]


def test_a_trip_and_a_reset_reach_everybody_at_their_next_call(hire):
    hands = hire(3)
    assert [hand.ok() for hand in hands] == ["ok"] * 3
    for _ in range(20):
        hands[0].trip()
        assert [hand.ok() for hand in hands] == ["rejected"] * 3
        hands[1].reset()
        assert [hand.ok() for hand in hands] == ["ok"] * 3


# -- kill -9 ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "committed"),
    [
        ("before the dirty word", False),
        ("after the dirty word", False),
        ("after the commit", True),
        ("after the clean word", True),
    ],
)
def test_a_writer_that_is_killed_around_its_commit(hire, step, committed):
    victim, ours, theirs = hire(3, recovery_timeout=300)
    assert [hand.ok() for hand in (victim, ours, theirs)] == ["ok"] * 3
    assert victim.die(step) == "armed"
    assert victim.trip() == "dead"
    assert victim.process.wait(20) == -signal.SIGKILL
    expected = "rejected" if committed else "ok"
    assert [hand.ok() for hand in (ours, theirs)] == [expected] * 2
    until(ours.healthy)
    assert ours.trip() == "done"
    assert theirs.ok() == "rejected"
    assert theirs.reset() == "done"
    assert ours.ok() == "ok"
    assert ours.warnings() == theirs.warnings() == []


def test_a_trial_whose_holder_is_killed_is_given_to_another_after_its_lease(hire):
    victim, ours = hire(2, recovery_timeout=0.01, trial_timeout=1.5)
    victim.ok()
    victim.trip()
    until(lambda: victim.enter() == "trial")
    assert ours.ok() == "rejected"
    victim.kill()
    assert until(lambda: ours.ok() == "ok")
    assert ours.state() == "closed"


# -- a writer that is stopped ----------------------------------------------------------------


def test_a_writer_that_is_stopped_in_a_transaction_harms_nobody(hire):
    stopped, ours, theirs = hire(3, recovery_timeout=0.2)
    assert [hand.ok() for hand in (stopped, ours, theirs)] == ["ok"] * 3
    stopped.send("freeze")
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED)
    assert [ours.fail() for _ in range(4)] == ["failed"] * 3 + ["rejected"]
    assert theirs.ok() == "ok"
    assert until(lambda: ours.enter() == "local")
    assert "CircuitBackendError" in ours.trip()
    os.kill(stopped.pid, signal.SIGCONT)
    assert stopped.answer() == "thawed"
    until(ours.healthy)
    assert until(lambda: theirs.reset() == "done")
    assert until(lambda: ours.ok() == "ok")
    assert ours.trip() == "done"
    assert [hand.ok() for hand in (stopped, theirs)] == ["rejected"] * 2


# -- forks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fork", "fork_without_hooks", "fork_during_a_write"])
def test_a_fork_after_the_first_use_is_a_process_of_its_own(hire, way, place):
    parent, other = hire(2)
    assert parent.fail() == "failed"
    assert other.ok() == "ok"
    index = place.files[3].stat().st_ino
    *answers, status = getattr(parent, way)(["ok", "fail", "pids"])
    assert answers[:2] == ["ok", "failed"]
    assert len(answers[2]) == 3
    assert status == 0
    assert place.files[3].stat().st_ino == index
    # Its failure was counted, its end took nothing from its parent, and it is not there any more.
    assert other.failures() == 2
    until(parent.healthy)
    assert sorted([parent.pid, other.pid]) == other.pids()
    assert parent.fail() == "failed"
    assert other.ok() == "rejected"
    assert parent.warnings() == []


def test_the_parent_keeps_its_locks_when_forks_end(hire, place):
    parent = hire()
    assert parent.ok() == "ok"
    for _ in range(3):
        assert parent.fork(["ok"])[-1] == 0
    for late in (hire(), hire()):
        assert late.ok() == "ok"
        assert late.end() == 0
    # Whoever is last to close removes the log: that must not happen while the parent has it.
    assert place.files[2].exists()
    assert parent.healthy()
    assert parent.trip() == "done"
    assert hire().ok() == "rejected"


def test_forks_before_the_first_use_share_the_store(hire):
    parent = hire()  # the shape of a server that loads the application before it forks
    assert parent.fork(["ok", "trip"]) == ["ok", "done", 0]
    assert parent.fork(["ok"]) == ["rejected", 0]
    assert parent.ok() == "rejected"


def test_a_fork_inside_of_a_trial_does_not_report_it(hire):
    parent, other = hire(2, recovery_timeout=0.05)
    parent.trip()
    assert until(lambda: other.state() == "half_open")
    assert other.pids()
    answers = parent.fork_in_a_trial(["ok"])
    assert answers[-1] == 0
    assert until(lambda: other.openings() == 2)


# -- faults of the file ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        remove,
        replace_with_garbage,
        fill_with_garbage,
        garbage_rows,
        remove_bell,
        remove_index,
    ],
)
def test_a_fault_of_the_file_heals_by_itself(hire, place, fault):
    ours, theirs = hire(2)
    assert [ours.ok(), theirs.ok()] == ["ok", "ok"]
    fault(place)
    assert [ours.ok(), theirs.ok()] == ["ok", "ok"]

    def shared():
        ours.reset()
        answers = [ours.fail(), theirs.fail(), ours.fail(), theirs.ok()]
        return answers == ["failed"] * 3 + ["rejected"] and len(theirs.pids()) == 2

    until(shared)
    assert len(ours.warnings()) <= 2
    assert len(theirs.warnings()) <= 2


def test_a_hold_survives_the_loss_of_the_file(hire, place):
    ours, theirs = hire(2)
    ours.hold()
    assert theirs.ok() == "rejected"
    remove(place)
    until(lambda: ours.healthy() is True and theirs.healthy() is True)
    assert until(lambda: hire().ok() == "rejected")
    assert theirs.reset() == "done"
    assert ours.ok() == "ok"


def test_a_full_disk_is_one_warning_and_heals(hire):
    ours, theirs = hire(2, failure_threshold=100)
    assert [ours.ok(), theirs.ok()] == ["ok", "ok"]
    ours.limit(0)
    assert [ours.fail() for _ in range(3)] == ["failed"] * 3
    until(lambda: ours.warnings())
    assert theirs.fail() == "failed"
    assert [ours.ok(), ours.fail()] == ["ok", "failed"]
    assert len(ours.warnings()) == 1
    ours.limit(-1)
    until(ours.healthy)
    assert until(lambda: theirs.failures() >= 5)


@needs_root
def test_a_full_tmpfs_kills_nobody(hire, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk]).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        fill(disk / "ballast")
        ours = hire(location=disk / "x.sqlite3", failure_threshold=100)
        assert [ours.ok(), ours.fail(), ours.ok()] == ["ok", "failed", "ok"]
        until(lambda: ours.warnings())
        (disk / "ballast").unlink()
        until(ours.healthy)
        assert until(lambda: ours.fail() == "failed" and ours.failures() > 0)
        fill(disk / "ballast")
        assert [ours.fail() for _ in range(30)] == ["failed"] * 30
        (disk / "ballast").unlink()
        until(ours.healthy)
        assert ours.end() == 0
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@needs_root
def test_a_folder_that_may_not_be_written_is_one_warning_and_heals(hire, common):
    folder = common / "folder"
    folder.mkdir(0o500)
    os.chown(folder, ANN, ANN)
    ours = hire(location=folder / "x.sqlite3", user=ANN)
    assert [ours.ok(), ours.fail()] == ["ok", "failed"]
    until(lambda: len(ours.warnings()) == 1)
    assert "check its mode" in ours.warnings()[0]
    folder.chmod(0o700)
    until(ours.healthy)
    assert ours.pids() == [ours.pid]


def fill(ballast):
    """Take all that is left of the disk."""
    with open(ballast, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass


# -- who is there ----------------------------------------------------------------------------


def test_processes_come_and_go(hire, location, monkeypatch):
    staying, ending, victim = hire(3)
    observer = SQLiteBackend(location, observer=True)
    for hand in (staying, ending, victim):
        hand.ok()

    def pids():
        return {process.pid for process in observer.overview().processes}

    assert pids() == {staying.pid, ending.pid, victim.pid}
    assert ending.end() == 0
    assert pids() == {staying.pid, victim.pid}
    victim.kill()
    assert pids() == {staying.pid}
    # From another container pids tell nothing, but who lives writes every 5 s.
    monkeypatch.setattr(host, "pid_space", lambda: "another container")
    assert pids() == {staying.pid, victim.pid}
    # 15 s would be long for a test.
    monkeypatch.setattr(sqlite_tables, "GONE_AFTER", 5.5)
    until(lambda: victim.pid not in pids())
    observer.close()


def test_an_operator_steers_workers_from_outside(hire, location):
    hands = hire(2)
    assert [hand.ok() for hand in hands] == ["ok", "ok"]
    observer = SQLiteBackend(location, observer=True)
    observer.open(create=False)
    breaker = CircuitBreaker("payments", backend=observer)
    breaker.trip(hold=True)
    assert [hand.ok() for hand in hands] == ["rejected"] * 2
    breaker.reset()
    assert [hand.ok() for hand in hands] == ["ok"] * 2
    observer.close()


def test_a_process_that_ends_while_its_thread_works_ends_well(hire):
    for _ in range(3):
        hand = hire()
        assert hand.ok() == "ok"
        assert hand.end() == 0


def test_the_worker_module_is_the_one_that_is_run():
    assert Path(worker_module.__file__).parent == Path(__file__).parent
    assert shutil.which(sys.executable)


def test_calls_are_counted_by_all_and_survive_their_process(hire):
    watcher, *workers = hire(4)
    for worker in workers:
        for _ in range(10):
            assert worker.ok() == "ok"
        assert worker.fail() == "failed"
    assert watcher.ok() == "rejected"
    for worker in workers:
        assert worker.end() == 0
    assert watcher.counted()[:2] == [33, 3]
    assert watcher.pids() == [watcher.pid]


def test_a_sick_process_says_so_until_it_is_gone(hire):
    sick, well = hire(2, quorum=2, failure_threshold=1)
    assert well.ok() == "ok"
    assert sick.ok() == "ok"
    assert sick.fail() == "failed"
    assert sick.ok() == "rejected"
    assert until(well.alone) == [sick.pid]
    assert well.ok() == "ok"
    sick.kill()
    assert until(lambda: well.alone() == [])


def test_a_sick_process_says_so_until_it_is_over(hire):
    sick, well = hire(2, quorum=2, failure_threshold=1)
    assert well.ok() == "ok"
    assert sick.fail() == "failed"
    until(well.alone)
    assert well.reset() == "done"
    assert sick.ok() == "ok"
    assert until(lambda: well.alone() == [])
