"""The scripts on a real server against ``core/circuit.py``, on whatever circuits and inputs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from circuitbreaker_django.backends.redis import RedisBackend, RedisStore
from circuitbreaker_django.backends.redis_scripts import CLEAN, as_text, policy_data
from circuitbreaker_django.backends.remote_store import Snapshot, Teller
from circuitbreaker_django.backends.store import Evidence, Report
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import (
    Circuit,
    Command,
    CommandKind,
    Event,
    Override,
    Permit,
    Witness,
)
from circuitbreaker_django.core.errors import CircuitConflictError
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.record import dump_circuit, load_circuit
from circuitbreaker_django.core.states import CircuitState, Mode, Outcome
from circuitbreaker_django.core.window import Slice
from tests.backends.servers import RedisServer, find_server, short_folder
from tests.clock import Clock

SECOND = 1_000_000
#: The time of the server; of this century, so that numbers are as long as they will be.
NOW = 1_795_601_209_998_994
#: That of the process.
OWN = 12_692_829_007
NEVER = 2**52

ages = st.integers(-3 * SECOND, 12 * SECOND)
moments = ages.map(lambda age: NOW - age)
past = st.one_of(st.just(0), moments)
ends = st.one_of(moments, st.integers(NOW, NOW + 7200 * SECOND))
small = st.integers(0, 4)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
long_texts = st.one_of(texts, st.just("é" * 600))
tokens = st.sampled_from(["a", "b", "c"])
origins = st.sampled_from(["one", "two", "three"])
epochs = st.one_of(st.integers(1, 9), moments)
shares = st.one_of(st.sampled_from([0.25, 0.5, 1]), st.floats(0.05, 1))
# Of a few lengths, so that slices and windows meet; and any.
lengths = st.one_of(st.sampled_from([1, 2.5, 10]), st.floats(0.001, 20))

slices = st.builds(Slice, start=moments, calls=small, failures=small, slow=small)
policies = st.builds(
    Policy,
    failure_threshold=st.one_of(st.none(), st.integers(1, 4)),
    failure_window=lengths,
    failure_rate_threshold=st.one_of(st.none(), shares),
    slow_call_duration=st.one_of(st.none(), st.sampled_from([0.25, 1, 1234567.8])),
    slow_call_rate_threshold=shares,
    minimum_calls=st.integers(1, 6),
    consecutive_failures=st.one_of(st.none(), st.integers(1, 4)),
    quorum=st.integers(1, 3),
    recovery_timeout=lengths,
    recovery_backoff=st.floats(1, 100),
    recovery_timeout_max=st.one_of(st.none(), lengths),
    recovery_jitter=st.floats(0, 1),
    half_open_max_calls=st.integers(1, 3),
    success_threshold=st.integers(1, 3),
    trial_timeout=lengths,
    ramp_up=st.one_of(st.just(0.0), lengths),
    initial_mode=st.sampled_from(Mode),
)


def sorted_tuples(items: Any, by: Any = None, most: int = 5) -> Any:
    return st.lists(items, max_size=most).map(lambda found: tuple(sorted(found, key=by)))


overrides = st.builds(
    Override,
    mode=st.sampled_from(Mode),
    epoch=epochs,
    since=moments,
    until=st.one_of(st.none(), ends),
    actor=texts,
    reason=texts,
)


def circuits(override: Any) -> Any:
    return st.builds(
        Circuit,
        epoch=epochs,
        state=st.sampled_from([CircuitState.CLOSED, CircuitState.OPEN]),
        since=past,
        retry_at=st.one_of(past, ends),
        openings=st.one_of(small, st.just(10**6)),
        failures=sorted_tuples(moments),
        slices=st.lists(slices, max_size=5, unique_by=lambda one: one.start).map(
            lambda found: tuple(sorted(found, key=lambda one: one.start))
        ),
        suspect_since=past,
        witnesses=st.lists(
            st.builds(Witness, origin=origins, seen_at=moments),
            max_size=3,
            unique_by=lambda one: one.origin,
        ).map(lambda found: tuple(sorted(found, key=lambda one: one.seen_at))),
        spared=small,
        trials=small,
        trial_successes=small,
        permits=st.lists(
            st.builds(Permit, token=tokens, expires=ends),
            max_size=3,
            unique_by=lambda one: one.token,
        ).map(tuple),
        override=override,
        actor=texts,
        reason=texts,
        last_error=texts,
        last_message=texts,
        last_error_at=past,
    )


with_aside = st.builds(
    lambda override, aside: replace(override, mode=Mode.METRICS_ONLY, aside=aside),
    overrides,
    st.one_of(st.none(), circuits(st.none())),
)
# What moves most often: by itself, closed and counting, or open with its wait just over.
usual_policies = policies.map(lambda policy: replace(policy, initial_mode=Mode.AUTO))
closed = st.builds(
    lambda circuit, since: replace(circuit, state=CircuitState.CLOSED, since=since),
    circuits(st.none()),
    moments,
)
any_circuit = st.one_of(circuits(st.one_of(st.none(), overrides, with_aside)), closed)
any_policy = st.one_of(policies, usual_policies)


class Scripts:
    """One circuit on a server, and what scripts make of it."""

    def __init__(self, store: RedisStore, client: Any, prefix: str) -> None:
        self.store = store
        self.client = client
        self.prefix = prefix
        self.incarnation = self.store.publish("process", None, ()).incarnation

    def put(self, circuit: Circuit) -> None:
        self.client.hset(self.prefix + "circuits", "payments", dump_circuit(circuit))

    def raw(self) -> Circuit:
        return load_circuit(self.client.hget(self.prefix + "circuits", "payments").decode())


@pytest.fixture(scope="module", params=["redis-server", "valkey-server"])
def scripts(request: pytest.FixtureRequest) -> Iterator[Scripts]:
    clock = Clock(NOW)
    for folder in short_folder():
        server = RedisServer(folder, program=find_server(request.param))
        server.start()
        backend = RedisBackend(
            server.url, namespace="lua", threads=False, clock=clock, server_clock=clock
        )
        store = backend.connect(5)
        with closing(server.client()) as client:
            yield Scripts(store, client, backend.prefix)
        store.close()
        server.kill()
    backend.close()


thorough = settings(
    max_examples=settings().max_examples * 3 // 2,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def same(scripts: Scripts, seen: Snapshot, circuit: Circuit, events: tuple[Event, ...]) -> None:
    """What the script says and has written is what Python makes of it."""
    assert seen.circuits["payments"] == circuit
    assert list(seen.events) == [("payments", event) for event in events]
    assert scripts.raw() == circuit


@thorough
@given(
    circuit=any_circuit,
    policy=any_policy,
    stale=st.sampled_from([0, 0, 0, 1]),
    times=sorted_tuples(ages.map(lambda age: OWN - age)),
    error=long_texts,
    calls=st.lists(slices.map(lambda one: replace(one, start=one.start - NOW + OWN)), max_size=4),
    streak=small,
    asked=st.integers(0, 100 * SECOND),
    spared=small,
    elsewhere=st.sampled_from([0, 0, 0, 1]),
    origin=origins,
    patience=st.sampled_from([0, SECOND]),
    message=long_texts,
)
def test_counting(
    scripts,
    circuit,
    policy,
    stale,
    times,
    error,
    calls,
    streak,
    asked,
    spared,
    elsewhere,
    origin,
    patience,
    message,
):
    settled = core.settle(circuit, NOW)
    evidence = Evidence(
        fence=(scripts.incarnation, settled.epoch + stale),
        policy=policy,
        times=times,
        last_error=error,
        slices=tuple(calls),
        streak=streak,
        retry_at=OWN + asked,
        spared=spared,
        paper=core.paper(settled) + elsewhere,
        last_message=message,
    )
    scripts.put(circuit)
    seen = scripts.store.deliver(
        {"payments": evidence}, [], Teller(OWN, origin, patience, before=NEVER)
    )
    batch = evidence.as_batch(OWN, NOW, origin, patience)
    same(scripts, seen, *core.record(circuit, batch, policy, NOW))


@thorough
@given(circuit=any_circuit, policy=any_policy, stale=st.sampled_from([0, 0, 0, 1]), token=tokens)
def test_asking_for_a_permit(scripts, circuit, policy, stale, token):
    epoch = core.settle(circuit, NOW).epoch + stale
    scripts.put(circuit)
    grant, seen = scripts.store.acquire(
        "payments", (scripts.incarnation, epoch), token, policy, NEVER
    )
    after, expected, events = core.acquire(circuit, epoch, token, policy, NOW)
    assert grant == expected
    same(scripts, seen, after, events)


@thorough
@given(
    circuit=any_circuit,
    policy=any_policy,
    stale=st.sampled_from([0, 0, 0, 1]),
    token=tokens,
    outcome=st.sampled_from(Outcome),
    error=long_texts,
    asked=st.integers(0, 100 * SECOND),
    message=long_texts,
)
def test_the_end_of_a_trial(scripts, circuit, policy, stale, token, outcome, error, asked, message):
    epoch = core.settle(circuit, NOW).epoch + stale
    scripts.put(circuit)
    fence = (scripts.incarnation, epoch)
    report = Report("payments", fence, token, policy, outcome, error, OWN + asked, message)
    seen = scripts.store.deliver({}, [report], Teller(OWN, "", 0, before=NEVER))
    expected = core.report(circuit, epoch, token, outcome, policy, NOW, error, asked, message)
    same(scripts, seen, *expected)


@thorough
@given(
    circuit=any_circuit,
    policy=any_policy,
    kind=st.sampled_from(CommandKind),
    duration=st.one_of(st.none(), st.integers(1, 100 * SECOND)),
    actor=long_texts,
    reason=long_texts,
    expected=st.sampled_from([None, None, 0, 1]),
)
def test_commands(scripts, circuit, policy, kind, duration, actor, reason, expected):
    epoch = None if expected is None else circuit.epoch + expected
    order = Command(kind, duration, actor, reason, epoch)
    scripts.put(circuit)
    result = core.command(circuit, order, policy, NOW)
    if result is None:
        with pytest.raises(CircuitConflictError, match="payments"):
            scripts.store.command({"payments": (order, policy)}, NEVER)
        assert scripts.raw() == circuit
    else:
        same(scripts, scripts.store.command({"payments": (order, policy)}, NEVER), *result)


@thorough
@given(circuit=any_circuit)
@example(circuit=Circuit(1, failures=(2**53 - 1,), reason='"\\/\x00\x7f\u2028', actor="🚦"))
def test_a_circuit_comes_back_as_it_was(scripts, circuit):
    scripts.put(circuit)
    order = Command(CommandKind.TRIP, expected_epoch=circuit.epoch + 1)
    with pytest.raises(CircuitConflictError):
        scripts.store.command({"payments": (order, Policy())}, NEVER)
    report = Report("payments", (scripts.incarnation, 0), "", Policy(), Outcome.SUCCESS, "")
    seen = scripts.store.deliver({}, [report], Teller(OWN, "", 0, before=NEVER))
    assert seen.circuits["payments"] == core.settle(circuit, NOW)


@thorough
@given(circuit=any_circuit, policy=any_policy)
def test_what_may_be_dropped(scripts, circuit, policy):
    scripts.put(circuit)
    before = scripts.store.look(0)
    told = {"names": ["payments", "nobody"], "policy": policy_data(policy), "declarations": []}
    dropped = scripts.store._change(lambda client: scripts.store._run(client, CLEAN, as_text(told)))
    assert dropped == core.is_blank(circuit, policy, NOW)
    after = scripts.store.look(0)
    assert (after.floor > max(before.floor, circuit.epoch)) if dropped else (after == before)
    assert bool(scripts.client.hexists(scripts.prefix + "circuits", "payments")) != bool(dropped)


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    texts,
    st.just({}),
    st.just([]),
    st.just([None]),
    st.just({"since": 1}),
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is something in a value of JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from paths(item, (*path, key))


@st.composite
def damaged(draw: Any) -> str:
    """The record of a circuit in which something is missing, or something else."""
    data = json.loads(dump_circuit(draw(any_circuit)))
    *inner, last = draw(st.sampled_from(list(paths(data))))
    there = data
    for key in inner:
        there = there[key]
    if draw(st.booleans()):
        there[last] = draw(anything)
    else:
        del there[last]
    return json.dumps(data)


@thorough
@given(text=damaged())
def test_what_is_no_circuit_is_dropped_before_it_is_used(scripts, text):
    scripts.client.hset(scripts.prefix + "circuits", "payments", text)
    before = scripts.store.look(2**62)
    report = Report("payments", (scripts.incarnation, 0), "", Policy(), Outcome.SUCCESS, "")
    seen = scripts.store.deliver({}, [report], Teller(OWN, "", 0, before=NEVER))
    if seen.floor == before.floor:
        assert seen.circuits["payments"] == scripts.raw()  # what remains is one that Python reads
    else:
        assert seen.circuits["payments"] == Circuit(epoch=seen.floor)
    with suppress(ValueError):
        circuit = load_circuit(text)
        if seen.floor == before.floor:
            assert seen.circuits["payments"] == core.settle(circuit, NOW)
        else:  # Lua's numbers end earlier
            assert re.search(r"\d{16}", text)


def test_what_somebody_else_has_dropped_or_written_meanwhile_is_left(scripts, caplog):
    scripts.put(Circuit(7))
    before = scripts.store.look(0)
    scripts.store._drop([b"payments", b"garbage", b"nobody", b"garbage"])
    assert scripts.store.look(0) == before
    assert caplog.messages == []


def test_the_floor_is_above_whatever_a_dropped_row_was(scripts, caplog):
    before = scripts.store.look(0)
    scripts.client.hset(scripts.prefix + "circuits", "payments", "garbage")
    scripts.store._drop([b"payments", b"garbage"])
    after = scripts.store.look(2**62)
    assert after.floor > before.floor
    assert after.floor >= NOW
    assert after.revision > before.revision
    assert len(caplog.messages) == 1


def test_the_floor_is_above_a_dropped_row_of_before_the_clock_was_set_back(scripts):
    clock = Clock(NOW)
    store = RedisStore(scripts.store._connect, "set back:", clock)
    store.publish("process")
    clock.advance(60)
    reset = {"payments": (Command(CommandKind.RESET), Policy())}
    before = store.command(reset, NEVER).circuits["payments"]
    clock.advance(-3600)
    scripts.client.hset("set back:circuits", "payments", "garbage")
    store._drop([b"payments", b"garbage"])
    assert store.look(2**62).floor > before.epoch
    store.close()


def test_of_bytes_that_are_no_text_a_step_and_the_history_are_told_all_the_same(scripts):
    row = dump_circuit(Circuit(7, last_error="Error")).encode().replace(b'"Error"', b'"\xffError"')
    scripts.client.hset(scripts.prefix + "circuits", "payments", row)
    slow = Policy(slow_call_duration=1, minimum_calls=1)
    evidence = Evidence((scripts.incarnation, 7), slow, slices=(Slice(OWN, 1, 0, 1),))
    told = scripts.store.deliver(
        {"payments": evidence}, [], Teller(OWN, "", 0, before=NEVER)
    ).events
    assert [event.last_error for _, event in told] == ["\ufffdError"]
    assert tuple(scripts.store.events(1)[1]) == told


def test_any_number_of_rows_that_are_no_circuits_is_dropped(scripts, caplog):
    names = [f"garbage {number}" for number in range(9000)]  # more than Lua returns at once
    scripts.client.hset(scripts.prefix + "circuits", mapping=dict.fromkeys(names, "garbage"))
    scripts.client.zadd(scripts.prefix + "changes", dict.fromkeys(names, NOW))
    assert not scripts.store.look(0).circuits.keys() & names
    assert not set(scripts.client.hkeys(scripts.prefix + "circuits")) - {b"", b"payments"}
    [line] = caplog.messages
    assert line.startswith("circuits that could not be read are dropped: [")
    assert line.endswith("] and 8980 more")
