"""Members: which breakers by key are kept, and what becomes of those that go."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest
from django.core.exceptions import ImproperlyConfigured

from circuitbreaker_django import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Mode,
    breakers,
    held,
    members,
    registries,
)
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.core.breaker import check_name
from circuitbreaker_django.core.circuit import CommandKind
from circuitbreaker_django.families import member_name
from circuitbreaker_django.members import Members
from tests import keyed
from tests.keyed import (
    ODD,
    PLAIN,
    configured,
    fail,
    fail_times,
    kept,
    let_go,
    order,
    rejects,
    use,
    views,
)

clock, tenant = keyed.clock, keyed.tenant

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
