"""Breakers by key: what a key makes of a name, and what is in force for each."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from circuitbreaker_django import (
    CircuitOpenError,
    CircuitState,
    UnknownBreakerError,
    breakers,
    families,
    members,
    registries,
)
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.core.breaker import MAX_NAME, check_name
from circuitbreaker_django.families import MAX_FAMILY, is_pattern, matching, member_name
from circuitbreaker_django.testing import live_breakers, override_breaker
from tests import keyed
from tests.keyed import (
    ODD,
    PLAIN,
    configured,
    fail,
    fail_times,
    kept,
    rejects,
    use,
    views,
)

clock, tenant = keyed.clock, keyed.tenant

# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", PLAIN)
def test_a_plain_key_is_seen_in_the_name(key):
    assert member_name("tenant", key) == f"tenant:{key}"


@pytest.mark.parametrize("key", ODD)
def test_any_other_key_makes_a_usable_name_by_its_hash(key):
    name = member_name("tenant", key)

    check_name(name)
    assert not is_pattern(name)
    assert "]" not in name
    assert families.split(name) == ("tenant", name.removeprefix("tenant:"))
    assert name.rpartition("~")[2].isalnum()


def test_of_an_odd_key_the_beginning_can_be_read():
    assert member_name("tenant", "a*\n~é" + "x" * 100) == (
        f"tenant:a___é{'x' * 35}~65e0bdc4e6bec642"
    )


def test_the_longest_plain_key_and_one_more_character():
    assert member_name("tenant", "x" * (MAX_NAME - 7)) == "tenant:" + "x" * (MAX_NAME - 7)
    assert "~" in member_name("tenant", "x" * (MAX_NAME - 6))


@pytest.mark.parametrize("length", [MAX_FAMILY, MAX_FAMILY - 1, MAX_FAMILY - 41])
def test_a_long_family_leaves_room_for_the_hash(length):
    assert len(member_name("f" * length, "*" * 300)) == min(MAX_NAME, length + 58)


def test_no_two_keys_make_one_name():
    keys = {*PLAIN, *ODD, *(chr(code) for code in range(0x300)), "x" * 195, "a~b ", "a-b", "a_b"}

    assert len({member_name("tenant", key) for key in keys}) == len(keys)


@pytest.mark.parametrize("key", ODD)
def test_no_key_imitates_another(key):
    imitation = member_name("tenant", key).removeprefix("tenant:")

    assert member_name("tenant", imitation) != member_name("tenant", key)


@pytest.mark.parametrize(
    "name",
    [
        "payments",
        "tenant:",
        "tenant:*",
        "tenant:a\n",
        "tenant:a~b",
        "tenant:a~0123456789abcdeg",
        "tenant:a*~0123456789abcdef",
        "tenant:" + "x" * 194,
    ],
)
def test_a_name_that_no_key_makes_is_of_no_family(name):
    assert families.split(name) == ("", "")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("a:b", ValueError),
        ("a*", ValueError),
        ("a?", ValueError),
        ("[a", ValueError),
        ("a]", ValueError),
        ("a~b", ValueError),
        ("x" * (MAX_FAMILY + 1), ValueError),
        ("", ValueError),
        (5, TypeError),
    ],
)
def test_a_name_that_no_family_can_have_is_refused_and_nothing_declared(name, error):
    with pytest.raises(error, match="name"):
        breakers.family(name)
    with pytest.raises(error, match="name"):
        registries["default"].family(name)
    with pytest.raises(error, match="name"):
        registries.declare("default", name, {}, keyed=True)

    assert list(breakers) == []


# -- patterns -----------------------------------------------------------------------------------


def test_what_is_a_pattern():
    assert [name for name in ("a", "a:b", "a]", "a*", "?", "[a") if is_pattern(name)] == [
        "a*",
        "?",
        "[a",
    ]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["tenant:*", "*", "other:*"], ["*", "tenant:*"]),
        (["tenant:ac*", "tenant:*"], ["tenant:*", "tenant:ac*"]),
        (["tenant:acme"], []),
        (["tenant:????", "*:acme", "TENANT:*"], ["*:acme", "tenant:????"]),
        (["tenant:[!b]cm*", "tenant:a*"], ["tenant:a*", "tenant:[!b]cm*"]),
        (["tenant:[abcdefgh]*", "tenant:a*"], ["tenant:[abcdefgh]*", "tenant:a*"]),
        (["tenant:a*", "tenant:*e"], ["tenant:a*", "tenant:*e"]),
        (["tenant:*e", "tenant:a*"], ["tenant:*e", "tenant:a*"]),
    ],
)
def test_the_most_specific_pattern_comes_last(patterns, expected):
    assert matching("tenant:acme", patterns) == expected


def test_a_pattern_is_no_name():
    with configured(BREAKERS={"payments": {}, "tenant:*": {}, "pay*": {}, "tenant:[a]": {}}):
        assert list(breakers) == ["payments"]
        assert len(breakers) == 1
        assert "tenant:*" not in breakers
        assert "pay*" not in breakers
        with pytest.raises(UnknownBreakerError):
            breakers["tenant:*"]


# -- what is in force ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 4),
        ({"tenant": 6}, 6),
        ({"tenant": 6, "ten*": 7}, 7),
        ({"tenant": 6, "tenant:*": 7}, 7),
        ({"tenant:*": 7, "*": 8}, 7),
        ({"*": 8, "tenant:*": 7}, 7),
        ({"tenant:a*": 9, "tenant:*": 7}, 9),
        ({"tenant:b*": 9}, 4),
        ({"tenant:acme": 10, "tenant:acm?": 9, "tenant:*": 7, "tenant": 6}, 10),
    ],
    ids=str,
)
def test_precedence_of_a_breaker_by_key(settings, expected):
    registries.declare("default", "tenant", {"failure_threshold": 4}, keyed=True)
    entries = {name: {"failure_threshold": value} for name, value in settings.items()}
    with configured(DEFAULTS={"failure_threshold": 3}, BREAKERS=entries):
        assert breakers.family("tenant")("acme").policy.failure_threshold == expected
        assert breakers["tenant:acme"].policy.failure_threshold == expected


def test_precedence_is_key_by_key():
    registries.declare("default", "tenant", {"ramp_up": 4.0}, keyed=True)
    breakers.declare("tenant:acme", recovery_jitter=0.5)
    entries = {
        "tenant": {"success_threshold": 5, "failure_threshold": 5},
        "tenant:*": {"failure_threshold": 6, "failure_window": 6.0},
        "tenant:a*": {"failure_window": 7.0, "half_open_max_calls": 7},
        "tenant:acme": {"half_open_max_calls": 8},
    }
    with configured(DEFAULTS={"recovery_timeout": 3, "ramp_up": 3}, BREAKERS=entries):
        policy = breakers.family("tenant")("acme").policy

    assert policy.recovery_timeout == 3
    assert policy.ramp_up == 4
    assert policy.recovery_jitter == 0.5
    assert policy.success_threshold == 5
    assert policy.failure_threshold == 6
    assert policy.failure_window == 7
    assert policy.half_open_max_calls == 8


def test_the_entry_of_a_name_is_no_family_of_names_that_begin_like_it():
    with configured(BREAKERS={"shop": {"failure_threshold": 9}, "shop:eu": {}}):
        assert breakers["shop:eu"].policy.failure_threshold == 5


def test_patterns_apply_to_all_names_also_to_a_familys_own():
    breakers.declare("payments", failure_threshold=3)
    breakers.family("tenant")
    entries = {"*": {"failure_threshold": 7}, "pay*": {"failure_window": 8.0}}
    with configured(BREAKERS=entries):
        assert breakers["payments"].policy.failure_threshold == 7
        assert breakers["payments"].policy.failure_window == 8
        assert breakers["tenant"].policy.failure_threshold == 7


def test_operators_are_told_of_the_policy_and_where_the_family_is_declared():
    breakers.family("tenant")
    line = sys._getframe().f_lineno - 1
    with configured(BREAKERS={"tenant:*": {"failure_threshold": 7}, "host:*": {}}):
        here = registries["default"]
        told = {name: here.declaration(name) for name in ("tenant", "tenant:acme", "host:db")}

    assert told["tenant"].where == told["tenant:acme"].where == f"{__file__}:{line}"
    assert told["host:db"].where == "settings.CIRCUIT_BREAKERS"
    assert told["tenant:acme"].policy["failure_threshold"] == 7
    assert [told[name].policy.get("keyed") for name in told] == [True, True, None]


# -- which names there are ----------------------------------------------------------------------


def test_a_family_declares_its_common_breaker_where_it_is_first_asked_for():
    registries["default"].family("tenant")
    line = sys._getframe().f_lineno - 1

    assert list(breakers) == ["tenant"]
    assert registries["default"].declaration("tenant").where == f"{__file__}:{line}"
    assert registries["default"].family("tenant") is breakers.family("tenant")
    assert repr(breakers.family("tenant")) == "<Family 'tenant'>"


def test_members_are_found_by_name_but_not_listed():
    breakers.family("tenant")
    member = breakers["tenant:acme"]

    assert breakers.family("tenant")("acme") is member is breakers["tenant:acme"]
    assert member.name == "tenant:acme"
    assert "tenant:acme" in breakers
    assert "tenant:new" in breakers
    assert list(breakers) == ["tenant"]
    assert 5 not in breakers  # type: ignore[comparison-overlap]


def test_an_odd_keys_breaker_is_found_by_the_name_it_has():
    family = breakers.family("tenant")
    odd = family("a*")

    assert breakers[str(odd.name)] is odd is family("a*")
    assert family(str(odd.name).removeprefix("tenant:")) is not odd
    with pytest.raises(UnknownBreakerError):
        breakers["tenant:a*"]


@pytest.mark.parametrize("name", ["paymets", "payments:eu", "tenants:acme", "tenant", "tenant:b"])
def test_other_names_stay_unknown(name):
    breakers.declare("payments")
    with configured(BREAKERS={"tenant:a*": {}, "pay*": {}, "*": {}, "?": {}}):
        assert breakers["tenant:acme"].name == "tenant:acme"
        assert name not in breakers
        with pytest.raises(UnknownBreakerError):
            breakers[name]


def test_keys_that_are_equal_as_text_are_one():
    family = breakers.family("tenant")

    assert family(1) is family("1")
    assert family(True) is family("True") is not family(1)
    assert family(None) is family("None")
    assert family(["*"]) is family("['*']")  # not hashable, and not plain


def test_registries_keep_families_apart():
    with override_settings(CIRCUIT_BREAKERS={"other": {}}):
        assert registries["other"].family("tenant")("a") is not breakers.family("tenant")("a")


# -- declarations -------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_what_one_place_calls_keyed_is_keyed(first):
    registries.declare("default", "tenant", {"failure_threshold": 3}, keyed=first)
    registries.declare("default", "tenant", {}, keyed=not first)

    assert breakers["tenant:acme"].policy.failure_threshold == 3


def test_options_may_come_after_the_family_and_reach_those_in_use(clock):
    family = breakers.family("tenant")
    held, put_away = family("acme"), family("globex")
    other = breakers.family("host")("acme")
    use(held)
    registries.declare("default", "tenant", {"failure_threshold": 1}, keyed=True)

    assert held.policy.failure_threshold == put_away.policy.failure_threshold == 1
    assert other.policy.failure_threshold == 5
    assert family("acme") is held
    fail_times(lambda: held.call(fail), 1)
    assert held.state is CircuitState.OPEN


def test_a_member_that_is_declared_by_its_name_stays_the_object_it_is(tenant):
    held = tenant("acme")
    breakers.declare("tenant:acme", failure_threshold=1)

    assert held.policy.failure_threshold == 1
    use(held)
    assert kept() == []
    assert breakers["tenant:acme"] is tenant("acme") is held
    assert "tenant:acme" in list(breakers)


def test_two_declarations_of_a_family_that_differ_are_refused():
    registries.declare("default", "tenant", {"failure_threshold": 3}, keyed=True)
    with pytest.raises(ImproperlyConfigured, match="declared twice"):
        registries.declare("default", "tenant", {"failure_threshold": 4}, keyed=True)


# -- settings that change -----------------------------------------------------------------------


def test_one_that_is_held_follows_the_settings_and_all_others_go(clock):
    held, gone = breakers.family("tenant")("held"), weakref.ref(breakers.family("tenant")("gone"))
    by_breaker = held(fail)
    fail_times(by_breaker, 1)
    with configured(BREAKERS={"tenant:*": {"failure_threshold": 1}}):
        gc.collect()
        assert gone() is None
        assert held.policy.failure_threshold == 1
        assert kept() == []
        assert breakers.family("tenant")("held") is held
        fail_times(by_breaker, 1)
        with pytest.raises(CircuitOpenError):
            held.call(fail)
        assert kept() == ["tenant:held"]

    assert held.policy.failure_threshold == 5
    assert held.state is CircuitState.CLOSED
    fail_times(by_breaker, 4)
    assert views() == 1


def test_a_family_that_somebody_has_kept_leads_to_the_breakers_in_force(clock):
    kept_registry, kept_family = registries["default"], breakers.family("tenant")
    before = weakref.ref(kept_family("acme"))
    with configured(BREAKERS={"tenant:*": {"failure_threshold": 1}}):
        gc.collect()
        assert before() is None
        assert kept_family("acme") is breakers["tenant:acme"] is kept_registry["tenant:acme"]
        assert kept_family("acme").policy.failure_threshold == 1


def test_one_that_gets_a_name_of_its_own_stays_the_object_it_is(clock):
    held = breakers.family("tenant")("acme")
    with configured(BREAKERS={"tenant:acme": {"failure_threshold": 1}}):
        assert breakers["tenant:acme"] is held is breakers.family("tenant")("acme")
        assert kept() == []
        assert held.policy.failure_threshold == 1

    assert held.policy.failure_threshold == 5
    assert breakers["tenant:acme"] is held is breakers.family("tenant")("acme")


def test_while_the_settings_are_wrong_calls_pass(clock):
    held = breakers.family("tenant")("acme")
    with configured(MAX_BREAKERS=0):
        fail_times(lambda: held.call(fail), 6)
        with pytest.raises(ImproperlyConfigured, match="MAX_BREAKERS"):
            breakers.family("tenant")("acme")

    fail_times(lambda: held.call(fail), 5)
    assert held.state is CircuitState.OPEN


@pytest.mark.usefixtures("outside_of_tests")
def test_switched_off_calls_pass_and_idle_ones_still_go():
    with configured(ENABLED=False, MAX_BREAKERS=2):
        tenant = breakers.family("tenant")
        for number in range(10):
            fail_times(lambda number=number: tenant(number).call(fail), 6)

        assert kept() == ["tenant:8", "tenant:9"]


@pytest.mark.usefixtures("outside_of_tests")
def test_they_reach_operators_as_many_as_are_kept(tmp_path):
    with configured(LOCATION=str(tmp_path / "circuits"), MAX_BREAKERS=2):
        tenant = breakers.family("tenant")
        for number in range(4):
            use(tenant(number))
        backend = registries["default"].backend
        backend.close()
        use(tenant(3))  # opens it again, and publishes all at once
        published = backend.overview().declarations

    assert sorted(published) == ["tenant", "tenant:0", "tenant:1"]
    assert published["tenant:0"].where == published["tenant"].where


@pytest.mark.usefixtures("outside_of_tests")
@pytest.mark.parametrize("interval", [0, 5])
def test_counts_of_calls_stay_bounded_while_nobody_can_be_told(tmp_path, interval):
    location = tmp_path / "a file"
    location.write_text("")
    store = {"LOCATION": str(location / "circuits"), "STATS_INTERVAL": interval}
    with configured(MAX_BREAKERS=2, **store):
        tenant = breakers.family("tenant")
        for number in range(100):
            use(tenant(number))
        backend = registries["default"].backend

        assert backend.problem is not None
        assert set(backend._uncounted.counts) == {"tenant"}
        assert backend._uncounted.counts["tenant"].calls == 98


@pytest.mark.usefixtures("clock")
def test_operators_are_told_of_so_many_and_no_more(monkeypatch):
    monkeypatch.setattr(members, "MAX_TOLD", 2)
    told: list[object] = []
    with configured(MAX_BREAKERS=10):
        tenant = breakers.family("tenant")
        monkeypatch.setattr(registries["default"].backend, "declare", told.append)
        for number in range(5):
            tenant(number)

    assert len(told) == 2


@pytest.mark.usefixtures("outside_of_tests")
def test_a_family_that_is_declared_anew_is_published_anew_with_its_members(tmp_path):
    with configured(LOCATION=str(tmp_path / "circuits")):
        use(breakers.family("tenant")("acme"))
        registries.declare("default", "tenant", {"failure_threshold": 3}, keyed=True)
        backend = registries["default"].backend
        backend.close()
        use(breakers["tenant"])
        published = backend.overview().declarations

    assert [published[name].policy["failure_threshold"] for name in sorted(published)] == [3, 3]
    assert sorted(published) == ["tenant", "tenant:acme"]


# -- in tests -----------------------------------------------------------------------------------


def test_without_a_helper_all_calls_of_a_member_pass():
    member = breakers.family("tenant")("acme")
    fail_times(lambda: member.call(fail), 6)

    assert member.state is CircuitState.CLOSED


def test_a_member_is_put_into_a_state_and_all_others_go_on():
    tenant = breakers.family("tenant")
    with override_breaker("tenant:acme", state="open") as breaker:
        assert breaker is tenant("acme")
        with pytest.raises(CircuitOpenError):
            tenant("acme").call(len, "")
        use(tenant("other"))

    use(tenant("acme"))
    assert tenant("acme").passive


@pytest.mark.parametrize("state", ["closed", "half_open"])
def test_a_member_in_another_state(state):
    breakers.family("tenant")
    with override_breaker("tenant:acme", state=state):
        assert breakers["tenant:acme"].state == state
        use(breakers["tenant:acme"])
        assert breakers["tenant:acme"].state is CircuitState.CLOSED


def test_a_member_that_is_overridden_keeps_its_place(tenant):
    with override_breaker("tenant:acme", state="closed"):
        for number in range(6):
            use(tenant(number))
        assert "tenant:acme" in kept()
    for number in range(6):
        use(tenant(number))

    assert "tenant:acme" not in kept()


def test_live_breakers_are_fresh_inside_and_as_before_outside(clock):
    member = breakers.family("tenant")("acme")
    fail_times(lambda: member.call(fail), 4)
    with live_breakers():
        assert kept() == []
        fail_times(lambda: member.call(fail), 4)
        assert not rejects(member.call, len, "")
        assert breakers["tenant:acme"] is member

    fail_times(lambda: member.call(fail), 1)
    assert rejects(member.call, len, "")


def test_an_override_outlives_live_breakers_and_a_change_of_settings(clock):
    breakers.family("tenant")
    with override_breaker("tenant:acme", state="open") as member:
        with live_breakers(), configured(BREAKERS={"tenant:*": {"failure_threshold": 1}}):
            assert rejects(member.call, len, "")
        assert rejects(member.call, len, "")
    assert not rejects(member.call, len, "")
    assert isinstance(member.backend, MemoryBackend)


def test_a_member_that_was_only_used_while_overridden_goes_afterwards():
    breakers.family("tenant")
    override = override_breaker("tenant:acme", state="closed")
    member = override.enable()
    with live_breakers(), configured(MAX_BREAKERS=1):
        use(member)
        assert breakers.family("tenant")("b") is breakers["tenant"]
        assert kept() == ["tenant:acme"]
        override.disable()
        registries["default"]._members._full_until = 0
        assert breakers.family("tenant")("b").name == "tenant:b"
        assert kept() == ["tenant:b"]


def test_an_unknown_member_is_told_when_the_test_begins():
    with pytest.raises(UnknownBreakerError), override_breaker("nobody:acme", state="open"):
        pass
