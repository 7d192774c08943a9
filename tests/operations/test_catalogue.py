"""Which breakers are known and meant, and what is said of each."""

from __future__ import annotations

import json

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from circuitbreaker_django import (
    CircuitBreaker,
    CircuitState,
    UnknownBreakerError,
    registries,
)
from circuitbreaker_django.backends.store import Declaration
from circuitbreaker_django.core import options
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.operations.catalogue import choose
from tests.operations.conftest import publish, trip


def test_known_are_names_of_settings_of_code_here_of_code_there_and_of_the_store(
    enter, config, worker
):
    config["BREAKERS"] = {"of settings": {}}
    registries["default"].declare("of code here")
    publish(worker, "of code there")
    worker.trip()
    room = enter()
    assert room.known.names() == ["of code here", "of code there", "of settings", "payments"]
    assert [row.where for row in room.status(room.known.names())] == [
        registries["default"].declaration("of code here").where,
        "shop/pay.py:3",
        "settings.CIRCUIT_BREAKERS",
        "",
    ]


def test_chosen_are_all_or_those_named_each_once(enter, config):
    config["BREAKERS"] = {"one": {}, "two": {}}
    assert enter().known.choose([]) == ["one", "two"]
    assert enter().known.choose(["two", "one", "two"]) == ["two", "one"]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (["tenant:*"], ["tenant:*"]),
        (["tenant:?"], ["tenant:*", "tenant:a", "tenant:b"]),
        (["tenant:[ab]", "tenant:a"], ["tenant:a", "tenant:b"]),
        (["tenant:b", "*:b", "host:*"], ["tenant:b", "host:b"]),
        (["TENANT:b*", "*"], None),
    ],
)
def test_a_pattern_stands_for_the_names_it_fits_unless_it_is_a_name(wanted, chosen):
    known = ["host:b", "tenant", "tenant:*", "tenant:a", "tenant:b"]
    if chosen is None:
        with pytest.raises(UnknownBreakerError, match=r"no breaker fits 'TENANT:b\*' in a place"):
            choose(wanted, known, "a place")
    else:
        assert choose(wanted, known, "a place") == chosen


def test_chosen_by_a_pattern_are_names_of_settings_code_and_the_store(enter, config, worker):
    config["BREAKERS"] = {"tenant:a": {}, "tenant:*": {"failure_threshold": 9}}
    publish(worker, "tenant:b")
    assert enter().known.choose(["tenant:*"]) == ["tenant:a", "tenant:b"]
    [a, b] = trip(enter(), *enter().known.choose(["tenant:*"]))
    assert [a.state, b.state] == [CircuitState.OPEN] * 2
    assert [a.policy.failure_threshold, b.policy.failure_threshold] == [9, 9]


def test_the_command_takes_patterns(enter, config, worker, capsys):
    config["BREAKERS"] = {"tenant:a": {}, "tenant:b": {}, "host:a": {}}
    other = {"LOCATION": str(config["LOCATION"]) + "x", "BREAKERS": {"tenant:c": {}, "stock": {}}}

    def command(*words):
        with override_settings(CIRCUIT_BREAKERS={"default": config, "other": other}):
            call_command("breaker", *words)
        return capsys.readouterr().out

    command("trip", "tenant:*", "--hold", "--no-input")
    rows = json.loads(command("status", "--format=json", "tenant:*"))
    assert [(row["name"], row["state"]) for row in rows] == [
        ("tenant:a", "open"),
        ("tenant:b", "open"),
        ("tenant:c", "closed"),
    ]
    assert command("history", "tenant:*").count("tenant:") == 2
    assert command("history", "host:*") == "Nothing has happened yet.\n"
    command("reset", "*:a", "--no-input")
    rows = json.loads(command("status", "--format=json", "--registry=default"))
    assert [row["name"] for row in rows if row["state"] == "open"] == ["tenant:b"]
    with pytest.raises(CommandError, match="no breaker fits 'xyz:\\*' in registry 'default' or"):
        command("status", "xyz:*")


