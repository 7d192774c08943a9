"""The tables of the database backend, on a real server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from circuitbreaker_django.backends import host
from circuitbreaker_django.backends.database import sql
from circuitbreaker_django.backends.database import store as module
from circuitbreaker_django.backends.database.connection import DatabaseConnection
from circuitbreaker_django.backends.database.store import DatabaseStore
from circuitbreaker_django.backends.published import patient_policy
from circuitbreaker_django.backends.remote_store import Teller
from circuitbreaker_django.backends.store import (
    Declaration,
    Evidence,
    ProcessInfo,
    Report,
    StoreBusy,
    StoreLost,
)
from circuitbreaker_django.core.circuit import Command, CommandKind
from circuitbreaker_django.core.errors import CircuitConflictError
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.states import CircuitState, Outcome
from circuitbreaker_django.core.traffic import MINUTE, QUARTER, Bucket, Counts
from tests.backends.postgres import Postgres, registered

NEVER = 2**62
POLICY = Policy(failure_threshold=1000, recovery_timeout=30)
TRIP = Command(CommandKind.TRIP)
RESET = Command(CommandKind.RESET)
INFO = ProcessInfo("here", 1, "test", 1.0, "digest", "elsewhere")

Join = Callable[..., DatabaseStore]


@pytest.fixture(params=["postgres", "pgbouncer"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The alias of the same tables, without a pooler and behind one."""
    server = request.getfixturevalue(request.param)
    with registered("circuits", server.settings()) as alias:
        yield alias


@pytest.fixture
def join(database: str, request: pytest.FixtureRequest) -> Iterator[Join]:
    """Makes connections of one store."""
    stores: list[DatabaseStore] = []

    def join(patience: float = 10, clock: Any = None) -> DatabaseStore:
        connection = DatabaseConnection(database, patience)
        stores.append(DatabaseStore(connection, request.node.nodeid, clock))
        return stores[-1]

    yield join
    for store in stores:
        store.close()


@pytest.fixture
def store(join: Join) -> DatabaseStore:
    return join()


def at(store: DatabaseStore) -> Any:
    """A cursor of the store's connection, in a transaction."""
    return store.connection.transaction()


def run(store: DatabaseStore, statement: str, *values: Any) -> None:
    with at(store) as cursor:
        cursor.run(statement, *values)


def make(store: DatabaseStore) -> tuple[int, int]:
    """The fence of a circuit without a row."""
    made = store.publish("process", None, ())
    return made.incarnation, made.floor


def failed(fence: tuple[int, int], *ages: int) -> Evidence:
    return Evidence(fence, POLICY, tuple(-age for age in ages), "Down")


def teller(before: int = NEVER) -> Teller:
    return Teller(0, "origin", 0, before)


# -- looking ---------------------------------------------------------------------------------


def test_a_store_that_nobody_has_made_is_not_made_by_a_look(store):
    assert store.look(0).incarnation == 0
    assert store.look(0).incarnation == 0


def test_whoever_publishes_first_makes_the_store(store, join):
    made = store.publish("process", INFO, ())
    assert made.incarnation > 0
    assert 0 < made.floor <= made.now
    again = join().publish("other", INFO, ())
    assert (again.incarnation, again.floor) == (made.incarnation, made.floor)


def test_the_time_is_the_servers_and_goes_on_within_a_transaction(store):
    first, second = store.publish("process", None, ()), store.look(0)
    assert first.now < second.now
    assert first.now > 1_600_000_000_000_000


def test_a_look_tells_what_has_changed_after_a_revision(store, join):
    make(store)
    store.command({"a": (TRIP, POLICY)}, NEVER)
    seen = join().look(0)
    assert list(seen.circuits) == ["a"]
    assert store.look(seen.revision).circuits == {}
    store.command({"b": (TRIP, POLICY)}, NEVER)
    news = store.look(seen.revision)
    assert list(news.circuits) == ["b"]
    assert news.revision > seen.revision
    assert not news.more


def test_what_nobody_needs_to_hear_is_told_by_a_whole_look_only(store, join):
    fence = make(store)
    seen = store.look(0)
    store.deliver({"a": failed(fence, 5)}, [], teller())
    assert store.look(seen.revision).circuits == {}
    assert len(join().look(0).circuits["a"].failures) == 1


