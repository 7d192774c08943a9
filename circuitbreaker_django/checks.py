"""System checks. They open no file and no socket."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, router

from circuitbreaker_django import conf, declarations, families
from circuitbreaker_django.backends.database import DatabaseBackend
from circuitbreaker_django.backends.loading import load_backend_class, make_backend
from circuitbreaker_django.core import options
from circuitbreaker_django.core.classify import NotInstalled, resolve, resolve_callable
from circuitbreaker_django.core.detail import Detail
from circuitbreaker_django.project import registries
from circuitbreaker_django.registry import Registry

#: Every id, with what it is for; ``docs/checks.md`` is made of it.
IDS: Final = {
    "E001": "`CIRCUIT_BREAKERS`, or one of its registries, is not a dictionary.",
    "E002": "A registry has a key that is not known.",
    "E003": "A value of a registry is of the wrong type or out of range.",
    "E004": "A breaker has an option that is not known.",
    "E005": "An option of a breaker is of the wrong type or out of range.",
    "E006": "The name of a breaker is not usable.",
    "E007": "`BACKEND` is not the dotted path of a backend class.",
    "E008": "An exception's library is there, but has no exception class of that name.",
    "E009": "Two registries have the same `LOCATION`.",
    "E010": "The backend does not take this `LOCATION` or these `OPTIONS`.",
    "E011": "Code declares a breaker in a registry that is not in the settings.",
    "E012": "The dotted path of a predicate, of `retry_after` or of `ERROR_DETAIL` leads to no "
    "sync callable.",
    "E013": "The app that brings the tables of `DatabaseBackend` is not in `INSTALLED_APPS`.",
    "W001": "An exception's library is not installed, so the exception counts as never raised.",
    "W002": "A backend keeps circuits in each process alone (only with `--deploy`).",
    "W003": "`NAMESPACE` is not set (without `--deploy` only where its default is a name that many "
    "projects have, such as `config`).",
    "W004": "Circuits lie at the default place, which a container shares with no other "
    "(only with `--deploy`).",
    "W005": "`LOCATION` depends on the folder that a process was started in "
    "(only with `--deploy`).",
    "W006": "An option of a breaker has no effect beside its other options.",
    "W007": "A router of `DATABASE_ROUTERS` keeps the tables of `DatabaseBackend` from their "
    "database.",
    "W008": "`LOCATION` is a folder, and not a file in one.",
    "W009": "A name in `BREAKERS` is not declared and almost that of a breaker which is (only with "
    "`--deploy`).",
}


#: Packages of ``ROOT_URLCONF`` that many projects have, so that two may well meet on one host.
COMMON_NAMES: Final = frozenset(
    (
        "app",
        "backend",
        "config",
        "core",
        "default",
        "main",
        "mysite",
        "project",
        "src",
        "urls",
        "web",
    )
)


def check_settings(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Errors in ``CIRCUIT_BREAKERS`` and in what code declares."""
    messages: list[CheckMessage] = []
    owners: dict[tuple[str, str], str] = {}
    for alias in conf.aliases():
        wrong = list(conf.problems(alias))
        messages += [_error(item.id, item.message, item.hint) for item in wrong]
        if not wrong:
            config = conf.load(alias)
            messages += _check_backend(config)
            messages += _check_location(config, owners)
            messages += _check_tables(config)
            messages += _check_folder(config)
            messages += _check_paths(config)
            messages += _check_effects(config)
            if config.namespace in COMMON_NAMES:
                messages += _check_namespace(config)
    messages += _check_declared_registries()
    return messages