@pytest.mark.parametrize(
    ("known", "wanted", "message"),
    [
        (["payments", "search"], ["payment"], "registry 'default'; did you mean payments?"),
        (["stock-a", "stock-b"], ["stock"], "did you mean stock-b or stock-a?"),
        (["payments", "search"], ["zzz"], "; known are: payments, search"),
        ([f"b{n:02}" for n in range(12)], ["zzz"], "b09 and 2 more"),
        ([], ["zzz"], "; none is known yet"),
        (["search"], ["zzz", "search", "yyy"], "no breaker 'yyy'"),
        (["search"], ["zzz*"], "no breaker fits 'zzz*' in registry 'default'; known are: search"),
        ([], ["*"], "no breaker fits '*' in registry 'default'; none is known yet"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(enter, config, known, wanted, message):
    config["BREAKERS"] = {name: {} for name in known}
    with pytest.raises(UnknownBreakerError) as caught:
        enter().known.choose(wanted)
    assert message in str(caught.value)


def test_policy_is_of_the_settings_then_of_the_code_then_as_published(enter, config, worker):
    publish(worker, "hidden", recovery_timeout=300, failure_threshold=7)
    publish(worker, "stock", recovery_timeout=300, failure_threshold=7)
    config["DEFAULTS"] = {"recovery_timeout": 5, "success_threshold": 4}
    config["BREAKERS"] = {"stock": {"recovery_timeout": 12}}
    hidden, stock, other = enter().status(["hidden", "stock", "other"])
    assert (hidden.policy.recovery_timeout, hidden.policy.failure_threshold) == (300, 7)
    assert (stock.policy.recovery_timeout, stock.policy.failure_threshold) == (12, 7)
    assert (other.policy.recovery_timeout, other.policy.success_threshold) == (5, 4)


def test_policy_of_a_breaker_by_key(enter, config, worker):
    config["DEFAULTS"] = {"failure_threshold": 2, "ramp_up": 2.0}
    config["BREAKERS"] = {
        "tenant": {"success_threshold": 4, "half_open_max_calls": 4},
        "tenant:*": {"half_open_max_calls": 5, "trial_timeout": 5.0},
        "tenant:b": {"trial_timeout": 6.0},
    }
    family = {"failure_threshold": 7, "recovery_timeout": 7.0, "keyed": True}
    worker.backend.declare(Declaration("tenant", family, "shop.py:1"))
    worker.backend.declare(Declaration("tenant:b", {"recovery_timeout": 8.0}, "shop.py:2"))
    worker.backend.declare(Declaration("host", {"failure_threshold": 9}, "shop.py:3"))
    worker.backend._publish(worker.backend._here(), 1)
    a, b, host = enter().status(["tenant:a", "tenant:b", "host:a"])

    assert [row.where for row in (a, b, host)] == ["shop.py:1", "shop.py:2", ""]
    assert host.policy.failure_threshold == 2
    assert (a.policy.failure_threshold, b.policy.failure_threshold) == (7, 2)
    assert (a.policy.recovery_timeout, b.policy.recovery_timeout) == (7, 8)
    assert (a.policy.success_threshold, b.policy.success_threshold) == (4, 4)
    assert (a.policy.half_open_max_calls, b.policy.half_open_max_calls) == (5, 5)
    assert (a.policy.trial_timeout, b.policy.trial_timeout) == (5, 6)
    assert a.policy.ramp_up == 2


def test_code_here_says_what_a_family_is_like(enter, config, worker):
    registries.declare("default", "tenant", {"failure_threshold": 7}, keyed=True)
    config["DEFAULTS"] = {"failure_threshold": 2}
    [row] = enter().status(["tenant:a"])

    assert row.policy.failure_threshold == 7
    assert row.where == registries["default"].declaration("tenant").where


def test_where_each_option_is_set(enter, config, worker):
    publish(worker, "stock", "shop/stock.py:3", recovery_timeout=300, failure_threshold=7)
    config["DEFAULTS"] = {"recovery_timeout": 300, "quorum": 2}
    config["BREAKERS"] = {"stock": {"success_threshold": 4}}
    registries.declare("default", "stock", {"ramp_up": 9.0})
    origins = enter().known.origins("stock")
    assert origins.pop("ramp_up").startswith(__file__)
    assert origins == {
        "failure_threshold": "shop/stock.py:3",
        "quorum": "shop/stock.py:3",  # those who serve run with another
        "recovery_timeout": 'CIRCUIT_BREAKERS["default"]["DEFAULTS"]',
        "success_threshold": 'CIRCUIT_BREAKERS["default"]["BREAKERS"]["stock"]',
    }
    assert enter().known.origins("other") == {
        "quorum": 'CIRCUIT_BREAKERS["default"]["DEFAULTS"]',
        "recovery_timeout": 'CIRCUIT_BREAKERS["default"]["DEFAULTS"]',
    }


@pytest.mark.parametrize("published", [{"of_a_later_release": 1}, {"recovery_timeout": -1}, []])
def test_a_policy_that_is_not_understood_is_passed_over(enter, worker, published):
    worker.backend.declare(Declaration("hidden", published, "x.py:1"))
    worker.backend._publish(worker.backend._here(), 1)
    [row] = trip(enter(), "hidden")
    assert row.policy == Policy()


def test_a_policy_counts_even_where_what_judges_its_calls_has_no_path(enter, worker):
    breaker = CircuitBreaker(failure_threshold=7, failure_predicate=lambda error: True)
    published = options.as_data(breaker.policy, breaker.classifier)
    worker.backend.declare(Declaration("hidden", published, "x.py:1"))
    worker.backend._publish(worker.backend._here(), 1)
    [row] = enter().status(["hidden"])
    assert row.policy == breaker.policy


def test_common_breakers_are_those_of_families_by_whoever_says_so(enter, config, worker):
    config["BREAKERS"] = {"host:a*": {}, "host": {}, "stock": {}, "stock:x": {}}
    registries.declare("default", "tenant", {}, keyed=True)
    publish(worker, "payments")
    worker.backend.declare(Declaration("hook", {"keyed": True}, "shop.py:1"))
    worker.backend.declare(Declaration("hook:a", {"keyed": True}, "shop.py:1"))
    worker.backend._publish(worker.backend._here(), 1)
    known = enter().known
    assert {name: known.common_to(name) for name in known.names() if known.common_to(name)} == {
        "hook": "hook:*",
        "host": "host:*",
        "tenant": "tenant:*",
    }
    assert {"hook:a", "payments", "stock", "stock:x"} < set(known.names())