def test_a_long_list_comes_in_pages(store, monkeypatch):
    make(store)
    monkeypatch.setattr(module, "PAGE", 3)
    for number in range(4):
        store.command({f"{number} {letter}": (TRIP, POLICY) for letter in "ab"}, NEVER)
    names: list[str] = []
    since, more = 0, True
    while more:
        page = store.look(since)
        assert len(page.circuits) <= 4
        names += page.circuits
        since, more = page.revision, page.more
    assert sorted(names) == [f"{number} {letter}" for number in range(4) for letter in "ab"]
    assert since == store.publish("process", None, ()).revision


def test_namespaces_are_kept_apart(store, database):
    store.command({"a": (TRIP, POLICY)}, NEVER)
    other = DatabaseStore(DatabaseConnection(database, 10), "another")
    other.publish("process", INFO, ())
    try:
        assert other.look(0).circuits == {}
        assert other.overview().circuits == {}
        assert other.events(10)[1] == []
        assert store.overview().processes == ()
    finally:
        other.close()


def test_a_wait_is_bounded(store, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    store.wait(0, 10)
    store.wait(0, 0.1)
    assert waits == [module.POLL_EVERY, 0.1]


# -- steps -----------------------------------------------------------------------------------


def test_a_step_answers_with_what_it_has_brought_about(store):
    told = store.command({"a": (TRIP, POLICY)}, NEVER)
    assert told.circuits["a"].state is CircuitState.OPEN
    assert [(name, event.cause) for name, event in told.events] == [("a", "trip")]
    seen = store.look(0)
    assert (told.incarnation, told.floor, told.revision) == (
        seen.incarnation,
        seen.floor,
        seen.revision,
    )
    assert told.circuits == seen.circuits


def test_evidence_is_summed(store):
    fence = make(store)
    store.deliver({"a": failed(fence, 5, 3), "b": failed(fence, 1)}, [], teller())
    told = store.deliver({"a": failed(fence, 2)}, [], teller())
    assert len(told.circuits["a"].failures) == 3
    assert len(store.look(0).circuits["b"].failures) == 1


def test_evidence_of_another_incarnation_or_epoch_is_void(store):
    incarnation, floor = make(store)
    for fence in ((incarnation + 2, floor), (incarnation, floor + 1)):
        store.deliver({"a": failed(fence, 5)}, [], teller())
    assert store.overview().circuits == {}


def test_what_comes_too_late_is_not_done(store):
    now = store.publish("process", None, ()).now
    with pytest.raises(StoreBusy, match="too late"):
        store.command({"a": (TRIP, POLICY)}, now - 1)
    assert store.overview().circuits == {}


def test_commands_are_applied_all_or_none(store):
    stale = Command(CommandKind.TRIP, expected_epoch=5)
    with pytest.raises(CircuitConflictError, match="'b'"):
        store.command({"a": (TRIP, POLICY), "b": (stale, POLICY)}, NEVER)
    assert store.overview().circuits == {}
    assert store.events(10)[1] == []


def test_commands_for_a_store_that_has_lost_them_spare_what_has_a_row(store):
    store.command({"a": (TRIP, POLICY)}, NEVER)
    hold = Command(CommandKind.HOLD)
    store.command({"a": (hold, POLICY), "b": (hold, POLICY)}, NEVER, if_lost=True)
    circuits = store.look(0).circuits
    assert circuits["a"].override is None
    assert circuits["b"].override is not None


def test_a_permit_is_granted_once_and_comes_back_with_its_report(store, join):
    policy = Policy(recovery_timeout=0.001)
    opened = store.command({"a": (TRIP, policy)}, NEVER)
    fence = (opened.incarnation, opened.circuits["a"].epoch)
    threading.Event().wait(0.01)
    granted, told = store.acquire("a", fence, "token", policy, NEVER)
    assert granted.granted
    assert [event.cause for _, event in told.events] == ["first trial"]
    assert not join().acquire("a", fence, "other", policy, NEVER)[0].granted
    report = Report("a", fence, "token", policy, Outcome.IGNORED, "")
    seen = store.look(0).revision
    store.deliver({}, [report], teller())
    assert store.look(seen).circuits["a"].permits == ()
    assert join().acquire("a", fence, "other", policy, NEVER)[0].granted


def test_a_permit_of_another_incarnation_is_not_granted(store):
    opened = store.command({"a": (TRIP, POLICY)}, NEVER)
    fence = (opened.incarnation + 2, opened.circuits["a"].epoch)
    grant, told = store.acquire("a", fence, "token", POLICY, NEVER)
    assert not grant.granted
    assert told.incarnation == opened.incarnation


def test_the_newest_events_are_kept(store, monkeypatch):
    monkeypatch.setattr(module, "HISTORY", 3)
    for name in "abcde":
        store.command({name: (TRIP, POLICY)}, NEVER)
    then, events = store.events(10)
    assert [name for name, _ in events] == ["e", "d", "c"]
    assert events[0][1].at <= then
    assert [name for name, _ in store.events(1)[1]] == ["e"]
    assert store.events(-1)[1] == []
    with at(store) as cursor:
        assert cursor.rows(
            "SELECT count(*) FROM circuitbreaker_event WHERE namespace = %s", store.namespace
        ) == [(3,)]


def test_events_of_one_step_keep_their_order(store):
    store.command({"b": (TRIP, POLICY), "a": (TRIP, POLICY)}, NEVER)
    assert [name for name, _ in store.events(10)[1]] == ["a", "b"]


def test_text_of_all_kinds_comes_back_as_it_was(store):
    reason = "\0 \ud800 ' \" %s \\ 😀"
    store.command({"ä'%s😀": (Command(CommandKind.HOLD, reason=reason), POLICY)}, NEVER)
    ((name, circuit),) = store.look(0).circuits.items()
    assert name == "ä'%s😀"
    assert circuit.override is not None
    assert circuit.override.reason == reason


# -- many at once ----------------------------------------------------------------------------


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """Do them all in threads of their own, beginning at the same moment."""
    barrier = threading.Barrier(len(jobs))

    def do(job: Callable[[], Any]) -> Any:
        barrier.wait(20)
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(do, jobs))


