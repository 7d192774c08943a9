"""The Django signals: their data, and what a receiver may do."""

from __future__ import annotations

import functools
import gc
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from django.dispatch import Signal, receiver
from django.test import override_settings

from circuitbreaker_django import (
    CircuitBreaker,
    CircuitOpenError,
    breakers,
    registries,
    signals,
)
from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.store import StoreLost
from circuitbreaker_django.core import telling
from circuitbreaker_django.core.circuit import CommandKind
from circuitbreaker_django.operations.room import ControlRoom
from circuitbreaker_django.testing import live_breakers, override_breaker
from tests.core.calls import failing, ok

ALL = {name: each for name, each in vars(signals).items() if isinstance(each, Signal)}
DOCS = Path(__file__).parents[1] / "docs"


pytestmark = pytest.mark.usefixtures("receivers_as_before")


@pytest.fixture
def received(receivers_as_before):
    """All that is sent: the signal's name, and the data."""
    received: list[Any] = []

    def connect(name, each):
        def note(sender, signal, **data):
            assert signal is each
            assert sender is (Backend if name.startswith("backend") else CircuitBreaker)
            received.append((name, data))

        each.connect(note, weak=False)

    for name, each in ALL.items():
        connect(name, each)
    return received


@pytest.fixture
def payments(settings):
    settings.CIRCUIT_BREAKERS = {"default": {"BREAKERS": {"payments": {"failure_threshold": 1}}}}
    with live_breakers():
        yield breakers["payments"]


def rejected(breaker):
    with pytest.raises(CircuitOpenError):
        breaker.call(ok)


# -- what is sent --------------------------------------------------------------------------------


def test_a_change_is_sent_with_plain_data(payments, received):
    failing(payments)
    epoch = payments.view.circuit.epoch
    assert received == [
        (
            "state_changed",
            {
                "registry": "default",
                "name": "payments",
                "before": "closed",
                "after": "open",
                "mode": "auto",
                "cause": "1 failure within 60 s",
                "actor": "",
                "reason": "",
                "last_error": "Down",
                "last_message": "",
                "failures": 1,
                "calls": 0,
                "slow": 0,
                "retry_after": 30.0,
                "epoch": epoch,
                "origin": True,
                "alone": False,
            },
        )
    ]


def test_a_rejection_is_sent_with_plain_data(payments, received):
    failing(payments)
    received.clear()
    for _ in range(3):
        rejected(payments)
    data = {"registry": "default", "name": "payments", "state": "open", "retry_after": 30.0}
    assert received == [("call_rejected", data)] * 3


def test_a_command_is_sent_before_the_change_that_it_leads_to(payments, received):
    before = time.time()
    payments.trip(duration=60, actor="ann", reason="upgrade" * 100)
    (name, data), (second, change) = received
    assert (name, second) == ("command_applied", "state_changed")
    assert before + 60 <= data.pop("until") <= time.time() + 60
    assert data == {
        "registry": "default",
        "name": "payments",
        "command": "hold",
        "mode": "forced_open",
        "actor": "ann",
        "reason": ("upgrade" * 100)[:500],
        "epoch": change["epoch"],
    }
    assert (change["cause"], change["actor"], change["mode"]) == ("hold", "ann", "forced_open")
    received.clear()
    payments.reset()
    assert received[0][1]["command"] == "reset"
    assert received[0][1]["until"] is None


def test_all_data_is_of_plain_types(payments, received, tmp_path):
    payments.trip(hold=True)
    rejected(payments)
    payments.reset()
    backend = lose_and_find(tmp_path)
    assert {name for name, _ in received} == set(ALL)
    for _, data in received:
        assert {type(value) for value in data.values()} <= {str, int, float, bool, type(None)}
        assert json.loads(json.dumps(data)) == data
    assert backend.problem is None


def lose_and_find(tmp_path):
    backend = SQLiteBackend(tmp_path / "c.sqlite3")
    backend.threads = False
    backend.registry = "eu"
    try:
        CircuitBreaker("payments", backend=backend).call(ok)
        process = backend._here()
        assert process.file is not None
        backend._lost(process, process.file, StoreLost("the disk is full"))
        backend.keep_house(process)
    finally:
        backend.close()
    return backend


def test_the_loss_of_the_store_and_its_return_are_sent_once_each(received, tmp_path):
    place = lose_and_find(tmp_path).describe()
    assert received == [
        ("backend_degraded", {"registry": "eu", "place": place, "problem": "the disk is full"}),
        ("backend_recovered", {"registry": "eu", "place": place}),
    ]


def test_a_breaker_made_by_hand_has_no_registry_and_perhaps_no_name(received):
    breaker = CircuitBreaker(failure_threshold=1)
    failing(breaker)
    rejected(breaker)
    assert [(data["registry"], data["name"]) for _, data in received] == [(None, None)] * 2
    breaker.trip()
    assert {data["name"] for _, data in received} == {None}


def test_the_alias_is_that_of_the_registry(settings, received):
    settings.CIRCUIT_BREAKERS = {"default": {}, "eu": {"BREAKERS": {"payments": {}}}}
    with live_breakers():
        registries["eu"]["payments"].trip()
    with override_breaker("payments", state="closed", registry="eu") as breaker:
        breaker.trip()
    assert {data["registry"] for _, data in received} == {"eu"}
    assert len(received) == 4


