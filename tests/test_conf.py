"""Settings: what is allowed, what is told of everything else, and what comes of it."""

from __future__ import annotations

import inspect
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import get_type_hints

import environ
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from circuitbreaker_django import Mode, circuit_protected, conf, registries
from circuitbreaker_django.core import options
from circuitbreaker_django.core.classify import Classifier
from circuitbreaker_django.core.policy import Policy


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
            "STATS_INTERVAL": 10,
            "ERROR_DETAIL": False,
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
        stats_interval=10,
        error_detail=False,
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
    in_force = {**options.as_data(Policy(), Classifier())}
    written = {
        "failure_threshold": "5, if no other rule is set",
        "recovery_timeout_max": "ten times `recovery_timeout`",
        "initial_mode": '"auto"',
        "exceptions": "(Exception,)",
        "ignore_exceptions": "()",
    }
    for key, hint in get_type_hints(conf.PolicySettings, include_extras=True).items():
        assert hint.__metadata__[0] == written.get(key, repr(in_force[key])), key
    assert Policy().failure_threshold == 5
    assert Policy().initial_mode == "auto"
    assert Classifier().exceptions.specs == (Exception,)
    assert Classifier().ignore_exceptions.specs == ()


def say(answer: object) -> float | None:
    return None


GOOD_OPTIONS = {
    "failure_threshold": None,
    "failure_window": 10,
    "failure_rate_threshold": 0.5,
    "slow_call_duration": 2,
    "slow_call_rate_threshold": 0.8,
    "minimum_calls": 20,
    "consecutive_failures": 3,
    "quorum": 2,
    "recovery_timeout": 5,
    "recovery_backoff": 2,
    "recovery_timeout_max": 600,
    "recovery_jitter": 0.1,
    "half_open_max_calls": 2,
    "success_threshold": 2,
    "trial_timeout": 10,
    "ramp_up": 30,
    "initial_mode": "metrics_only",
    "exceptions": ["OSError"],
    "ignore_exceptions": (ConnectionError,),
    "failure_predicate": say,
    "result_predicate": f"{__name__}.say",
    "retry_after": say,
}


def test_every_option_of_a_breaker_can_be_set(settings):
    assert set(GOOD_OPTIONS) == set(get_type_hints(conf.PolicySettings))
    settings.CIRCUIT_BREAKERS = {
        "default": {
            "DEFAULTS": GOOD_OPTIONS,
            "BREAKERS": {"payments": GOOD_OPTIONS, "search": {}},
        }
    }

    assert not list(conf.problems("default"))
    for name in ("payments", "search"):
        breaker = registries["default"][name]
        assert (breaker.policy, breaker.classifier) == options.make(GOOD_OPTIONS)