def check_deployment(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """What is fine while one develops, and not in production."""
    messages: list[CheckMessage] = []
    for alias in conf.aliases():
        if not any(conf.problems(alias)):
            config = conf.load(alias)
            if config.enabled:
                if config.namespace not in COMMON_NAMES:
                    messages += _check_namespace(config)
                messages += _check_sharing(config)
                messages += _check_names(config)
    return messages


def in_container() -> bool:
    """Whether this process runs in a container, as far as files tell."""
    marks = ("/.dockerenv", "/run/.containerenv")
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(map(os.path.exists, marks))


def _check_backend(config: conf.RegistryConfig) -> Iterator[CheckMessage]:
    try:
        load_backend_class(config)
    except ImproperlyConfigured as error:
        yield _error("E007", str(error), f'For example "{conf.DEFAULT_BACKEND}".')
        return
    try:
        make_backend(config)
    except ImproperlyConfigured as error:
        yield _error("E010", str(error), "Take out or correct what the backend does not know.")


def _check_location(
    config: conf.RegistryConfig, owners: dict[tuple[str, str], str]
) -> Iterator[CheckMessage]:
    if config.location is None or _separates(config):
        return
    owner = owners.setdefault((config.backend, config.location), config.alias)
    if owner != config.alias:
        yield _error(
            "E009",
            f"{conf.where(config.alias)} has the same LOCATION as {conf.where(owner)}: "
            f"{config.location}.",
            "Give each registry its own, or put the breakers into one.",
        )


def _check_folder(config: conf.RegistryConfig) -> Iterator[CheckMessage]:
    location = config.location
    if config.backend == conf.DEFAULT_BACKEND and location and os.path.isdir(location):
        place = conf.where(config.alias)
        yield _warning(
            "W008",
            f"{place}: LOCATION {location!r} is a folder, so circuits lie in files beside it.",
            f"Give the path of a file, such as {os.path.join(location, 'circuits.sqlite3')!r}.",
        )


def _separates(config: conf.RegistryConfig) -> bool:
    try:
        return bool(load_backend_class(config).separates)
    except ImproperlyConfigured:
        return False  # told by another check


def _check_tables(config: conf.RegistryConfig) -> Iterator[CheckMessage]:
    try:
        backend_class = load_backend_class(config)
    except ImproperlyConfigured:
        return  # told by another check
    if not issubclass(backend_class, DatabaseBackend):
        return
    place, database = conf.where(config.alias), config.location or DEFAULT_DB_ALIAS
    if not apps.is_installed(DatabaseBackend.app):
        yield _error(
            "E013",
            f"{place} keeps circuits in tables, and the app that brings them is not installed.",
            f'Add "{DatabaseBackend.app}" to INSTALLED_APPS and migrate.',
        )
    elif not router.allow_migrate(database, DatabaseBackend.app_label):
        yield _warning(
            "W007",
            f"{place} keeps circuits in the database {database!r}, and a router keeps the tables "
            "from it.",
            f"Let it allow the migrations of {DatabaseBackend.app_label!r} there, or silence this "
            "if the tables are made in another way.",
        )


def _check_paths(config: conf.RegistryConfig) -> Iterator[CheckMessage]:
    policies: dict[str, Mapping[str, Any]] = {conf.where(config.alias, "DEFAULTS"): config.defaults}
    for name, declared in declarations.of(config.alias).items():
        entries = [*families.matching(name, config.breakers), name]
        override = {key for entry in entries for key in config.breakers.get(entry, {})}
        in_force = {key: value for key, value in declared.policy.items() if key not in override}
        policies[f"breaker {name!r}, declared at {declared.where}"] = in_force
    for name, entry in config.breakers.items():
        policies[conf.where(config.alias, "BREAKERS", name)] = entry
    for place, policy in policies.items():
        classifier = options.make(policy)[1]
        for types in (classifier.exceptions, classifier.ignore_exceptions):
            for spec in types.specs:
                if isinstance(spec, str):
                    yield from _check_exception(place, spec)
        for callback in classifier.callbacks:
            if isinstance(callback.spec, str):
                yield from _check_callable(place, callback.option, callback.spec)

    scrub = Detail(config.error_detail).path
    if scrub is not None:
        yield from _check_callable(conf.where(config.alias), "ERROR_DETAIL", scrub)


def _check_exception(place: str, spec: str) -> Iterator[CheckMessage]:
    try:
        resolve(spec)
    except NotInstalled as error:
        yield _warning(
            "W001",
            f"{place}: exception {spec!r}: {error}, so it counts as never raised.",
            "Install the library, or take the exception out.",
        )
    except Exception as error:  # importing a library may raise anything
        yield _error("E008", f"{place}: exception {spec!r}: {error}.", "Correct the dotted path.")


def _check_callable(place: str, option: str, path: str) -> Iterator[CheckMessage]:
    try:
        resolve_callable(path)
    except Exception as error:  # importing a library may raise anything
        yield _error("E012", f"{place}: {option} {path!r}: {error}.", "Correct the dotted path.")


def _check_effects(config: conf.RegistryConfig) -> Iterator[CheckMessage]:
    """What does nothing is told where it stands."""
    registry = Registry(config, registries)  # of its own: nothing is to be built by a check
    names = {*registry, *config.breakers}
    idle = {name: _without_effect(registry.values_for(name)) for name in names}
    place = conf.where(config.alias, "DEFAULTS")
    for keys, why in _without_effect(config.defaults).items():
        if all(keys in one for one in idle.values()):  # others may make it work
            yield _warning("W006", f"{place}: {why}.", "Take it out, or correct it.")
    for name, entry in config.breakers.items():
        place = conf.where(config.alias, "BREAKERS", name)
        with_others = [idle[name]]
        if families.is_pattern(name):
            with_others = [_without_effect(each) for each in _values_under(registry, name)]
        for keys, why in with_others[0].items():
            if not entry.keys().isdisjoint(keys) and all(keys in one for one in with_others):
                yield _warning("W006", f"{place}: {why}.", "Take it out, or correct it.")


def _values_under(registry: Registry, pattern: str) -> Iterator[Mapping[str, Any]]:
    """What is in force where a pattern applies: alone, for the names and in the families it fits.

    Which keys there will be nobody knows, so of a family's members it is what all have.
    """
    said = registry.said_of(pattern)
    yield {**registry.config.defaults, **said}
    head, colon, _ = pattern.partition(families.COLON)
    for name in {*registry, *registry.config.breakers}:
        if fnmatchcase(name, pattern):
            yield registry.values_for(name)
        if colon and fnmatchcase(name, head):
            yield {**registry.values_for(name), **said}


def _without_effect(values: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """Why options have no effect, by their names."""
    policy, _ = options.make(values)
    found: dict[tuple[str, ...], str] = {}
    if "slow_call_rate_threshold" in values and policy.slow_call_duration is None:
        found["slow_call_rate_threshold",] = (
            "slow_call_rate_threshold has no effect without slow_call_duration"
        )
    if "minimum_calls" in values and not policy.has_rates:
        found["minimum_calls",] = (
            "minimum_calls has no effect without failure_rate_threshold or slow_call_duration"
        )
    if "retry_after" in values and policy.wait_max <= policy.recovery_timeout:
        found["retry_after",] = (
            "retry_after has no effect, as no wait may be longer than recovery_timeout: set a "
            "longer recovery_timeout_max"
        )
    longest, wait = policy.recovery_timeout_max, policy.recovery_timeout
    if longest is not None and longest < wait:
        found["recovery_timeout_max", "recovery_timeout"] = (
            f"recovery_timeout_max {longest:g} has no effect below recovery_timeout {wait:g}"
        )
    return found


def _check_declared_registries() -> Iterator[CheckMessage]:
    for alias, declared in declarations.everything().items():
        if alias not in registries:
            name, first = next(iter(declared.items()))
            hint = options.nearest(alias, registries).lstrip("; ").capitalize()
            yield _error(
                "E011",
                f"breaker {name!r}, declared at {first.where}, is for registry {alias!r}, which is "
                f"not in {conf.SETTING}.",
                hint or f"Add {conf.where(alias)} = {{}}.",
            )


def _check_namespace(config: conf.RegistryConfig) -> Iterator[CheckMessage]:
    is_apart = config.backend == conf.DEFAULT_BACKEND and config.location
    if config.namespace_is_set or is_apart or not config.enabled or not _is_shared(config):
        return
    yield _warning(
        "W003",
        f"{conf.where(config.alias)} has no NAMESPACE; it defaults to {config.namespace!r}.",
        "Set one, so that two projects or deployments on one host never share circuits.",
    )


def _is_shared(config: conf.RegistryConfig) -> bool:
    try:
        return bool(load_backend_class(config).shared)
    except ImproperlyConfigured:
        return False  # told by another check


def _check_sharing(config: conf.RegistryConfig) -> Iterator[CheckMessage]:
    place = conf.where(config.alias)
    try:
        shared = load_backend_class(config).shared
    except ImproperlyConfigured:
        return  # told by the other check
    if not shared:
        remedy = f"Use a shared backend such as {conf.DEFAULT_BACKEND}."
        if sys.platform == "win32":
            remedy = f"{conf.DEFAULT_BACKEND} needs Linux or macOS."
        yield _warning("W002", f"{place}: each process has circuits of its own.", remedy)
        return
    is_sqlite = config.backend == conf.DEFAULT_BACKEND
    if is_sqlite and config.location is None and in_container():
        yield _warning(
            "W004",
            f"{place}: the circuits of this container are its own.",
            "Set LOCATION to a path on a volume that the containers of the host share, or silence "
            "this if each container is to have circuits of its own.",
        )
    if is_sqlite and config.location is not None and not os.path.isabs(config.location):
        yield _warning(
            "W005",
            f"{place}: LOCATION {config.location!r} depends on the folder that a process is "
            "started in.",
            "Give an absolute path, so that workers and commands find the same circuits.",
        )


def _check_names(config: conf.RegistryConfig) -> Iterator[CheckMessage]:
    """Only what is very near: code that no check imports may declare any other name."""
    declared = declarations.of(config.alias)
    free = declared.keys() - config.breakers.keys()  # what stands beside it is another breaker
    for name in config.breakers.keys() - declared.keys():
        for other in sorted(each for each in free if _is_slip(name, each))[:1]:
            yield _warning(
                "W009",
                f"{conf.where(config.alias, 'BREAKERS', name)}: no code declares {name!r}, but "
                f"{other!r}, at {declared[other].where}.",
                "Correct the name, or silence this if other code declares it.",
            )


def _is_slip(name: str, other: str) -> bool:
    """Whether the names differ by the order of letters, or by one that was left out or doubled.

    What begins or ends with the other, such as ``"payments2"``, is a name of its own.
    """
    ours, theirs = Counter(name), Counter(other)
    if (ours - theirs).total() + (theirs - ours).total() > 1:
        return False
    short, long = sorted((name, other), key=len)
    return not long.startswith(short) and not long.endswith(short)


def _error(number: str, message: str, hint: str) -> Error:
    return Error(message, hint=hint, id=f"circuitbreaker_django.{number}")


def _warning(number: str, message: str, hint: str) -> Warning:
    return Warning(message, hint=hint, id=f"circuitbreaker_django.{number}")
