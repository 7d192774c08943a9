from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from circuitbreaker_django.core.circuit import Circuit, Event, Override, Permit, Witness
from circuitbreaker_django.core.record import dump_circuit, dump_event, load_circuit, load_event
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.core.window import Slice

times = st.integers(-(2**63), 2**63 - 1)
counts = st.integers(0, 2**63 - 1)
texts = st.text(max_size=20)
slices = st.builds(Slice, times, counts, counts, counts)
overrides = st.builds(
    Override, st.sampled_from(Mode), times, times, st.none() | times, texts, texts
)
plain_circuits = st.builds(
    Circuit,
    epoch=st.integers(1, 2**63 - 1),
    state=st.sampled_from([CircuitState.CLOSED, CircuitState.OPEN]),
    since=times,
    retry_at=times,
    openings=counts,
    failures=st.lists(times, max_size=5).map(lambda values: tuple(sorted(values))),
    trials=counts,
    trial_successes=counts,
    permits=st.lists(st.builds(Permit, texts, times), max_size=3).map(tuple),
    slices=st.lists(slices, max_size=3, unique_by=lambda one: one.start).map(
        lambda values: tuple(sorted(values, key=lambda one: one.start))
    ),
    suspect_since=times,
    witnesses=st.lists(st.builds(Witness, texts, times), max_size=3).map(tuple),
    spared=counts,
    override=st.none() | overrides,
    actor=texts,
    reason=texts,
    last_error=texts,
    last_message=texts,
    last_error_at=times,
)
circuits = plain_circuits | st.builds(
    lambda circuit, override, aside: replace(circuit, override=replace(override, aside=aside)),
    plain_circuits,
    overrides,
    plain_circuits,
)
events = st.builds(
    Event,
    epoch=times,
    at=times,
    before=st.sampled_from(CircuitState),
    after=st.sampled_from(CircuitState),
    mode=st.sampled_from(Mode),
    cause=texts,
    actor=texts,
    reason=texts,
    failures=counts,
    last_error=texts,
    calls=counts,
    slow=counts,
    last_message=texts,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)

WHOLE = Circuit(
    epoch=7,
    state=CircuitState.OPEN,
    failures=(1, 2),
    slices=(Slice(1, 5, 3, 2), Slice(4, 1)),
    witnesses=(Witness("one", 2),),
    permits=(Permit("a", 9),),
    override=Override(Mode.FORCED_OPEN, 7, 1, 99, "ann", "upgrade", aside=Circuit(epoch=3)),
)
EVENT = Event(7, 1, CircuitState.CLOSED, CircuitState.OPEN, Mode.AUTO, "trip")


@given(circuits)
@example(WHOLE)
def test_a_circuit_comes_back_as_it_was(circuit):
    assert load_circuit(dump_circuit(circuit)) == circuit


@given(events)
@example(EVENT)
def test_an_event_comes_back_as_it_was(event):
    assert load_event(dump_event(event)) == event


def test_a_record_is_one_line():
    dumped = dump_circuit(replace(WHOLE, reason="a\nb\u2028c"))
    assert dumped.isprintable()
    assert dump_event(replace(EVENT, reason="a\nb")).isprintable()


@given(json_values | circuits.map(asdict), st.sampled_from([load_circuit, load_event]))
def test_garbage_is_a_value_error_and_nothing_else(garbage, load):
    try:
        load(json.dumps(garbage))
    except ValueError:
        pass


@pytest.mark.parametrize("load", [load_circuit, load_event])
@pytest.mark.parametrize(
    "text",
    [None, 5, "", "{", "null", "[]", "[" * 100_000, "1" * 5000, b"\xff", b"\x00" * 16, '"text"'],
)
def test_what_is_no_json_object_is_a_value_error(load, text):
    with pytest.raises(ValueError):
        load(text)


@given(st.sampled_from(sorted(asdict(WHOLE))), json_values)
def test_a_circuit_with_one_wrong_field_is_refused_or_still_usable(key, value):
    try:
        circuit = load_circuit(json.dumps({**asdict(WHOLE), key: value}))
    except ValueError:
        return
    assert load_circuit(dump_circuit(circuit)) == circuit