def test_no_failure_is_lost_between_processes_not_even_the_first(store, join):
    fence = make(store)

    def tell(number: int) -> Callable[[], None]:
        mine = join()

        def job() -> None:
            for _ in range(20):
                names = ["a", "b", "c", f"own {number}"][:: -1 if number % 2 else 1]
                mine.deliver({name: failed(fence, 5) for name in names}, [], teller())

        return job

    at_once(*(tell(number) for number in range(6)))
    circuits = store.look(0).circuits
    assert {name: len(circuits[name].failures) for name in "abc"} == dict.fromkeys("abc", 120)
    assert all(len(circuits[f"own {number}"].failures) == 20 for number in range(6))


def test_no_two_steps_wait_for_each_other(store, join):
    make(store)
    names = [f"circuit {number}" for number in range(8)]

    def steer(number: int) -> Callable[[], None]:
        mine = join()

        def job() -> None:
            for turn in range(15):
                chosen = [names[(number * 3 + turn * step) % 8] for step in (1, 3, 5)]
                mine.command(dict.fromkeys(chosen, (TRIP, POLICY)), NEVER)

        return job

    at_once(*(steer(number) for number in range(6)))  # a deadlock would raise StoreBusy
    assert len(store.events(1000)[1]) >= 6 * 15


def test_no_more_permits_are_granted_than_there_are(store, join):
    policy = Policy(recovery_timeout=0.001, half_open_max_calls=3)
    opened = store.command({"a": (TRIP, policy)}, NEVER)
    fence = (opened.incarnation, opened.circuits["a"].epoch)
    threading.Event().wait(0.01)
    members = [join() for _ in range(8)]
    grants = at_once(
        *(
            lambda member=member, token=str(number): (
                member.acquire("a", fence, token, policy, NEVER)[0].granted
            )
            for number, member in enumerate(members)
        )
    )
    assert sum(grants) == 3


# -- the feed --------------------------------------------------------------------------------


