"""Breakers by key: what a key makes of a name, which are kept, and what is in force for each."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from circuitbreaker_django import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Mode,
    UnknownBreakerError,
    breakers,
    families,
    held,
    members,
    registries,
)
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.core.breaker import MAX_NAME, check_name
from circuitbreaker_django.core.circuit import Command, CommandKind
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.families import MAX_FAMILY, is_pattern, matching, member_name
from circuitbreaker_django.members import Members
from circuitbreaker_django.testing import live_breakers, override_breaker


def fail():
    raise OSError


def fail_times(call, times):
    for _ in range(times):
        with pytest.raises(OSError):
            call()


def configured(**registry):
    return override_settings(CIRCUIT_BREAKERS={"default": registry})


def use(breaker, times=1):
    for _ in range(times):
        breaker.call(len, "")


def kept(alias="default"):
    return list(registries[alias]._members._kept)


def views():
    return sum(map(len, registries["default"].backend._views.values()))


@pytest.fixture
def clock():
    with live_breakers() as clock:
        yield clock


@pytest.fixture
def tenant(clock):
    """A family of which two are kept."""
    with configured(MAX_BREAKERS=2, DEFAULTS={"failure_threshold": 2}):
        yield breakers.family("tenant")


def rejects(call, *args):
    try:
        call(*args)
    except CircuitOpenError:
        return True
    return False


def order(name, kind=CommandKind.HOLD):
    """As another process would."""
    backend = registries["default"].backend
    backend.order({name: (Command(kind, None, "anna", ""), Policy())})


def let_go(breaker):
    """Let the registry need its place."""
    family = breakers.family("tenant")
    for number in range(3):
        use(family(f"another {number}"))
    assert breaker.name not in kept()
    return breaker


# -- names --------------------------------------------------------------------------------------

PLAIN = ["acme", "a b", "1", "db1:5432", "https://x.example/a", "Zoë", "a.b-c_d", "\u6771\u4eac"]
ODD = [
    "",
    "*",
    "tenant:*",
    "a?",
    "[a]",
    "]",
    "a~b",
    "a\n",
    "\0",
    "\x1b[31m",
    "\u202eevil",
    "\ud800",
    "\u00a0",
    "x" * 194,
    "x" * 10_000,
]


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


# -- how many are kept --------------------------------------------------------------------------


def test_the_one_not_used_for_the_longest_time_goes_first(clock):
    with configured(MAX_BREAKERS=3):
        tenant = breakers.family("tenant")
        for key in "abc":
            use(tenant(key))
        tenant("d")
        assert kept() == ["tenant:b", "tenant:c", "tenant:d"]
        use(tenant("b"))
        tenant("e")

        assert sorted(kept()) == ["tenant:b", "tenant:d", "tenant:e"]


def test_of_those_that_were_not_used_the_one_looked_at_first_goes(clock):
    with configured(MAX_BREAKERS=3):
        tenant = breakers.family("tenant")
        for key in "abc":
            use(tenant(key))
        tenant("d")
        tenant("e")

        assert kept() == ["tenant:c", "tenant:d", "tenant:e"]


@pytest.mark.parametrize("rules", [{}, {"failure_rate_threshold": 0.5}], ids=["plain", "rates"])
def test_a_busy_one_stays_however_its_calls_are_counted(clock, rules):
    with configured(MAX_BREAKERS=3, DEFAULTS=rules):
        tenant = breakers.family("tenant")
        decorated = {key: tenant(key)(len) for key in "abc"}
        for key in "abc":
            decorated[key]("")
            decorated[key]("")
        tenant("d")
        assert kept() == ["tenant:b", "tenant:c", "tenant:d"]
        decorated["b"]("")
        tenant("e")

        assert sorted(kept()) == ["tenant:b", "tenant:d", "tenant:e"]


def test_one_stays_whose_tally_has_begun_anew_between_two_looks(clock):
    with configured(MAX_BREAKERS=3, DEFAULTS={"failure_rate_threshold": 0.5}):
        tenant = breakers.family("tenant")
        decorated = {key: tenant(key)(len) for key in "abc"}
        for key in "abc":
            decorated[key]("")
            decorated[key]("")
        tenant("d")
        clock.advance(7)  # into another slice of the window
        decorated["b"]("")
        tenant("e")

        assert sorted(kept()) == ["tenant:b", "tenant:d", "tenant:e"]


def test_a_row_of_failures_that_is_over_keeps_nobody_for_ever(clock):
    with configured(MAX_BREAKERS=2, DEFAULTS={"consecutive_failures": 2}):
        tenant = breakers.family("tenant")
        for number in range(10):
            fail_times(lambda number=number: tenant(number).call(fail), 1)
            clock.advance(61)

        assert kept() == ["tenant:8", "tenant:9"]


def test_one_that_ramps_up_stays(clock):
    with configured(MAX_BREAKERS=2, DEFAULTS={"ramp_up": 100, "failure_threshold": 1}):
        tenant = breakers.family("tenant")
        fail_times(lambda: tenant("back").call(fail), 1)
        clock.advance(30)
        use(tenant("back"))
        for number in range(3):
            use(tenant(number))
        assert "tenant:back" in kept()
        clock.advance(100)
        for number in range(3):
            use(tenant(number))

        assert "tenant:back" not in kept()


def test_one_that_nobody_holds_is_forgotten_altogether(tenant):
    gone = weakref.ref(let_go(tenant("gone")))
    gc.collect()

    assert gone() is None
    assert views() == 2
    assert set(held.by_key["default"]) == set(kept())
    assert set(tenant.plain) == {name.removeprefix("tenant:") for name in kept()}


def test_the_call_that_brings_one_back_is_counted(tenant):
    held = let_go(tenant("held"))
    use(held)
    assert (held.view.all_calls, held.view.failures) == (1, 0)

    def fails_later():
        let_go(held)
        raise OSError

    fail_times(lambda: held.call(fails_later), 1)
    assert held.view.failures == 1
    cut = let_go(tenant("cut"))
    with pytest.raises(KeyboardInterrupt), cut:
        raise KeyboardInterrupt
    assert (cut.view.all_calls, cut.view.ignored) == (1, 1)


def test_one_that_is_held_stays_the_same_for_its_key(tenant):
    held = let_go(tenant("held"))

    assert tenant("held") is held is breakers["tenant:held"]
    assert kept()[-1] == "tenant:held"
    assert len(kept()) == views() == 2


def test_one_that_is_held_is_kept_again_when_it_is_used(tenant):
    held = let_go(tenant("held"))
    fail_times(lambda: held.call(fail), 2)

    with pytest.raises(CircuitOpenError):
        held.call(len, "")
    assert "tenant:held" in kept()
    assert len(kept()) == views() == 2
    assert breakers["tenant:held"].state is CircuitState.OPEN


@pytest.mark.parametrize(
    "look",
    [
        lambda held: rejects(held.call, len, ""),
        lambda held: rejects(held(len), ""),
        lambda held: rejects(held.__enter__),
        lambda held: held.state is CircuitState.OPEN,
        lambda held: held.mode is Mode.FORCED_OPEN,
        lambda held: not held.allows(),
    ],
    ids=["call", "decorated", "block", "state", "mode", "allows"],
)
def test_one_that_is_held_hears_of_what_happens_elsewhere(tenant, look):
    held = let_go(tenant("held"))
    order("tenant:held")

    assert look(held)
    order("tenant:held", CommandKind.RESET)
    use(held)


def test_one_that_is_held_can_be_steered(tenant):
    held = let_go(tenant("held"))
    held.trip(hold=True)

    assert held.state is CircuitState.OPEN
    assert breakers["tenant:held"] is held


def test_a_function_that_was_decorated_with_it_goes_on(tenant):
    held = tenant("held")
    decorated = held(fail)
    fail_times(decorated, 1)
    held.reset()
    let_go(held)
    fail_times(decorated, 2)

    with pytest.raises(CircuitOpenError):
        decorated()


def test_a_call_that_was_on_its_way_counts(tenant):
    def work():
        let_go(breakers["tenant:held"])
        raise OSError

    held = tenant("held")
    fail_times(lambda: held.call(work), 1)
    fail_times(lambda: held.call(fail), 1)

    assert held.state is CircuitState.OPEN


def test_a_block_that_was_on_its_way_counts(tenant):
    member = tenant("held")

    def work():
        with member:
            let_go(member)
            raise OSError

    fail_times(work, 1)
    fail_times(lambda: member.call(fail), 1)

    assert member.state is CircuitState.OPEN


def test_a_failure_of_a_call_that_began_before_a_reset_does_not_count(tenant):
    def work():
        let_go(breakers["tenant:held"])
        order("tenant:held", CommandKind.RESET)
        raise OSError

    held = tenant("held")
    fail_times(lambda: held.call(work), 3)

    assert held.state is CircuitState.CLOSED


def test_with_rates_a_call_that_was_on_its_way_counts(clock):
    with configured(MAX_BREAKERS=2, DEFAULTS={"slow_call_duration": 1, "minimum_calls": 1}):
        held = breakers.family("tenant")("held")
        with held:
            let_go(held)
            clock.advance(1)

        assert held.state is CircuitState.OPEN


def failed_once(breaker):
    fail_times(lambda: breaker.call(fail), 1)


def tripped(breaker):
    breaker.trip()


def in_a_mode(breaker):
    breaker.metrics_only()


def failed_unseen_by_the_store(breaker):
    breaker.view.own = (breaker.backend.clock(),)


def opened_alone(breaker):
    breaker.view.go_local(0)


@pytest.mark.parametrize(
    "busy", [failed_once, failed_unseen_by_the_store, tripped, in_a_mode, opened_alone]
)
def test_one_that_something_is_known_of_stays(tenant, busy):
    busy(tenant("busy"))
    for number in range(20):
        use(tenant(number))

    assert "tenant:busy" in kept()
    assert len(kept()) == 2


@pytest.mark.parametrize(
    ("options", "wait", "stays"),
    [
        ({"consecutive_failures": 5}, 0, True),
        ({"consecutive_failures": 5}, 50, True),
        ({"consecutive_failures": 5}, 61, False),
        ({"failure_rate_threshold": 0.5}, 0, True),
        ({"failure_rate_threshold": 0.5}, 61, False),
        ({"failure_threshold": 5}, 59, True),
        ({"failure_threshold": 5}, 61, False),
    ],
    ids=str,
)
def test_for_as_long_as_a_failure_counts(clock, options, wait, stays):
    with configured(MAX_BREAKERS=2, DEFAULTS=options):
        tenant = breakers.family("tenant")
        fail_times(lambda: tenant("failed").call(fail), 1)
        clock.advance(wait)
        for number in range(3):
            use(tenant(number))

        assert ("tenant:failed" in kept()) is stays


def test_a_hold_that_is_over_and_closed_again_keeps_nobody(tenant, clock):
    tenant("held").disable(duration=10)
    for number in range(3):
        use(tenant(number))
    assert "tenant:held" in kept()
    clock.advance(10)
    for number in range(3):
        use(tenant(number))

    assert "tenant:held" not in kept()


def test_an_initial_mode_keeps_nobody(clock):
    with configured(MAX_BREAKERS=1, DEFAULTS={"initial_mode": "metrics_only"}):
        tenant = breakers.family("tenant")
        use(tenant("a"))
        use(tenant("b"))

        assert kept() == ["tenant:b"]


def test_those_that_settings_or_code_name_are_not_counted(clock):
    breakers.declare("tenant:code")
    with configured(MAX_BREAKERS=1, BREAKERS={"tenant:settings": {}}):
        tenant = breakers.family("tenant")
        named = [tenant("settings"), tenant("code")]
        use(tenant("a"))
        use(tenant("b"))

        assert kept() == ["tenant:b"]
        assert named == [tenant("settings"), tenant("code")]
        assert named == [breakers["tenant:settings"], breakers["tenant:code"]]


def test_those_of_a_family_that_only_settings_know_go_too(clock):
    with configured(MAX_BREAKERS=1, BREAKERS={"host:*": {}}):
        use(breakers["host:a"])
        use(breakers["host:b"])

        assert kept() == ["host:b"]


def test_who_comes_too_late_to_bring_one_back_changes_nothing(tenant):
    member = tenant("acme")
    view = member.view
    registries["default"].bring_back(member)

    assert member.view is view


# -- when it is full ----------------------------------------------------------------------------


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.fixture
def full(tenant, caplog):
    """A family whose two places are taken by open circuits."""
    for key in "ab":
        tenant(key).trip()
    caplog.clear()
    return tenant


def test_further_keys_share_the_common_breaker_with_one_warning(full, caplog, clock):
    for number in range(5):
        assert full(number) is full("*") is breakers["tenant"]
        clock.advance(1)
    fail_times(lambda: full("c").call(fail), 2)
    with pytest.raises(CircuitOpenError):
        full("d").call(len, "")

    assert [text for text in warnings(caplog) if "MAX_BREAKERS" in text] == [
        'CIRCUIT_BREAKERS["default"]["MAX_BREAKERS"]: 2 breakers are kept and none can go, so '
        "further keys of 'tenant' share a circuit"
    ]
    assert full("a").name == "tenant:a"


def test_a_second_later_it_is_tried_again(full, clock):
    assert full("c") is breakers["tenant"]
    breakers["tenant:a"].reset()
    assert full("c") is breakers["tenant"]
    clock.advance(1)

    assert full("c").name == "tenant:c"
    assert sorted(kept()) == ["tenant:b", "tenant:c"]


def test_those_that_are_named_are_found_also_then(full):
    assert full("c") is breakers["tenant"]
    breakers.declare("tenant:c")

    assert full("c").name == "tenant:c"


def test_who_asks_by_the_full_name_gets_it_also_then_and_it_goes_when_it_can(full, clock):
    for number in range(3):
        assert breakers[f"tenant:{number}"].name == f"tenant:{number}"
    assert len(kept()) == 3
    for key in "ab":
        breakers[f"tenant:{key}"].reset()
    clock.advance(1)
    full("last")

    assert len(kept()) == 2


def test_to_find_one_that_can_go_not_all_are_looked_at(monkeypatch):
    monkeypatch.setattr(members, "MAX_LOOKS", 3)
    looked_at = []

    def may_go(self, name, home):
        looked_at.append(name)
        return name == "tenant:4"

    monkeypatch.setattr(Members, "_may_go", may_go)
    with configured(MAX_BREAKERS=5):
        tenant = breakers.family("tenant")
        for key in range(5):
            tenant(key)
        home = registries["default"]._at_home()

        assert not registries["default"]._members.make_room(home)
        assert registries["default"]._members.make_room(home)
        assert looked_at == [f"tenant:{key}" for key in (0, 1, 2, 3, 4, 0)]
        assert kept() == [f"tenant:{key}" for key in (1, 2, 3, 0)]


def test_where_all_were_used_since_the_last_look_one_goes_that_may(clock, monkeypatch, caplog):
    monkeypatch.setattr(members, "MAX_LOOKS", 3)
    with configured(MAX_BREAKERS=10):
        tenant = breakers.family("tenant")
        for number in range(30):
            use(tenant(number))
            assert f"tenant:{number}" in kept()

        assert len(kept()) == 10
        assert warnings(caplog) == []


@pytest.mark.parametrize("limit", [0, -1, 100_001, True, 5.0, "5", None], ids=repr)
def test_a_limit_that_is_none_is_told(limit):
    with configured(MAX_BREAKERS=limit), pytest.raises(ImproperlyConfigured) as caught:
        breakers.family("tenant")

    assert (
        'CIRCUIT_BREAKERS["default"]: MAX_BREAKERS must be a whole number from 1 to 100000, not '
        f"{limit!r}. For example 1000."
    ) in str(caught.value)


@pytest.mark.parametrize("limit", [1, 100_000])
def test_limits_that_are_allowed(limit):
    with configured(MAX_BREAKERS=limit):
        assert registries["default"].config.max_breakers == limit
    assert registries["default"].config.max_breakers == 1000


# -- floods and races ---------------------------------------------------------------------------


@pytest.mark.usefixtures("clock")
def test_50_000_hostile_keys_stay_bounded(monkeypatch):
    texts = [
        "{}",
        "*{}",
        "tenant:{}",
        "\x00{}",
        "\ud800{}",
        "x" * 300 + "{}",
        "{}~0123456789abcdef",
    ]
    told: list[object] = []
    with configured(MAX_BREAKERS=50):
        tenant = breakers.family("tenant")
        monkeypatch.setattr(registries["default"].backend, "declare", told.append)
        for number in range(50_000):
            breaker = tenant(texts[number % len(texts)].format(number))
            check_name(breaker.name)
            breaker.call(len, "")
        del breaker
        gc.collect()

        assert len(kept()) == 50
        assert views() == 50
        assert len(held.by_key["default"]) == 50
        assert len(tenant.plain) <= 50
        assert len(told) == 50


def test_32_threads_that_race_get_one_breaker_for_each_key(clock):
    interval = sys.getswitchinterval()
    keys = [f"{number}{odd}" for number in range(20) for odd in ("", "*")]
    got: list[list[object]] = []
    barrier = threading.Barrier(32)

    def look_up():
        barrier.wait()
        got.append([registries["default"].family("tenant")(key) for key in keys])

    threads = [threading.Thread(target=look_up) for _ in range(32)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert len(got) == 32
    assert {tuple(map(id, breakers)) for breakers in got} == {tuple(map(id, got[0]))}
    assert views() == len(set(map(id, got[0]))) == 40


def test_threads_that_take_each_others_places_lose_no_failure(clock, monkeypatch):
    interval = sys.getswitchinterval()
    with configured(MAX_BREAKERS=2, DEFAULTS={"failure_threshold": 1000}):
        tenant = breakers.family("tenant")
        backend = registries["default"].backend
        count = backend.count
        errors: list[BaseException] = []
        counted: list[str] = []

        def count_in_time(view, epoch, policy, **call):
            if view.epoch == epoch:
                counted.append(view.name)
            count(view, epoch, policy, **call)

        monkeypatch.setattr(backend, "count", count_in_time)

        def work(number):
            try:
                for turn in range(200):
                    use(tenant((number + turn) % 7))
                held = tenant(number)
                for _ in range(50):
                    with pytest.raises(OSError):
                        held.call(fail)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)

    assert errors == []
    assert len(counted) == 400


def test_a_fork_can_make_them_too(run):
    assert (
        run(
            """
