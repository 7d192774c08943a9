"""A backend by what a process can be told in one argument."""

from __future__ import annotations

import json
from typing import Any

import django
from django.conf import settings

from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.database import DatabaseBackend
from circuitbreaker_django.backends.redis import RedisBackend
from circuitbreaker_django.backends.sqlite import SQLiteBackend


def configure(database: dict[str, Any] | None = None) -> None:
    """As a project that has the tables of circuits in its database, and nothing else."""
    default = database or {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    settings.configure(DATABASES={"default": default}, INSTALLED_APPS=[DatabaseBackend.app])
    django.setup()


def open_at(location: str) -> Backend:
    """On the server of a URL, in a database of ``DATABASES`` as JSON, or in a file."""
    if location.startswith("{"):
        configure(json.loads(location))
        return DatabaseBackend()
    return RedisBackend(location) if "://" in location else SQLiteBackend(location)
