"""The backend of many hosts that need no more than the project's own PostgreSQL."""

from __future__ import annotations

from typing import ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.utils import load_backend

from circuitbreaker_django import conf
from circuitbreaker_django.backends.base import Clock, monotonic
from circuitbreaker_django.backends.database.connection import DatabaseConnection
from circuitbreaker_django.backends.database.store import DatabaseStore
from circuitbreaker_django.backends.remote import RemoteBackend
from circuitbreaker_django.core.options import nearest


class DatabaseBackend(RemoteBackend):
    """Circuits in tables of a PostgreSQL database.

    The tables come with ``circuitbreaker_django.backends.database`` in ``INSTALLED_APPS`` and
    ``manage.py migrate``. Nothing of the project's own connections and transactions is used.

    Args:
        location: an alias of ``DATABASES``.
        namespace: keeps projects apart in one database.
        alias: keeps a project's registries apart.
        node: what counts as one where a quorum is asked for; by default the host (rule 8).
        threads: whether this process may have threads.
        observer: look and steer only: make no store, and do not count as a process.
        clock: microseconds of a monotonic clock; tests inject one.
        server_clock: microseconds of the server's clock; tests inject one.

    Raises:
        ImproperlyConfigured: there is no such alias, or it is no PostgreSQL.
    """

    #: The app that brings the tables, and its label.
    app: ClassVar = "circuitbreaker_django.backends.database"
    app_label: ClassVar = "circuitbreaker_database"

    def __init__(
        self,
        location: str | None = None,
        *,
        namespace: str = "default",
        alias: str = "default",
        node: str | None = None,
        threads: bool = True,
        observer: bool = False,
        clock: Clock = monotonic,
        server_clock: Clock | None = None,
    ) -> None:
        self.database = location or DEFAULT_DB_ALIAS
        if why_not := _why_not(self.database):
            raise ImproperlyConfigured(f"{conf.where(alias, 'LOCATION')}: {why_not}")
        self.namespace = f"{namespace}:{alias}"
        self._server_clock = server_clock
        super().__init__(node=node, threads=threads, observer=observer, clock=clock)

    def describe(self) -> str:
        """The server's address; never with a password."""
        config = connections.settings[self.database]
        host, port = config.get("HOST") or "localhost", config.get("PORT") or 5432
        return (
            f"DATABASES[{self.database!r}], {config.get('NAME', '')} at {host}:{port}, "
            f"namespace {self.namespace}"
        )

    def connect(self, patience: float) -> DatabaseStore:
        """A connection whose every use takes so many seconds at most; it is not opened yet."""
        connection = DatabaseConnection(self.database, patience)
        return DatabaseStore(connection, self.namespace, self._server_clock)


def _why_not(alias: str) -> str | None:
    """Why a database cannot have the tables."""
    config = connections.settings.get(alias)
    if config is None:
        hint = nearest(alias, connections.settings) or "; add it there."
        return f"there is no database {alias!r} in DATABASES{hint}"
    try:
        vendor = load_backend(config["ENGINE"]).DatabaseWrapper.vendor
    except ImproperlyConfigured as error:  # Django says so too, but not before it is used
        return f"the database {alias!r} cannot be used: {error}."
    if vendor != "postgresql":
        return f"the database {alias!r} is {vendor}, and must be PostgreSQL."
    return None