import os
import django
from django.conf import settings
settings.configure(CIRCUIT_BREAKERS={"default": {
    "BACKEND": "circuitbreaker_django.backends.memory.MemoryBackend"}})
django.setup()
from circuitbreaker_django import breakers
one = breakers.family("tenant")("one")
if os.fork() == 0:
    print(breakers.family("tenant")("two").name, breakers["tenant:one"] is one, flush=True)
    os._exit(0)
os.wait()
"""
        ).strip()
        == "tenant:two True"
    )


# -- in a store that processes share -----------------------------------------------------------


@pytest.fixture
def shared(outside_of_tests, tmp_path):
    """A family of which two are kept, in a store; and the backend of another process."""
    location = str(tmp_path / "circuits")
    other = SQLiteBackend(location)
    other.threads = False
    with configured(LOCATION=location, MAX_BREAKERS=2, DEFAULTS={"failure_threshold": 2}):
        registries["default"].backend.threads = False  # type: ignore[attr-defined]
        yield breakers.family("tenant"), other
    other.close()


HOSTILE = ["'; DROP TABLE circuits; --", "%", "_", "{a}", "$1", "\\", "a:b:c", "\ufffe", "KEYS *"]


def test_no_key_harms_a_store_and_each_has_a_circuit_of_its_own(shared):
    _, other = shared
    keys = [*PLAIN, *ODD, *HOSTILE]
    names = {member_name("tenant", key) for key in keys}
    location = str(other.place.database.parent / "circuits")
    with configured(LOCATION=location, DEFAULTS={"failure_threshold": 1}):
        registries["default"].backend.threads = False  # type: ignore[attr-defined]
        tenant = breakers.family("tenant")
        for key in keys:
            assert not rejects(tenant(key).call, len, "")
            fail_times(lambda key=key: tenant(key).call(fail), 1)
        assert {breaker.name for breaker in map(tenant, keys)} == names
        assert set(other.overview().circuits) == names
        for name in names:
            theirs = CircuitBreaker(name, backend=other)
            assert rejects(theirs.call, len, "")
            theirs.reset()
            assert not rejects(breakers[name].call, len, "")


def test_one_that_went_is_as_open_as_the_store_says_when_it_is_needed_again(shared):
    tenant, other = shared
    use(tenant("acme"))
    for number in range(5):
        use(tenant(number))
    assert "tenant:acme" not in kept()
    CircuitBreaker("tenant:acme", backend=other).trip()

    assert rejects(tenant("acme").call, len, "")


def test_failures_on_both_sides_of_an_absence_are_summed(shared):
    tenant, _ = shared
    fail_times(lambda: tenant("acme").call(fail), 1)
    registries["default"]._members.drop("tenant:acme")  # as if its window were over here
    members.drop_view("tenant:acme", registries["default"]._at_home())
    tenant.plain.clear()
    gc.collect()
    fail_times(lambda: tenant("acme").call(fail), 1)

    assert breakers["tenant:acme"].state is CircuitState.OPEN


def test_processes_share_each_keys_circuit_and_no_other(run, tmp_path):
    code = f"""
import os
import django
from django.conf import settings
settings.configure(CIRCUIT_BREAKERS={{"default": {{
    "LOCATION": {str(tmp_path / "circuits")!r}, "MAX_BREAKERS": 3}}}})
django.setup()
from circuitbreaker_django import CircuitOpenError, circuit_protected

@circuit_protected("tenant", key=lambda tenant: tenant, failure_threshold=4)
def work(tenant):
    if tenant == "down":
        raise OSError

def attempt(tenant):
    try:
        work(tenant)
    except (OSError, CircuitOpenError) as error:
        return type(error).__name__

def process(*tenants):
    child = os.fork()
    if child == 0:
        print(*map(attempt, tenants), flush=True)
        os._exit(0)
    os.waitpid(child, 0)

process("down", "a", "down")
process("a", "b", "c", "d", "down")
process("down", "e", "down", "down")
process("e", "f", "g", "h", "i", "down", "a")
"""
    assert run(code).splitlines() == [
        "OSError None OSError",
        "None None None None OSError",
        "OSError None CircuitOpenError CircuitOpenError",
        "None None None None None CircuitOpenError None",
    ]


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