@pytest.mark.parametrize("state", ["open", "half_open", "closed"])
def test_a_breaker_that_is_put_into_a_state_for_a_test_has_not_changed(payments, received, state):
    with override_breaker("payments", state=state) as breaker:
        assert breaker.state == state
    assert received == []


def test_an_order_from_outside_is_sent_where_it_is_given(received, tmp_path, monkeypatch):
    monkeypatch.setattr("circuitbreaker_django.operations.room.in_test_environment", lambda: False)
    setting = {"default": {"LOCATION": str(tmp_path / "c.sqlite3"), "BREAKERS": {"payments": {}}}}
    with override_settings(CIRCUIT_BREAKERS=setting):
        room = ControlRoom(registries["default"])
        room.order(["payments"], CommandKind.TRIP, actor="ann", reason="drill", force=True)
        room.close()
    command, change = (data for _, data in received)
    assert (command["registry"], command["command"], command["actor"]) == ("default", "trip", "ann")
    assert (change["registry"], change["origin"], change["after"]) == ("default", True, "open")


# -- receivers -----------------------------------------------------------------------------------


def test_a_receiver_that_raises_hurts_nobody_and_is_logged_once_by_its_name(
    payments, received, caplog
):
    @receiver(signals.state_changed)
    def broken(**kwargs):
        raise RuntimeError("no")

    failing(payments)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "broken" in record.getMessage()
    assert payments.state == "open"


def test_a_receiver_without_a_name_is_logged_too(payments, caplog):
    broken = functools.partial(lambda reason, **kwargs: int(reason), **{})
    later = []
    signals.state_changed.connect(broken)
    signals.state_changed.connect(lambda **data: later.append(data), weak=False)
    payments.trip(reason="not a number")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "partial" in record.getMessage()
    assert len(later) == 1


async def notify(**kwargs):
    raise NotImplementedError


class Notifier:
    async def __call__(self, **kwargs):
        raise NotImplementedError


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("receiver", [notify, functools.partial(notify), Notifier()])
def test_an_async_receiver_is_refused_with_the_remedy(name, receiver):
    with pytest.raises(TypeError, match=r"is async.*connect a plain function"):
        ALL[name].connect(receiver)
    assert not ALL[name].has_listeners(CircuitBreaker)


async def test_on_an_event_loop_a_receiver_is_called_in_place(payments, received):
    thread = []
    signals.state_changed.connect(lambda **kwargs: thread.append(threading.get_ident()), weak=False)

    @payments
    async def work():
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await work()
    with pytest.raises(CircuitOpenError):
        await work()
    assert [name for name, _ in received] == ["state_changed", "call_rejected"]
    assert thread == [threading.get_ident()]


def test_a_receiver_may_steer_the_breaker_that_it_hears_of(payments, received):
    @receiver(signals.state_changed)
    def hold(name, before, after, mode, **kwargs):
        if (after, mode) == ("open", "auto"):
            breakers[name].trip(hold=True, actor="watchdog")

    failing(payments)
    assert payments.mode == "forced_open"
    assert [(name, data["mode"]) for name, data in received] == [
        ("state_changed", "auto"),
        ("command_applied", "forced_open"),
        ("state_changed", "forced_open"),
    ]


def test_receivers_that_answer_each_other_come_to_an_end(payments, caplog):
    times = []

    @receiver(signals.state_changed)
    def again(name, **kwargs):
        times.append(name)
        breakers[name].trip()

    payments.trip()
    assert len(times) == telling.MAX_CHAIN
    assert "answer each other without an end" in caplog.text


def test_a_receiver_of_rejections_may_be_rejected(payments):
    times = []

    @receiver(signals.call_rejected)
    def again(name, **kwargs):
        times.append(name)
        rejected(breakers[name])

    payments.trip(hold=True)
    rejected(payments)
    assert times == ["payments"]


# -- what it costs ---------------------------------------------------------------------------------


def test_rejections_cost_nothing_until_somebody_listens_and_after_he_has_gone():
    def count(**kwargs):
        raise NotImplementedError

    def other(**kwargs):
        raise NotImplementedError

    assert telling.rejection_listeners == []
    signals.call_rejected.connect(count)
    signals.call_rejected.connect(other, sender=CircuitBreaker)
    assert len(telling.rejection_listeners) == 1
    assert signals.call_rejected.disconnect(count)
    assert len(telling.rejection_listeners) == 1
    assert signals.call_rejected.disconnect(other, sender=CircuitBreaker)
    assert telling.rejection_listeners == []
    assert not signals.call_rejected.disconnect(count)


def test_a_receiver_that_is_gone_is_forgotten_with_the_next_change(payments):
    signals.call_rejected.connect(functools.partial(print))
    gc.collect()
    payments.trip()
    rejected(payments)
    signals.call_rejected.disconnect(print)
    assert telling.rejection_listeners == []


# -- the documentation -----------------------------------------------------------------------------


@pytest.mark.skipif(not DOCS.is_dir(), reason="docs/ is not here")
def test_every_datum_of_every_signal_is_documented(payments, received, tmp_path):
    payments.trip(hold=True)
    rejected(payments)
    lose_and_find(tmp_path)
    page = (DOCS / "events.md").read_text(encoding="utf-8")
    for name, data in received:
        section = page.split(f"## `{name}`", 1)[1].split("\n## ", 1)[0]
        documented = {
            key
            for line in re.findall(r"^\| (`.*?) \|", section, re.M)
            for key in re.findall(r"\w+", line)
        }
        assert documented | {"registry", "name"} == set(data) | {"registry", "name"}, name