@pytest.mark.parametrize(
    ("key", "value", "must"),
    [
        ("failure_rate_threshold", 0, "a number above 0 and up to 1, not 0."),
        ("slow_call_duration", "1", "a number of seconds from 0.000001 to 1000000000, not '1'."),
        ("slow_call_rate_threshold", 2, "a number above 0 and up to 1, not 2."),
        ("minimum_calls", 0, "a whole number from 1 to 1000000, not 0."),
        ("consecutive_failures", 0, "a whole number from 1 to 1000, not 0."),
        ("quorum", None, "a whole number from 1 to 1000, not None."),
        ("recovery_backoff", 0.5, "a number from 1 to 100, not 0.5."),
        ("recovery_timeout_max", 0, "a number of seconds from 0.000001 to 1000000000, not 0."),
        ("recovery_jitter", 2, "a number from 0 to 1, not 2."),
        ("ramp_up", -1, "a number from 0 to 1000000000, not -1."),
        ("initial_mode", "open", "one of 'auto', 'forced_open', 'disabled', 'metrics_only', not "
         "'open'."),
        ("ignore_exceptions", 5, "exception classes or dotted paths such as "
         "'requests.RequestException', not 5."),
        *((key, 5, f"a sync callable, a dotted path such as 'shop.breakers.{key}', or None, not 5.")
          for key in ("failure_predicate", "result_predicate", "retry_after")),
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_told_with_its_place(settings, key, value, must):
    assert told(settings, {"default": {"BREAKERS": {"payments": {key: value}}}}) == [
        ("E005", f'CIRCUIT_BREAKERS["default"]["BREAKERS"]["payments"]: {key} must be {must}')
    ]


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
        ("LOCATION", 5, "a path, a URL or None, not int 5"),
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


@pytest.mark.parametrize("value", [0, 0.0, 1, 2.5, 60])
def test_an_interval_that_can_be_kept_is_taken(settings, value):
    settings.CIRCUIT_BREAKERS = {"default": {"STATS_INTERVAL": value}}

    assert conf.load("default").stats_interval == value
    assert registries["default"].backend.stats_interval == value


@pytest.mark.parametrize("value", [-1, 0.5, 61, float("nan"), False, None, "5", timedelta(5)])
def test_any_other_interval_is_told(settings, value):
    assert told(settings, {"default": {"STATS_INTERVAL": value}}) == [
        (
            "E003",
            'CIRCUIT_BREAKERS["default"]: STATS_INTERVAL must be a number from 1 to 60, '
            f"not {value!r}.",
        )
    ]


@pytest.mark.parametrize("value", [True, False, say, "shop.breakers.scrub"])
def test_what_is_kept_of_a_message_can_be_said(settings, value):
    settings.CIRCUIT_BREAKERS = {"default": {"ERROR_DETAIL": value}}

    assert conf.load("default").error_detail is value
    assert (registries["default"].backend.error_detail.of(OSError("a")) == "a") == (value is True)


@pytest.mark.parametrize("value", [None, 1, [], "no path"])
def test_what_cannot_say_what_is_kept_of_a_message_is_told(settings, value):
    [(number, message)] = told(settings, {"default": {"ERROR_DETAIL": value}})
    assert number == "E003"
    assert message.startswith('CIRCUIT_BREAKERS["default"]: ERROR_DETAIL must be ')


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


@pytest.mark.parametrize("key", sorted(conf.ARGUMENTS))
def test_what_only_the_decorator_takes_is_told_as_that(settings, key):
    registry = {"BREAKERS": {"payments": {key: None}}}
    place = 'CIRCUIT_BREAKERS["default"]["BREAKERS"]["payments"]'
    assert told(settings, {"default": registry}) == [
        ("E004", f"{place}: {key} is an argument of @circuit_protected only.")
    ]


def test_the_arguments_of_the_decorator_are_known():
    taken = set(inspect.signature(circuit_protected).parameters)
    assert taken - {"name", "policy"} == conf.ARGUMENTS


COUNTS = ["failure_threshold", "half_open_max_calls", "success_threshold"]
DURATIONS = ["failure_window", "recovery_timeout", "trial_timeout"]


@pytest.mark.parametrize("value", [0, -1, 1001, True, 2.0, "5", Decimal(5)], ids=repr)
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


# -- the fingerprint ----------------------------------------------------------------------------


def test_the_fingerprint_tells_settings_apart():
    config = conf.RegistryConfig("default")
    variants = [
        config,
        replace(config, enabled=False),
        replace(config, defaults={"failure_threshold": 3}),
        replace(config, breakers={"payments": {}}),
        replace(config, breakers={"payments": {"exceptions": [OSError]}}),
        replace(config, breakers={"payments": {"ignore_exceptions": [OSError]}}),
        *(
            replace(config, defaults={key: func})
            for key in ("failure_predicate", "result_predicate", "retry_after")
            for func in (say, len)
        ),
    ]

    assert len({variant.digest() for variant in variants}) == len(variants)


def test_the_fingerprint_is_the_same_however_the_same_is_written():
    classes = {"exceptions": [OSError], "retry_after": say, "initial_mode": Mode.DISABLED}
    one = conf.RegistryConfig("default", breakers={"a": {}, "b": classes})
    paths = {"initial_mode": "disabled", "retry_after": f"{__name__}.say", "exceptions": "OSError"}
    other = conf.RegistryConfig("default", breakers={"b": paths, "a": {}})

    assert one.digest() == other.digest()


# -- registries from a URL -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/0", {"BACKEND": conf.REDIS_BACKEND, "LOCATION": "redis://h:1/0"}),
        ("rediss://h", {"BACKEND": conf.REDIS_BACKEND, "LOCATION": "rediss://h"}),
        ("valkey://h", {"BACKEND": conf.REDIS_BACKEND, "LOCATION": "valkey://h"}),
        ("unix:///r.sock", {"BACKEND": conf.REDIS_BACKEND, "LOCATION": "unix:///r.sock"}),
        ("database://default", {"BACKEND": conf.DATABASE_BACKEND, "LOCATION": "default"}),
        ("database://", {"BACKEND": conf.DATABASE_BACKEND, "LOCATION": "default"}),
        ("sqlite://", {"BACKEND": conf.DEFAULT_BACKEND, "LOCATION": None}),
        ("sqlite:///a/b", {"BACKEND": conf.DEFAULT_BACKEND, "LOCATION": "a/b"}),
        ("sqlite:////a/b", {"BACKEND": conf.DEFAULT_BACKEND, "LOCATION": "/a/b"}),
        ("sqlite:////a%20b%3F", {"BACKEND": conf.DEFAULT_BACKEND, "LOCATION": "/a b?"}),
        ("SQLite:///a", {"BACKEND": conf.DEFAULT_BACKEND, "LOCATION": "a"}),
        ("memory://", {"BACKEND": conf.MEMORY_BACKEND}),
    ],
)
def test_a_registry_from_a_url(url, expected):
    assert conf.registry_from_url(url) == expected
    assert conf.registry_from_url(url, NAMESPACE="shop") == {**expected, "NAMESPACE": "shop"}


@pytest.mark.parametrize("url", ["", "redis", "/a/b", "postgres://ann:s3cret@h/db", "redis:h"])
def test_a_url_of_no_backend_is_refused_and_not_shown(url):
    with pytest.raises(ImproperlyConfigured, match=r"must be redis://.*memory://") as caught:
        conf.registry_from_url(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [("", "is an empty text"), ("redis:h", "is no URL"), ("postgres://a:b@h", "is postgres://...")],
)
def test_how_a_refused_url_begins_is_told(url, told):
    with pytest.raises(ImproperlyConfigured) as caught:
        conf.registry_from_url(url)
    assert str(caught.value).endswith(told)


@pytest.mark.parametrize("url", ["sqlite://host/path", "sqlite:///a?mode=ro", "sqlite:////a#b"])
def test_a_file_has_neither_host_nor_options(url):
    with pytest.raises(ImproperlyConfigured, match=r"sqlite:////absolute/path, without a host"):
        conf.registry_from_url(url)


@pytest.mark.parametrize("variable", ["memory://", "sqlite:////nowhere/circuits"])
def test_a_registry_from_an_environment(monkeypatch, variable):
    monkeypatch.setenv("CIRCUIT_BREAKERS_URL", variable)
    found = environ.Env()("CIRCUIT_BREAKERS_URL", cast=conf.registry_from_url)
    with override_settings(CIRCUIT_BREAKERS={"default": found}):
        assert conf.load("default").backend == found["BACKEND"]