class Pausing(DatabaseStore):
    """Waits between its last word in a transaction and the commit."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.there = threading.Event()
        self.go_on = threading.Event()

    def _save(self, *arguments: Any) -> int | None:
        saved = super()._save(*arguments)
        self.there.set()
        assert self.go_on.wait(20)
        return saved


def test_a_change_that_is_slow_to_commit_is_not_missed(store, join, database):
    since = store.publish("process", None, ()).revision
    slow = Pausing(DatabaseConnection(database, 20), store.namespace)
    fast = join(20)
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(slow.command, {"slow": (TRIP, POLICY)}, NEVER)
            assert slow.there.wait(20)
            second = pool.submit(fast.command, {"fast": (TRIP, POLICY)}, NEVER)
            threading.Event().wait(0.05)
            seen = store.look(since)
            assert (seen.revision, seen.circuits) == (since, {})
            assert not second.done()  # else its revision would be seen before the lower one
            slow.go_on.set()
            assert first.result(20).revision < second.result(20).revision
        assert set(store.look(since).circuits) == {"slow", "fast"}
    finally:
        slow.close()


def test_whoever_waits_for_a_circuit_has_a_later_time(store, join, database):
    store.command({"a": (TRIP, POLICY)}, NEVER)
    slow = Pausing(DatabaseConnection(database, 20), store.namespace)
    waiting = join(20)
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(slow.command, {"a": (TRIP, POLICY)}, NEVER)
            assert slow.there.wait(20)
            second = pool.submit(waiting.command, {"a": (TRIP, POLICY)}, NEVER)
            threading.Event().wait(0.05)
            meanwhile = store.look(0).now
            slow.go_on.set()
            assert first.result(20).now < meanwhile < second.result(20).now
    finally:
        slow.close()


def test_a_reader_that_follows_misses_no_change_of_many_writers(store, join):
    since = store.publish("process", None, ()).revision
    over = threading.Event()
    seen: set[tuple[str, int]] = set()
    told: set[tuple[str, int]] = set()

    def write(number: int) -> Callable[[], None]:
        mine = join()

        def job() -> None:
            for turn in range(25):
                name = f"{number} {turn}"
                circuit = mine.command({name: (TRIP, POLICY)}, NEVER).circuits[name]
                told.add((name, circuit.epoch))

        return job

    def follow() -> None:
        nonlocal since
        mine = join()
        last = False
        while not last:
            last = over.is_set()
            news = mine.look(since)
            seen.update((name, circuit.epoch) for name, circuit in news.circuits.items())
            since = news.revision

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        at_once(*(write(number) for number in range(5)))
    finally:
        over.set()
        follower.join(20)
    assert len(told) == 125
    assert seen == told


# -- what is lost or cannot be believed --------------------------------------------------------


def truncate(store: DatabaseStore, *tables: str) -> None:
    for table in tables:
        run(store, f"DELETE FROM circuitbreaker_{table} WHERE namespace = %s", store.namespace)


def test_a_store_that_has_lost_everything_is_made_anew(store):
    before = store.command({"a": (TRIP, POLICY)}, NEVER)
    truncate(store, "store", "circuit", "event")
    assert store.look(before.revision).incarnation == 0
    after = store.publish("process", None, ())
    assert after.incarnation not in (0, before.incarnation)
    assert after.floor > before.circuits["a"].epoch
    assert store.look(0).circuits == {}


def test_a_step_makes_a_store_that_was_lost(store):
    before = store.command({"a": (TRIP, POLICY)}, NEVER)
    truncate(store, "store", "circuit")
    after = store.command({"a": (RESET, POLICY)}, NEVER)
    assert after.incarnation not in (0, before.incarnation)
    assert after.circuits["a"].epoch > before.circuits["a"].epoch


def test_what_is_left_of_a_lost_store_does_not_hinder_the_next(store):
    before = store.command({"a": (TRIP, POLICY)}, NEVER)
    truncate(store, "store")
    made = store.publish("process", None, ())
    assert made.revision > before.revision
    assert store.look(made.revision).circuits == {}
    after = store.command({"a": (RESET, POLICY)}, NEVER)
    assert store.look(made.revision).circuits == after.circuits
    assert store.events(10)[1][0][1].cause == "reset"


def test_a_store_that_has_gone_back_in_time_is_renewed_once(store, join):
    before = store.command({"a": (TRIP, POLICY)}, NEVER)
    store.renew(before.incarnation)
    after = store.look(0)
    assert after.incarnation not in (0, before.incarnation)
    assert after.floor > before.floor
    assert after.circuits == before.circuits
    join().renew(before.incarnation)
    assert store.look(0).incarnation == after.incarnation


def test_a_step_does_not_write_into_a_store_that_is_renewed_meanwhile(store, join):
    before = store.command({"a": (TRIP, POLICY)}, NEVER)
    other = join()

    class Meanwhile(DatabaseStore):
        def _save(self, *arguments: Any) -> int | None:
            other.renew(before.incarnation)
            return super()._save(*arguments)

    late = Meanwhile(store.connection, store.namespace)
    with pytest.raises(StoreBusy, match="begun anew"):
        late.command({"a": (RESET, POLICY)}, NEVER)
    assert store.look(0).circuits == before.circuits


@pytest.mark.parametrize("record", ["", "{}", "[]", "nonsense", '{"epoch": "1"}', "[" * 10_000])
def test_a_circuit_that_cannot_be_read_is_dropped_and_shared_again(store, record, caplog):
    before = store.command({"a": (TRIP, POLICY), "b": (TRIP, POLICY)}, NEVER)
    spoil = "UPDATE circuitbreaker_circuit SET record = %s WHERE namespace = %s AND name = 'a'"
    run(store, spoil, record, store.namespace)
    seen = store.look(0)
    assert list(seen.circuits) == ["b"]
    assert seen.floor > before.circuits["a"].epoch
    assert caplog.messages == ["circuits that could not be read are dropped: ['a']"]
    run(store, spoil, record, store.namespace)
    store.command({"a": (RESET, POLICY)}, NEVER)
    run(store, spoil, record, store.namespace)
    assert store.command({"a": (RESET, POLICY)}, NEVER).circuits["a"].epoch > seen.floor
    assert store.look(0).circuits.keys() == {"a", "b"}


def test_what_was_written_since_a_circuit_could_not_be_read_is_kept(store, join, caplog):
    store.command({"a": (TRIP, POLICY)}, NEVER)
    spoil = "UPDATE circuitbreaker_circuit SET record = '?' WHERE namespace = %s AND name = 'a'"
    run(store, spoil, store.namespace)
    other = join()

    class Meanwhile(DatabaseStore):
        def _drop(self, *arguments: Any) -> None:
            other.command({"a": (TRIP, POLICY)}, NEVER)
            super()._drop(*arguments)

    seen = Meanwhile(store.connection, store.namespace).look(0)
    assert seen.circuits["a"].state is CircuitState.OPEN
    assert caplog.messages == ["circuits that could not be read are dropped: ['a']"]  # by the other


def test_operators_see_what_can_be_read(store):
    store.publish("process", INFO, [Declaration("a", {"failure_threshold": 2}, "here")])
    store.publish("other", INFO, [Declaration("b", {}, "there")])
    store.command({"a": (TRIP, POLICY), "b": (TRIP, POLICY)}, NEVER)
    for spoil in (
        "UPDATE circuitbreaker_circuit SET record = '?' WHERE namespace = %s AND name = 'b'",
        "UPDATE circuitbreaker_event SET record = '?' WHERE namespace = %s AND name = 'b'",
        "UPDATE circuitbreaker_process SET info = '{}' WHERE namespace = %s AND id = 'other'",
        "UPDATE circuitbreaker_declaration SET info = '[]' WHERE namespace = %s AND name = 'b'",
    ):
        run(store, spoil, store.namespace)
    overview = store.overview()
    assert list(overview.circuits) == ["a"]
    assert overview.processes == (INFO,)
    assert overview.declarations == {"a": Declaration("a", {"failure_threshold": 2}, "here")}
    assert [name for name, _ in store.events(10)[1]] == ["a"]


def test_rows_that_vanish_again_and_again_are_no_endless_loop(store, monkeypatch):
    monkeypatch.setattr(sql, "ADD_CIRCUITS", "SELECT %s::text[], %s")
    with pytest.raises(StoreBusy, match="again and again"):
        store.command({"a": (TRIP, POLICY)}, NEVER)


# -- who is there ----------------------------------------------------------------------------


def test_a_silent_process_is_gone_after_a_while_and_one_that_ends_at_once(join):
    now = 1_000_000_000
    store = join(clock=lambda: now)
    for process in ("a", "b", "c"):
        store.publish(process, INFO, ())
    store.withdraw("a")
    assert len(store.overview().processes) == 2
    now += 14_000_000
    store.publish("c", INFO, ())
    now += 1_000_000
    assert len(store.overview().processes) == 1
    store.publish("c", INFO, ())
    with at(store) as cursor:
        rows = cursor.rows(
            "SELECT id FROM circuitbreaker_process WHERE namespace = %s", store.namespace
        )
    assert rows == [("c",)]


def test_a_process_that_was_killed_is_gone_at_once_on_its_host(store):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    info = ProcessInfo(host.host_name(), child, "test", 1.0, "", host.pid_space())
    store.publish("process", info, ())
    assert store.overview().processes == ()


def test_declarations_are_kept_for_a_week_after_they_were_last_seen(join):
    now = 1_000_000_000
    store = join(clock=lambda: now)
    store.publish("process", None, [Declaration("a", {}, "here"), Declaration("b", {}, "here")])
    now += 7 * 86_400_000_000 - 1
    store.publish("process", None, [Declaration("b", {"quorum": 2}, "there")])
    assert set(store.overview().declarations) == {"a", "b"}
    assert store.overview().declarations["b"] == Declaration("b", {"quorum": 2}, "there")
    now += 1
    store.publish("process", None, [Declaration("b", {"quorum": 2}, "there")])
    assert set(store.overview().declarations) == {"b"}


def test_what_is_known_of_a_declaration_is_not_written_again(store):
    def version() -> Any:
        with at(store) as cursor:
            return cursor.rows(
                "SELECT xmin::text FROM circuitbreaker_declaration WHERE namespace = %s",
                store.namespace,
            )

    store.publish("process", None, [Declaration("a", {}, "here")])
    before = version()
    store.publish("other", None, [Declaration("a", {}, "here")])
    assert version() == before


def test_calls_over_time_are_summed_and_those_of_long_ago_dropped(join):
    now = 86_400_000_000 * 20_000
    store = join(clock=lambda: now)
    calls = {"a": Counts(60, 6, 3, 2, 1), "b": Counts(1)}
    store.publish("process", None, (), (calls, 0))
    store.publish("other", None, (), (calls, 0))
    minutes = (Bucket(now, Counts(120, 12, 6, 4, 2)),)
    assert store.stats(["a"], day=False).keys() == {"a"}
    assert store.stats(["a"], day=False)["a"].minutes == minutes
    seen = store.stats(None, day=True)
    assert {name: stats.last_hour.calls for name, stats in seen.items()} == {"a": 120, "b": 2}
    assert seen["a"].quarters == minutes
    assert seen["a"].now == now
    now += 3_600_000_000
    assert store.stats(None, day=False) == {}
    assert store.stats(None, day=True)["a"].quarters == minutes
    store.publish("process", None, (), ({"b": Counts(1)}, 0))
    with at(store) as cursor:
        rows = cursor.rows(
            "SELECT name, width FROM circuitbreaker_traffic WHERE namespace = %s"
            " ORDER BY name, width, start",
            store.namespace,
        )
    assert rows == [("a", QUARTER), ("b", MINUTE), ("b", QUARTER), ("b", QUARTER)]


def test_publishing_at_once_nobody_waits_for_another_and_nothing_is_lost(store, join):
    names = [f"circuit {number}" for number in range(150)]

    def tell(number: int) -> Callable[[], None]:
        mine = join()
        ordered = names[:: -1 if number % 2 else 1]
        declared = [Declaration(name, {}, f"at {number}") for name in ordered]

        def job() -> None:
            for turn in range(6):
                calls = {name: Counts(1) for name in ordered}
                mine.publish(str(number), INFO, declared if turn == 3 else (), (calls, 0))

        return job

    at_once(*(tell(number) for number in range(6)))
    seen = store.stats(names, day=True)
    assert {sum(one.counts.calls for one in seen[name].quarters) for name in names} == {36}


# -- where there is too much ------------------------------------------------------------------

HOUR = 3_600_000_000


def test_circuits_on_which_nothing_counts_go_when_there_are_too_many(join, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 3)
    now = HOUR * 24 * 20_000
    store = join(clock=lambda: now)
    fence = make(store)
    for name in "abc":
        store.deliver({name: failed(fence, 5)}, [], teller())
    store.command({"open": (TRIP, POLICY)}, NEVER)
    store.command({"held": (Command(CommandKind.HOLD), POLICY)}, NEVER)
    store.command({"reset": (TRIP, POLICY)}, NEVER)
    reset = store.command({"reset": (RESET, POLICY)}, NEVER).circuits["reset"]
    store.command({"none": (Command(CommandKind.ENABLE), POLICY)}, NEVER)  # a row, and no record
    store.clean()
    assert store.overview().circuits.keys() == {"a", "b", "c", "open", "held"}
    before = store.look(0)
    assert before.floor >= reset.epoch
    assert store.acquire("reset", fence, "token", POLICY, NEVER)[1].floor == before.floor
    now += HOUR
    told = store.deliver({"a": failed(fence, 5)}, [], teller())
    assert now - 5 in told.circuits["a"].failures
    store.clean()
    after = store.look(0)
    assert after.circuits.keys() == {"a", "open", "held"}
    assert after.floor > before.floor
    store.clean()
    assert store.look(0).floor == after.floor


def test_a_circuit_that_is_just_written_does_not_go(store, join, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 0)
    store.command({"a": (RESET, POLICY), "b": (RESET, POLICY)}, NEVER)
    other = join()
    with at(other) as cursor:
        cursor.rows(
            "SELECT 1 FROM circuitbreaker_circuit WHERE namespace = %s AND name = 'a' FOR UPDATE",
            store.namespace,
        )
        store.clean()
    assert store.look(0).circuits.keys() == {"a"}


def test_a_circuit_that_was_written_since_it_was_looked_at_does_not_go(store, join, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 0)
    store.command({"a": (RESET, POLICY), "b": (RESET, POLICY)}, NEVER)
    other = join()

    def meanwhile(policies: Iterable[Mapping[str, Any]]) -> Policy:
        other.command({"a": (TRIP, POLICY)}, NEVER)
        return patient_policy(policies)

    monkeypatch.setattr(module, "patient_policy", meanwhile)
    store.clean()
    assert store.look(0).circuits["a"].state is CircuitState.OPEN


def test_a_window_that_somebody_has_declared_longer_counts_as_long(join, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 0)
    now = HOUR * 24 * 20_000
    store = join(clock=lambda: now)
    store.deliver({"a": failed(make(store), 5)}, [], teller())
    store.publish("process", None, [Declaration("b", {"failure_window": 7200}, "here")])
    now += HOUR
    store.clean()
    assert store.look(0).circuits.keys() == {"a"}


def test_declarations_and_calls_of_breakers_by_key_go_when_there_are_too_many(join, monkeypatch):
    now = HOUR * 24 * 20_000
    store = join(clock=lambda: now)
    for name in ("family:1", "plain:1", "family:3", "family:2", "other"):
        now += 1
        keyed = {"keyed": True} if name.startswith("family") else {}
        calls = {name: Counts(1)}
        store.publish("process", None, [Declaration(name, keyed, "here")], (calls, 0))
    store.clean()
    assert len(store.overview().declarations) == 5
    monkeypatch.setattr(module, "MAX_DECLARED", 3)
    monkeypatch.setattr(module, "MAX_TRAFFIC", 2)
    monkeypatch.setattr(module, "DROP_AT_ONCE", 2)
    store.clean()
    assert store.overview().declarations.keys() == {"plain:1", "family:2", "other"}
    assert len(store.stats(None, day=False)) == 3
    store.clean()
    assert len(store.stats(None, day=False)) == 2
    assert "other" in store.stats(None, day=False)


# -- what hinders it -------------------------------------------------------------------------


def test_a_circuit_that_somebody_else_keeps_locked_is_busy(store, join):
    before = store.command({"a": (TRIP, POLICY)}, NEVER)
    other, quick = join(), join(patience=2)
    with at(other) as cursor:
        cursor.rows(
            "SELECT 1 FROM circuitbreaker_circuit WHERE namespace = %s FOR UPDATE",
            store.namespace,
        )
        with pytest.raises(StoreBusy, match="locked"):
            quick.command({"a": (RESET, POLICY)}, NEVER)
        assert quick.look(0).circuits == before.circuits  # readers do not care
    assert quick.command({"a": (RESET, POLICY)}, NEVER).circuits["a"].openings == 0


def test_a_table_that_somebody_else_keeps_locked_is_a_store_that_is_away(store, join):
    store.publish("process", None, ())
    quick = join(patience=2)
    with at(store) as cursor:
        cursor.run("LOCK TABLE circuitbreaker_store")
        with pytest.raises(StoreLost, match="locked"):
            quick.look(0)
        with pytest.raises(StoreLost, match="locked"):
            quick.publish("process", None, ())
    assert quick.look(0).incarnation


def test_tables_that_are_missing_are_told_with_the_remedy(postgres: Postgres) -> None:
    with registered("bare", postgres.settings("template1")):
        store = DatabaseStore(DatabaseConnection("bare", 10), "x")
        try:
            for use in (lambda: store.look(0), lambda: store.publish("p", None, ())):
                with pytest.raises(StoreLost, match=r"manage\.py migrate"):
                    use()
        finally:
            store.close()
