"""Django's settings as configurations of registries: the one place that reads them.

Whatever is wrong in them is found here, once, and told twice: by ``manage.py check`` and as
:class:`ImproperlyConfigured` when a registry is built, for checks do not run in a server.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Final, TypedDict, Unpack, get_type_hints
from urllib.parse import unquote

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from circuitbreaker_django.core.breaker import check_name
from circuitbreaker_django.core.detail import Detail, DetailSpec
from circuitbreaker_django.core.options import TEXTS, BreakerOptions, make, nearest
from circuitbreaker_django.core.policy import check_between, check_count

SETTING: Final = "CIRCUIT_BREAKERS"
DEFAULT_ALIAS: Final = "default"
#: The least and the most that ``STATS_INTERVAL`` may be, unless it is 0.
STATS_INTERVALS: Final = (1, 60)
DEFAULT_BACKEND: Final = "circuitbreaker_django.backends.sqlite.SQLiteBackend"
DEFAULT_MAX_BREAKERS: Final = 1000
MAX_MAX_BREAKERS: Final = 100_000
MEMORY_BACKEND: Final = "circuitbreaker_django.backends.memory.MemoryBackend"
REDIS_BACKEND: Final = "circuitbreaker_django.backends.redis.RedisBackend"
DATABASE_BACKEND: Final = "circuitbreaker_django.backends.database.DatabaseBackend"


#: What ``@circuit_protected`` takes beside the options of a breaker.
ARGUMENTS: Final = frozenset(
    ("registry", "view", "key", "fallback", "fallback_on_failure", "failure_statuses", "stream")
)

#: One breaker: in ``DEFAULTS``, in ``BREAKERS`` and in ``@circuit_protected(...)``.
PolicySettings = BreakerOptions


class RegistrySettings(TypedDict, total=False):
    """One registry: the values of ``CIRCUIT_BREAKERS``."""

    BACKEND: Annotated[
        str, f'"{DEFAULT_BACKEND}"', "Dotted path of the backend: where the circuits live."
    ]
    LOCATION: Annotated[
        str | os.PathLike[str] | None,
        "None",
        "Where the backend keeps them: for SQLite the path of the file, where `None` or empty is a "
        "folder in memory that all users and sessions of the host find; for Redis a URL; for a "
        "database its alias in `DATABASES`.",
    ]
    NAMESPACE: Annotated[
        str,
        "the top-level package of `ROOT_URLCONF`",
        "Keeps projects and environments apart that share a host or a server. Two that set none "
        "and whose `ROOT_URLCONF` is `config.urls` share their circuits: set it.",
    ]
    ENABLED: Annotated[bool, "True", "`False`: all calls pass and nothing is counted."]
    OPTIONS: Annotated[dict[str, Any], "{}", "Further arguments of the backend."]
    STATS_INTERVAL: Annotated[
        float,
        "5.0",
        "Seconds between two times that a process tells, in the background, of the calls that it "
        "has counted, for `breaker status` and the admin; 1 to 60. `0`: it never does.",
    ]
    ERROR_DETAIL: Annotated[
        DetailSpec,
        "True",
        "Whether the message of the last error is kept, cut to 200 characters, for operators and "
        "the log; the class alone seldom says what is wrong. Where messages may hold personal data "
        "or secrets: `False`, or a callable or its dotted path, which is given the exception and "
        "returns what to keep of it.",
    ]
    DEFAULTS: Annotated[PolicySettings, "{}", "For every breaker of the registry."]
    BREAKERS: Annotated[
        dict[str, PolicySettings],
        "{}",
        "Breakers by name, or by patterns of names such as `tenant:*`. What stands here overrides "
        "what the code declares, key by key.",
    ]
    MAX_BREAKERS: Annotated[
        int,
        "1000",
        "Breakers by key, such as `tenant:acme`, that each process keeps; 1 to 100,000. Idle ones "
        "go first. While none can, further keys share the family's common breaker.",
    ]


def registry_from_url(url: str, **options: Unpack[RegistrySettings]) -> RegistrySettings:
    """The settings of a registry whose backend a URL names, as an environment variable has it.

    ``redis://``, ``rediss://``, ``unix://`` and what else
    :class:`~circuitbreaker_django.backends.redis.RedisBackend` takes; ``database://default``, an
    alias of ``DATABASES``; ``sqlite:///path`` with a relative path, ``sqlite:////path`` with an
    absolute one (``%20`` is a space), ``sqlite://`` for the default place; ``memory://``.

    ``CIRCUIT_BREAKERS = {"default": registry_from_url(os.environ["CIRCUIT_BREAKERS_URL"])}``

    Args:
        url: the URL.
        options: further keys of the registry.

    Raises:
        ImproperlyConfigured: it is no URL of a backend. The message shows only how it begins, for
            it may have a password.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    found: RegistrySettings
    if scheme.startswith(("redis", "valkey")) or scheme == "unix":
        found = {"BACKEND": REDIS_BACKEND, "LOCATION": url}
    elif scheme == "database":
        found = {"BACKEND": DATABASE_BACKEND, "LOCATION": rest.strip("/") or "default"}
    elif scheme == "sqlite":
        host, _, path = rest.partition("/")
        if host or "?" in path or "#" in path:
            raise ImproperlyConfigured(
                "the URL of a registry in a file is sqlite:///relative/path or "
                "sqlite:////absolute/path, without a host; ? and # are written %3F and %23"
            )
        found = {"BACKEND": DEFAULT_BACKEND, "LOCATION": unquote(path) or None}
    elif scheme == "memory":
        found = {"BACKEND": MEMORY_BACKEND}
    else:
        separator = ""
    if not separator:
        begin = f"{scheme[:20]}://..." if "://" in url else "an empty text" if not url else "no URL"
        raise ImproperlyConfigured(
            f"the URL of a registry must be redis://..., rediss://..., unix://... or one of the "
            f"other forms of docs/redis.md, database://alias, sqlite:///path or memory://, and is "
            f"{begin}"
        )
    return {**found, **options}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in the settings: the check's id, what it is, and what to do."""

    id: str
    message: str
    hint: str


