"""A PostgreSQL server of the tests' own, on a private socket: started and stopped here."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from tests.backends.servers import find_server, short_folder
from tests.backends.waiting import until


def needed(name: str) -> str:
    """Where a program of PostgreSQL is: Debian has those of the server in no search path."""
    return find_server(name, *sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}")))


class Postgres:
    """A server: without durability, for what it holds is thrown away."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "log"
        # The server refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user is not None:
            os.chown(folder, pwd.getpwnam(self.user).pw_uid, -1)
        self.run(
            "initdb", "--pgdata", self.data, "--username", "owner", "--no-sync", "--auth=trust"
        )
        config = {
            "listen_addresses": "",
            "unix_socket_directories": folder,
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": 40,
            **settings,
        }
        lines = [f"{key} = '{value}'\n" for key, value in config.items()]
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as file:
            file.writelines(lines)
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, name: str, *args: object) -> None:
        subprocess.run(
            [needed(name), *map(str, args)],
            user=self.user,
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [needed("postgres"), "-D", self.data],
                user=self.user,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        until(self.is_ready, seconds=60)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return not subprocess.run(
            [needed("pg_isready"), "-q", "-h", self.folder], cwd=self.folder, check=False
        ).returncode

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: as an operator does, or as a crash with SIGQUIT."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            self.process = None

    def pause(self) -> None:
        """Let it stand still, with all its connections."""
        self._send_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self._send_all(signal.SIGCONT)

    def _send_all(self, what: signal.Signals) -> None:
        assert self.process is not None
        parent = self.process.pid
        os.kill(parent, what)  # first, so that it starts no other
        for task in Path(f"/proc/{parent}/task").iterdir():
            for child in (task / "children").read_text().split():
                os.kill(int(child), what)

    def settings(self, name: str = "postgres", **values: Any) -> dict[str, Any]:
        """What `DATABASES` has for a database of this server."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": "owner",
            "HOST": str(self.folder),
            **values,
        }


class PgBouncer:
    """A pooler that hands the server's few connections round, one transaction each."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.program = find_server("pgbouncer", "/usr/sbin/pgbouncer")
        self.folder = server.folder / "pooler"
        self.folder.mkdir()
        if server.user is not None:
            shutil.chown(self.folder, server.user)
        self.config = self.folder / "pgbouncer.ini"
        self.config.write_text(
            "[databases]\n"
            f"* = host={server.folder} user=owner\n"
            "[pgbouncer]\n"
            f"unix_socket_dir = {self.folder}\n"
            "listen_addr =\n"
            "auth_type = any\n"
            "pool_mode = transaction\n"
            "default_pool_size = 4\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = self.folder / "log"
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [self.program, self.config],
                user=self.server.user,
                cwd=self.folder,
                stdout=file,
                stderr=file,
            )

        def is_ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, log.read_text()
            with socket.socket(socket.AF_UNIX) as client:  # it is there before anybody listens
                return client.connect_ex(str(self.folder / ".s.PGSQL.6432")) == 0

        until(is_ready, seconds=60)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)

    def settings(self, **values: Any) -> dict[str, Any]:
        """What `DATABASES` has for the server behind the pooler."""
        return self.server.settings(HOST=str(self.folder), PORT="6432", **values)


@contextmanager
def registered(alias: str, settings: dict[str, Any]) -> Iterator[str]:
    """The alias is one of `DATABASES` for a while."""
    connections.settings[alias] = connections.configure_settings({"default": {}, alias: settings})[
        alias
    ]
    try:
        yield alias
    finally:
        for made in connections.all(initialized_only=True):
            if made.alias == alias:
                made.close()
                del connections[alias]
        del connections.settings[alias]


@contextmanager
def a_server(**settings: object) -> Iterator[Postgres]:
    """A server with the tables in it."""
    needed("postgres")
    for folder in short_folder():
        server = Postgres(folder, **settings)
        try:
            server.start()
            with registered("migrated", server.settings()):
                call_command("migrate", database="migrated", verbosity=0)
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres(django_db_blocker: Any) -> Iterator[Postgres]:
    """A server for all tests of a run; those that harm it start one of their own."""
    with django_db_blocker.unblock(), a_server() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(postgres: Postgres) -> Iterator[PgBouncer]:
    """A pooler before the server of the run."""
    pooler = PgBouncer(postgres)
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.stop()


@pytest.fixture
def mortal_postgres(django_db_blocker: Any) -> Iterator[Postgres]:
    """A server that the test may do harm to."""
    with django_db_blocker.unblock(), a_server() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The alias of a database with the tables in it."""
    with registered("circuits", postgres.settings()) as alias:
        yield alias
