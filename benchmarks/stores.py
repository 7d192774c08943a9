"""Stores of each kind on a server of our own, and what can happen to them."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.backends.postgres import a_server
from tests.backends.proxy import Proxy
from tests.backends.servers import RedisServer, short_folder

#: What happens, and what ends it.
Fault = tuple[Callable[[], object], Callable[[], object]]

TABLES = "circuitbreaker_store, circuitbreaker_circuit, circuitbreaker_event"
GARBAGE = """
INSERT INTO circuitbreaker_circuit (namespace, name, revision, record)
SELECT namespace, 'bench', revision, 'garbage' FROM circuitbreaker_store
ON CONFLICT (namespace, name) DO UPDATE SET record = excluded.record
"""
#: What a proxy does to half of the processes.
NETWORK = {
    "half cut off": "refuse",
    "answers to half lost": "swallow",
    "answers to half 3 s late": "delay",
    "answers to half cut in the middle": "cut",
}


@dataclass(frozen=True)
class Harmed:
    """A store that something may happen to.

    Attributes:
        near: where half of the processes find it.
        far: where the others do, over a network that may fail.
        faults: by what they are called.
    """

    near: str
    far: str
    faults: Mapping[str, Fault]


def nothing() -> None:
    pass


def of_the_network(proxy: Proxy) -> dict[str, Fault]:
    def put(fault: str | None) -> Callable[[], None]:
        return lambda: setattr(proxy, "fault", fault)

    return {name: (put(fault), put(None)) for name, fault in NETWORK.items()}


@contextmanager
def redis_store() -> Iterator[Harmed]:
    for folder in short_folder():
        server = RedisServer(folder)
        server.start()
        with closing(server.client()) as client, Proxy(server.port) as proxy:

            def keys() -> list[Any]:
                found: list[Any] = client.keys("circuitbreaker:*")
                return found

            def fill() -> None:
                for key in keys():
                    client.delete(key)
                    client.rpush(key, "of somebody else")

            def garbage() -> None:
                for key in client.keys("*:circuits"):
                    client.hset(key, "bench", "garbage")

            yield Harmed(
                server.url,
                proxy.url,
                {
                    "nothing": (nothing, nothing),
                    "stands still (SIGSTOP)": (server.pause, server.resume),
                    "killed, back without data": (server.kill, server.start),
                    "`FLUSHALL`": (client.flushall, nothing),
                    "`SCRIPT FLUSH`": (client.script_flush, nothing),
                    "each key deleted": (lambda: [client.delete(key) for key in keys()], nothing),
                    "each key of another type": (fill, client.flushall),
                    "its row is no circuit": (garbage, nothing),
                    "full (`maxmemory`)": (
                        lambda: client.config_set("maxmemory", 1),
                        lambda: client.config_set("maxmemory", 0),
                    ),
                    "read-only, as a replica": (
                        lambda: client.replicaof("127.0.0.1", 1),
                        lambda: client.replicaof("NO", "ONE"),
                    ),
                    **of_the_network(proxy),
                },
            )
        server.kill()


@contextmanager
def database_store() -> Iterator[Harmed]:
    with a_server(max_connections=150) as server, Proxy(server.folder / ".s.PGSQL.5432") as proxy:

        def run(*statements: str) -> psycopg.Connection[Any]:
            connection = psycopg.connect(
                host=str(server.folder), user="owner", dbname="postgres", autocommit=True
            )
            for statement in statements:
                connection.execute(statement.encode())
            return connection

        def once(*statements: str) -> Callable[[], None]:
            return lambda: run(*statements).close()

        locks: list[psycopg.Connection[Any]] = []
        end_all = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
        yield Harmed(
            json.dumps(server.settings()),
            json.dumps(server.settings(HOST="127.0.0.1", PORT=str(proxy.port))),
            {
                "nothing": (nothing, nothing),
                "stands still (SIGSTOP)": (server.pause, server.go_on),
                "killed, and started again": (lambda: server.stop(signal.SIGQUIT), server.start),
                "tables emptied": (once(f"TRUNCATE {TABLES}"), nothing),
                "its row is no circuit": (once(GARBAGE), nothing),
                "tables locked": (
                    lambda: locks.append(run("BEGIN", f"LOCK TABLE {TABLES}")),
                    lambda: locks.pop().close(),
                ),
                "all connections ended": (once(end_all), nothing),
                **of_the_network(proxy),
            },
        )


@contextmanager
def sqlite_store() -> Iterator[Harmed]:
    folder = Path(tempfile.mkdtemp(prefix="cb-"))
    file = folder / "circuits.v1.sqlite3"
    locks: list[sqlite3.Connection] = []

    def lock() -> None:
        connection = sqlite3.connect(file, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        locks.append(connection)

    location = str(folder / "circuits.sqlite3")
    yield Harmed(
        location,
        location,
        {
            "nothing": (nothing, nothing),
            "file removed": (file.unlink, nothing),
            "another file in its place": (
                lambda: file.rename(folder / "moved") and file.write_bytes(b"garbage" * 1000),
                nothing,
            ),
            "bell removed": ((folder / "circuits.v1.sqlite3-bell").unlink, nothing),
            "a writer stands still": (lock, lambda: locks.pop().close()),
        },
    )
    shutil.rmtree(folder)


STORES = {"Redis": redis_store, "PostgreSQL": database_store, "SQLite": sqlite_store}