@pytest.mark.parametrize("key", sorted(asdict(WHOLE)))
def test_a_circuit_without_one_of_its_fields_is_refused(key):
    data = asdict(WHOLE)
    del data[key]
    with pytest.raises(ValueError, match=rf"not a record: .*{key}"):
        load_circuit(json.dumps(data))


@pytest.mark.parametrize("key", sorted(asdict(EVENT)))
def test_an_event_without_one_of_its_fields_is_refused(key):
    data = asdict(EVENT)
    del data[key]
    with pytest.raises(ValueError, match=rf"not a record: .*{key}"):
        load_event(json.dumps(data))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epoch", 0),
        ("epoch", -1),
        ("epoch", True),
        ("epoch", 1.0),
        ("epoch", 2**63),
        ("since", -(2**63) - 1),
        ("state", "half_open"),
        ("state", "ajar"),
        ("state", None),
        ("openings", -1),
        ("trials", -1),
        ("trial_successes", -1),
        ("failures", [1, "2"]),
        ("failures", [False]),
        ("failures", {"1": 2}),
        ("permits", [None]),
        ("permits", [{"token": "a"}]),
        ("permits", [{"token": 1, "expires": 1}]),
        ("override", []),
        ("override", {}),
        ("override", {**asdict(WHOLE)["override"], "mode": "closed"}),
        ("override", {**asdict(WHOLE)["override"], "aside": []}),
        ("slices", [{"start": 1, "calls": -1, "failures": 0, "slow": 0}]),
        ("slices", [3]),
        ("witnesses", [{"origin": 1, "seen_at": 1}]),
        ("spared", -1),
        ("override", {**asdict(WHOLE)["override"], "until": "soon"}),
        ("override", {k: v for k, v in asdict(WHOLE)["override"].items() if k != "until"}),
        ("actor", None),
        ("reason", 5),
    ],
)
def test_a_value_that_no_circuit_has_is_refused(key, value):
    with pytest.raises(ValueError):
        load_circuit(json.dumps({**asdict(WHOLE), key: value}))


def test_keys_of_a_newer_release_are_passed_over():
    assert load_circuit(json.dumps({**asdict(WHOLE), "quorum": 3})) == WHOLE
    assert load_event(json.dumps({**asdict(EVENT), "quorum": 3})) == EVENT


def test_failures_are_brought_into_order():
    assert load_circuit(json.dumps({**asdict(WHOLE), "failures": [3, 1, 2]})).failures == (1, 2, 3)


@pytest.mark.parametrize(
    ("load", "text", "message"),
    [
        (load_circuit, "[]", "not a record: no JSON object"),
        (load_circuit, None, "not a record: the JSON object must be str, .*"),
        (load_circuit, {"state": "half_open"}, "not a record: half-open is derived and never .*"),
        (load_circuit, {"epoch": 0}, "not a record: epoch is no whole number in its range"),
        (load_circuit, {"failures": [None]}, "not a record: failures is no whole number in .*"),
        (load_circuit, {"failures": 3}, "not a record: failures is no list"),
        (load_circuit, {"actor": 3}, "not a record: actor is no text"),
        (load_event, {"calls": "3"}, "not a record: calls is no whole number in its range"),
    ],
)
def test_what_is_refused_is_named(load, text, message):
    if isinstance(text, dict):
        whole = WHOLE if load is load_circuit else EVENT
        text = json.dumps({**asdict(whole), **text})
    with pytest.raises(ValueError, match=f"^{message}$"):
        load(text)


@pytest.mark.parametrize("key", ["failures", "calls", "slow"])
def test_nothing_is_counted_below_zero(key):
    one = {"start": 1, "calls": 1, "failures": 1, "slow": 1, key: -1}
    with pytest.raises(ValueError, match=key):
        load_event(json.dumps({**asdict(EVENT), key: -1}))
    with pytest.raises(ValueError, match=key):
        load_circuit(json.dumps({**asdict(WHOLE), "slices": [one]}))


def test_a_record_wastes_no_space():
    assert " " not in dump_circuit(replace(WHOLE, actor="", reason="", last_error=""))
    assert " " not in dump_event(replace(EVENT, cause="", actor="", reason="", last_error=""))
