"""Kinds of servers, each with the circuits of its workers in each shared store."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from circuitbreaker_django import conf
from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.database import DatabaseBackend
from circuitbreaker_django.backends.redis import RedisBackend
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from tests.backends.conftest import postgres, redis_server
from tests.backends.postgres import registered

__all__ = ["postgres", "redis_server"]


@dataclass(frozen=True)
class Store:
    """Where circuits are.

    Attributes:
        environment: of the workers that share it.
        threads: that each process has for it, and perhaps more.
        join: a member more, in this process; an observer, if that is said.
    """

    environment: dict[str, str]
    threads: set[str]
    join: Callable[..., Backend]


STORES = ("sqlite", "redis", "database")
REMOTE_THREADS = {"circuitbreaker-feed", "circuitbreaker-writer"}


@contextmanager
def make_store(kind: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store that nobody has used."""
    namespace = secrets.token_hex(8)

    def store(
        threads: set[str],
        join: Callable[..., Backend],
        database: dict[str, Any] | None = None,
        **registry: str,
    ) -> Store:
        environment = {
            "TEST_CIRCUIT_BREAKERS": json.dumps({**registry, "NAMESPACE": namespace}),
            "TEST_DATABASES": json.dumps({"default": database} if database else {}),
        }
        return Store(environment, threads, join)

    if kind == "sqlite":
        factory = request.getfixturevalue("tmp_path_factory")
        place = str(factory.mktemp("circuits") / "circuits.sqlite3")
        yield store(
            {"circuitbreaker-housekeeping"},
            lambda **options: SQLiteBackend(place, **options),
            LOCATION=place,
        )
    elif kind == "redis":
        url = request.getfixturevalue("redis_server").url
        yield store(
            REMOTE_THREADS,
            lambda **options: RedisBackend(url, namespace=namespace, **options),
            BACKEND=conf.REDIS_BACKEND,
            LOCATION=url,
        )
    else:
        database = request.getfixturevalue("postgres").settings()
        with registered("deployments", database) as alias:
            yield store(
                REMOTE_THREADS,
                lambda **options: DatabaseBackend(alias, namespace=namespace, **options),
                database,
                BACKEND=conf.DATABASE_BACKEND,
            )
