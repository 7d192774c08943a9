"""Settings: what is allowed, what is told of everything else, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import get_type_hints

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from circuitbreaker_django import CircuitBreaker, conf, registries
from circuitbreaker_django.core.policy import POLICY_FIELDS, Policy


def told(settings, value, alias="default"):
    """What is wrong with these settings, after both ways of telling it have been compared."""
    settings.CIRCUIT_BREAKERS = value
    problems = list(conf.problems(alias))
    with pytest.raises(ImproperlyConfigured) as raised:
        registries[alias]
    with pytest.raises(SystemCheckError) as checked:
        call_command("check")
    for problem in problems:
        assert problem.hint
        assert problem.message.endswith((".", "?")), problem.message
        for text in (problem.message, problem.hint):
            assert text in str(raised.value)
            assert text in str(checked.value)
    assert str(checked.value).count("circuitbreaker_django.") >= len(problems)
    return [(problem.id, problem.message) for problem in problems]


# -- what is right ------------------------------------------------------------------------------


def test_without_any_setting_there_is_the_registry_default(settings):
    del settings.ROOT_URLCONF

    assert conf.aliases() == ["default"]
    assert conf.load("default") == conf.RegistryConfig("default")


def test_the_registry_default_is_there_beside_others(settings):
    settings.CIRCUIT_BREAKERS = {"search": {}}

    assert conf.aliases() == ["default", "search"]
    assert conf.load("default").backend == conf.DEFAULT_BACKEND


def test_every_key_is_taken_over(settings):
    settings.CIRCUIT_BREAKERS = {
        "default": {
            "BACKEND": "a.B",
            "LOCATION": Path("/run/shop/circuits"),
            "NAMESPACE": "shop",
            "ENABLED": False,
            "OPTIONS": {"a": 1},
            "DEFAULTS": {"failure_threshold": 3},
            "BREAKERS": {"payments": {}},
        }
    }

    assert conf.load("default") == conf.RegistryConfig(
        alias="default",
        backend="a.B",
        location="/run/shop/circuits",
        namespace="shop",
        namespace_is_set=True,
        enabled=False,
        options={"a": 1},
        defaults={"failure_threshold": 3},
        breakers={"payments": {}},
    )


@pytest.mark.parametrize(
    ("urlconf", "namespace"), [("shop.config.urls", "shop"), ("urls", "urls"), (None, "default")]
)
def test_the_namespace_defaults_to_the_top_level_package_of_the_urlconf(
    settings, urlconf, namespace
):
    settings.ROOT_URLCONF = urlconf

    assert conf.load("default").namespace == namespace
    assert not conf.load("default").namespace_is_set


def test_empty_strings_from_the_environment_mean_not_set(settings):
    settings.CIRCUIT_BREAKERS = {"default": {"NAMESPACE": "", "LOCATION": ""}}

    config = conf.load("default")
    assert (config.namespace, config.namespace_is_set, config.location) == ("tests", False, None)


@pytest.mark.parametrize(
    "exceptions", ["OSError", OSError, ["OSError"], (OSError, "ValueError")], ids=repr
)
def test_exceptions_are_one_or_several_classes_or_dotted_paths(settings, exceptions):
    settings.CIRCUIT_BREAKERS = {"default": {"DEFAULTS": {"exceptions": exceptions}}}

    assert not list(conf.problems("default"))


def test_documented_defaults_are_the_ones_in_force():
    for key, hint in get_type_hints(conf.PolicySettings, include_extras=True).items():
        if key in POLICY_FIELDS and key not in ("failure_threshold", "recovery_timeout_max"):
            default = getattr(Policy(), key)
            shown = f'"{default}"' if isinstance(default, str) else repr(default)
            assert hint.__metadata__[0] == shown
    assert conf.make_policy({}) == (CircuitBreaker().policy, CircuitBreaker().exceptions)
    assert CircuitBreaker().exceptions.specs == (Exception,)


def test_every_option_of_a_breaker_can_be_set():
    assert set(get_type_hints(conf.PolicySettings)) == {*POLICY_FIELDS, "exceptions"}


# -- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, [], "payments", 5])
def test_something_else_than_a_dictionary_of_registries(settings, value):
    assert told(settings, value) == [
        ("E001", f"CIRCUIT_BREAKERS must be a dictionary of registries, not "
         f"{type(value).__name__} {value!r}.")
    ]  # fmt: skip


def test_a_registry_that_is_no_dictionary(settings):
    assert told(settings, {"default": "sqlite"}) == [
        ("E001", "CIRCUIT_BREAKERS[\"default\"] must be a dictionary, not str 'sqlite'.")
    ]


def test_an_alias_that_is_no_string(settings):
    assert told(settings, {1: {}}, alias=1) == [
        ("E001", "CIRCUIT_BREAKERS: the name of a registry must be a string, not int 1.")
    ]


def test_unknown_keys_of_a_registry(settings):
    assert told(settings, {"default": {"BACKENDS": "a", "xyz": 1, 5: 5}}) == [
        ("E002", "CIRCUIT_BREAKERS[\"default\"] has the unknown key 'BACKENDS'; did you mean "
         "'BACKEND'?"),
        ("E002", "CIRCUIT_BREAKERS[\"default\"] has the unknown key 'xyz'."),
        ("E002", 'CIRCUIT_BREAKERS["default"] has the unknown key 5.'),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "must"),
    [
        ("BACKEND", 5, "a dotted path, not int 5"),
        ("BACKEND", None, "a dotted path, not NoneType None"),
        ("LOCATION", 5, "a path or None, not int 5"),
        ("NAMESPACE", None, "a string, not NoneType None"),
        ("ENABLED", "False", "True or False, not str 'False'"),
        ("ENABLED", 0, "True or False, not int 0"),
        ("OPTIONS", None, "a dictionary, not NoneType None"),
        ("DEFAULTS", [], "a dictionary, not list []"),
        ("BREAKERS", ["payments"], "a dictionary, not list ['payments']"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_once(settings, key, value, must):
    assert told(settings, {"default": {key: value}}) == [
        ("E003", f'CIRCUIT_BREAKERS["default"]["{key}"] must be {must}.')
    ]


def test_a_breaker_that_is_no_dictionary(settings):
    assert told(settings, {"default": {"BREAKERS": {"payments": 5}}}) == [
        ("E003", 'CIRCUIT_BREAKERS["default"]["BREAKERS"]["payments"] must be a dictionary, not '
         "int 5."),
    ]  # fmt: skip


def test_unknown_options(settings):
    registry = {
        "DEFAULTS": {"failure_treshold": 3},
        "BREAKERS": {"payments": {"recovery_time": 3, "xyz": 1}},
    }
    place = 'CIRCUIT_BREAKERS["default"]["BREAKERS"]["payments"]'
    assert told(settings, {"default": registry}) == [
        ("E004", 'CIRCUIT_BREAKERS["default"]["DEFAULTS"] has the unknown key '
         "'failure_treshold'; did you mean 'failure_threshold'?"),
        ("E004", f"{place} has the unknown key 'recovery_time'; did you mean "
         "'recovery_timeout'?"),
        ("E004", f"{place} has the unknown key 'xyz'."),
    ]  # fmt: skip


COUNTS = ["quorum", "half_open_max_calls", "success_threshold"]
DURATIONS = ["failure_window", "recovery_timeout", "trial_timeout"]


@pytest.mark.parametrize("value", [0, -1, 1001, True, 2.0, "5", None, Decimal(5)], ids=repr)
@pytest.mark.parametrize("key", COUNTS)
def test_a_count_is_a_whole_number_from_1_to_1000(settings, key, value):
    [(number, message)] = told(settings, {"default": {"DEFAULTS": {key: value}}})

    assert number == "E005"
    assert message.startswith(
        f'CIRCUIT_BREAKERS["default"]["DEFAULTS"]: {key} must be a whole number from 1 to 1000, '
        f"not {value!r}"
    )


BAD_DURATIONS = [0, -1.5, 1e-9, 2e9, float("nan"), float("inf"), True, "5", None, Decimal(5)]


@pytest.mark.parametrize("value", BAD_DURATIONS, ids=repr)
@pytest.mark.parametrize("key", DURATIONS)
def test_a_duration_is_a_number_of_seconds_above_0(settings, key, value):
    [(number, message)] = told(settings, {"default": {"BREAKERS": {"payments": {key: value}}}})

    assert number == "E005"
    assert message.startswith(
        f'CIRCUIT_BREAKERS["default"]["BREAKERS"]["payments"]: {key} must be a number of seconds'
    )
    assert f"not {value!r}" in message


def test_a_timedelta_is_refused_with_the_number_to_write(settings):
    defaults = {"recovery_timeout": timedelta(minutes=2)}
    [(_, message)] = told(settings, {"default": {"DEFAULTS": defaults}})

    assert message.endswith("not a timedelta: write 120.")


def test_a_trial_timeout_of_more_than_an_hour(settings):
    [(_, message)] = told(settings, {"default": {"DEFAULTS": {"trial_timeout": 3601}}})

    assert message.endswith("3600, not 3601.")


@pytest.mark.parametrize("value", [5, None, [5], ["not a path"], [""], [int], "a..b"], ids=repr)
def test_exceptions_that_are_none(settings, value):
    [(number, message)] = told(settings, {"default": {"DEFAULTS": {"exceptions": value}}})

    assert number == "E005"
    assert "exceptions must be exception classes or dotted paths" in message


def test_an_iterator_of_exceptions_would_be_empty_at_the_second_look(settings):
    exceptions = iter([OSError])
    [(number, message)] = told(settings, {"default": {"DEFAULTS": {"exceptions": exceptions}}})

    assert number == "E005"
    assert message.endswith("exceptions must be a tuple or a list, not a list_iterator.")


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", 5, None], ids=repr)
def test_a_name_that_is_not_usable_is_told_once(settings, name):
    [(number, message)] = told(settings, {"default": {"BREAKERS": {name: {}}}})

    assert number == "E006"
    assert message.startswith(
        'CIRCUIT_BREAKERS["default"]["BREAKERS"]: the name must be a string of 1 to 200 printable'
    )


def test_of_a_breaker_without_a_usable_name_only_that_is_told(settings):
    assert len(told(settings, {"default": {"BREAKERS": {"": {"xyz": 1}}}})) == 1


def test_all_that_is_wrong_is_told_at_once(settings):
    registry = {"ENABLE": 1, "OPTIONS": 1, "DEFAULTS": {"a": 1}, "BREAKERS": {"b": {"c": 1}}}

    assert [number for number, _ in told(settings, {"default": registry})] == [
        "E002",
        "E003",
        "E004",
        "E004",
    ]


def test_a_mistake_in_one_registry_is_not_told_of_another(settings):
    settings.CIRCUIT_BREAKERS = {"search": {"BACKENDS": 1}}

    assert not list(conf.problems("default"))
    assert list(conf.problems("search"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"failure_treshold": 5}, "'failure_treshold' is no option of a breaker; did you mean"),
        ({"xyz": 5}, "'xyz' is no option of a breaker$"),
    ],
)
def test_an_unknown_option_in_code(values, message):
    with pytest.raises(TypeError, match=message):
        conf.make_policy(values)


# -- the fingerprint ----------------------------------------------------------------------------


def test_the_fingerprint_tells_settings_apart():
    config = conf.RegistryConfig("default")
    variants = [
        config,
        replace(config, enabled=False),
        replace(config, defaults={"failure_threshold": 3}),
        replace(config, breakers={"payments": {}}),
        replace(config, breakers={"payments": {"exceptions": [OSError]}}),
    ]

    assert len({variant.digest() for variant in variants}) == len(variants)


def test_the_fingerprint_is_the_same_however_the_same_is_written():
    one = conf.RegistryConfig("default", breakers={"a": {}, "b": {"exceptions": [OSError]}})
    exceptions = ("builtins.OSError",)
    other = conf.RegistryConfig("default", breakers={"b": {"exceptions": exceptions}, "a": {}})

    assert one.digest() == other.digest()