@dataclass(frozen=True)
class RegistryConfig:
    """The settings of one registry, complete."""

    alias: str
    backend: str = DEFAULT_BACKEND
    location: str | None = None
    namespace: str = "default"
    namespace_is_set: bool = False
    enabled: bool = True
    stats_interval: float = 5.0
    error_detail: DetailSpec = True
    options: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    breakers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_breakers: int = DEFAULT_MAX_BREAKERS

    def digest(self) -> str:
        """A fingerprint by which processes with other settings are told."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        policies = {name: _plain(policy) for name, policy in self.breakers.items()}
        text = json.dumps([self.enabled, _plain(self.defaults), policies], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def aliases() -> list[str]:
    """The aliases of all registries; ``default`` is always there."""
    raw = getattr(settings, SETTING, {})
    names = list(raw) if isinstance(raw, Mapping) else []
    return names if DEFAULT_ALIAS in names else [DEFAULT_ALIAS, *names]


def load(alias: str) -> RegistryConfig:
    """The configuration of a registry.

    Raises:
        ImproperlyConfigured: the message says all that is wrong in it, and what to do.
    """
    wrong = list(problems(alias))
    if wrong:
        raise ImproperlyConfigured("\n".join(f"{item.message} {item.hint}" for item in wrong))
    raw: Mapping[str, Any] = getattr(settings, SETTING, {}).get(alias, {})
    location = raw.get("LOCATION")
    return RegistryConfig(
        alias=alias,
        backend=raw.get("BACKEND", DEFAULT_BACKEND),
        location=os.fspath(location) if location else None,
        namespace=raw.get("NAMESPACE") or _default_namespace(),
        namespace_is_set=bool(raw.get("NAMESPACE")),
        enabled=raw.get("ENABLED", True),
        stats_interval=raw.get("STATS_INTERVAL", 5.0),
        error_detail=raw.get("ERROR_DETAIL", True),
        options=raw.get("OPTIONS", {}),
        defaults=raw.get("DEFAULTS", {}),
        breakers=raw.get("BREAKERS", {}),
        max_breakers=raw.get("MAX_BREAKERS", DEFAULT_MAX_BREAKERS),
    )


def where(alias: str, *keys: str) -> str:
    """The place in the settings, as one would write it in Python."""
    return SETTING + "".join(f"[{json.dumps(key)}]" for key in (alias, *keys))


def problems(alias: object) -> Iterator[Problem]:
    """All that is wrong in the settings of one registry. Opens and imports nothing."""
    registries = getattr(settings, SETTING, {})
    if not isinstance(registries, Mapping):
        yield Problem(
            "E001",
            f"{SETTING} must be a dictionary of registries, not {_short(registries)}.",
            f'Write {SETTING} = {{"{DEFAULT_ALIAS}": {{...}}}}.',
        )
        return
    if not isinstance(alias, str):
        yield Problem(
            "E001",
            f"{SETTING}: the name of a registry must be a string, not {_short(alias)}.",
            "Put it into quotation marks.",
        )
        return
    raw = registries.get(alias, {})
    if not isinstance(raw, Mapping):
        yield Problem(
            "E001",
            f"{where(alias)} must be a dictionary, not {_short(raw)}.",
            f"Its keys may be {', '.join(_REGISTRY_KEYS)}.",
        )
        return
    yield from _unknown_keys("E002", where(alias), raw, _REGISTRY_KEYS)
    for key, (kinds, words, example) in _KINDS.items():
        if key in raw and not isinstance(raw[key], kinds):
            message = f"{where(alias, key)} must be {words}, not {_short(raw[key])}."
            yield Problem("E003", message, f"For example {example}.")
    for key, (check, example) in _CHECKS.items():
        if key in raw:
            try:
                check(raw[key])
            except (TypeError, ValueError) as error:
                yield Problem("E003", f"{where(alias)}: {error}.", f"For example {example}.")
    yield from _policy_problems(where(alias, "DEFAULTS"), raw.get("DEFAULTS", {}))
    breakers = raw.get("BREAKERS", {})
    for name, policy in breakers.items() if isinstance(breakers, Mapping) else ():
        try:
            check_name(name)
        except (TypeError, ValueError) as error:
            message = f"{where(alias, 'BREAKERS')}: the {error}."
            yield Problem("E006", message, "Rename the breaker.")
            continue
        if isinstance(policy, Mapping):
            yield from _policy_problems(where(alias, "BREAKERS", name), policy)
        else:
            place = where(alias, "BREAKERS", name)
            message = f"{place} must be a dictionary, not {_short(policy)}."
            yield Problem("E003", message, 'For example {"failure_threshold": 3}, or {}.')


_REGISTRY_KEYS: Final = tuple(get_type_hints(RegistrySettings))
#: What a value must be, the same in words, and an example.
_KINDS: Final[dict[str, tuple[Any, str, str]]] = {
    "BACKEND": (str, "a dotted path", f'"{DEFAULT_BACKEND}"'),
    "LOCATION": (str | os.PathLike | None, "a path, a URL or None", '"/run/shop/circuits.sqlite3"'),
    "NAMESPACE": (str, "a string", '"shop"'),
    "ENABLED": (bool, "True or False", "env.bool(...), where it comes from the environment"),
    "OPTIONS": (Mapping, "a dictionary", "{}"),
    "DEFAULTS": (Mapping, "a dictionary", '{"failure_threshold": 3}'),
    "BREAKERS": (Mapping, "a dictionary", '{"payments": {"recovery_timeout": 10}}'),
}


def _check_interval(value: Any) -> None:
    if isinstance(value, bool) or value != 0:
        check_between("STATS_INTERVAL", value, *STATS_INTERVALS)


def _check_limit(value: Any) -> None:
    check_count("MAX_BREAKERS", value, MAX_MAX_BREAKERS)


#: What refuses a value, and an example.
_CHECKS: Final[dict[str, tuple[Callable[[Any], object], str]]] = {
    "STATS_INTERVAL": (_check_interval, "5, or 0 to turn it off"),
    "ERROR_DETAIL": (Detail, 'False, or "shop.breakers.scrub"'),
    "MAX_BREAKERS": (_check_limit, f"{DEFAULT_MAX_BREAKERS}"),
}


def _unknown_keys(
    id: str, place: str, raw: Mapping[Any, Any], known: Iterable[str]
) -> Iterator[Problem]:
    for key in raw:
        if key not in known:
            message = f"{place} has the unknown key {key!r}{nearest(key, known) or '.'}"
            yield Problem(id, message, f"Known keys are {', '.join(known)}.")


def _policy_problems(place: str, raw: object) -> Iterator[Problem]:
    if not isinstance(raw, Mapping):
        return  # told already, as a value of the wrong type
    for key in filter(ARGUMENTS.__contains__, raw):
        message = f"{place}: {key} is an argument of @circuit_protected only."
        yield Problem("E004", message, "Say it in the code.")
    options = {key: value for key, value in raw.items() if key not in ARGUMENTS}
    yield from _unknown_keys("E004", place, options, TEXTS)
    for key, text in TEXTS.items():
        if key in raw:
            try:
                make({key: raw[key]})
            except (TypeError, ValueError) as error:
                yield Problem("E005", f"{place}: {error}.", f"{key}: {text}")


def _default_namespace() -> str:
    return str(getattr(settings, "ROOT_URLCONF", None) or "default").partition(".")[0]


def _plain(policy: Mapping[str, Any]) -> dict[str, Any]:
    _, classifier = make(policy)
    return {**policy, **{k: v for k, v in classifier.as_data().items() if k in policy}}


def _kind(value: object) -> str:
    return type(value).__name__


def _short(value: object) -> str:
    return f"{_kind(value)} {value!r}"[:80]
