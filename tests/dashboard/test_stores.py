"""The dashboard on stores that are servers: real ones, each asked three times at most."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User

from circuitbreaker_django import CircuitBreaker, CircuitState, registries
from circuitbreaker_django.backends.database import DatabaseBackend
from circuitbreaker_django.backends.database.connection import DatabaseConnection
from circuitbreaker_django.backends.redis import RedisBackend, RedisStore
from circuitbreaker_django.backends.remote import RemoteBackend
from circuitbreaker_django.core.circuit import Command, CommandKind
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.dashboard.keys import Key
from tests.backends.postgres import database, postgres
from tests.backends.servers import RedisServer, short_folder
from tests.dashboard.conftest import POLICY

__all__ = ["database", "postgres"]

pytestmark = pytest.mark.django_db

PAYMENTS = Key("default", "payments")
LIST = "/admin/circuitbreaker_django/breaker/"
POLL = f"{LIST}poll/"
DETAIL = f"{LIST}default_3Apayments/change/"
POLL_ONE = f"{LIST}default_3Apayments/poll.json"
HISTORY = f"{LIST}default_3Apayments/history.json"


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    for folder in short_folder():
        server = RedisServer(folder)
        server.start()
        yield server
        server.kill()


@pytest.fixture(params=["redis", "tables"])
def breaker_settings(request, settings):
    """Where the circuits are; a registry of a name of its own, so that nobody else's are there."""
    config: dict[str, Any] = {"BREAKERS": {"payments": POLICY, "search": {}}}
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        with closing(server.client()) as client:
            client.flushall()
        config["BACKEND"] = f"{RedisBackend.__module__}.RedisBackend"
        config["LOCATION"] = server.url
    else:
        config["BACKEND"] = "circuitbreaker_django.backends.database.DatabaseBackend"
        config["LOCATION"] = request.getfixturevalue("database")
        config["NAMESPACE"] = request.node.name
    settings.CIRCUIT_BREAKERS = {"default": config}
    return config


@pytest.fixture
def worker(breaker_settings):
    """A breaker in use, in a process of its own."""
    config = registries["default"].config
    kind = RedisBackend if "redis" in config.backend else DatabaseBackend
    backend = kind(config.location, namespace=config.namespace, threads=False)
    backend.turn_every, backend.turn_patience = 0, 20
    breaker = CircuitBreaker("payments", **POLICY, backend=backend)
    breaker.call(lambda: None)
    backend.publish()
    yield breaker
    backend.close()


@pytest.fixture
def anna(client):
    client.force_login(User.objects.create_superuser("anna"))
    return client


@pytest.fixture
def asked(monkeypatch):
    """What the stores are asked: each script of Redis, each transaction of a database."""
    found: list[str] = []
    use, transaction = RedisStore._use, DatabaseConnection.transaction

    def count_use(self, ask, *args):
        found.append("redis")
        return use(self, ask, *args)

    def count_transaction(self, *args):
        found.append("database")
        return transaction(self, *args)

    monkeypatch.setattr(RedisStore, "_use", count_use)
    monkeypatch.setattr(DatabaseConnection, "transaction", count_transaction)
    return found


@pytest.mark.parametrize(
    "url",
    [LIST, f"{POLL}?rows={PAYMENTS.id}", DETAIL, f"{POLL_ONE}?span=day", HISTORY],
)
def test_a_page_asks_the_store_three_times_at_most(anna, worker, asked, url):
    worker.trip(reason="a drill", actor="ben")
    asked.clear()
    answer = anna.get(url)
    assert answer.status_code == 200
    assert len(asked) <= 3
    assert "a drill" in answer.content.decode()


@pytest.mark.parametrize("url", [LIST, f"{POLL}?rows={PAYMENTS.id}", DETAIL, POLL_ONE])
def test_nor_more_often_of_a_thousand_circuits(anna, worker, asked, url):
    trip = (Command(CommandKind.TRIP), Policy())
    worker.backend.order({f"b{number:04}": trip for number in range(1000)})
    asked.clear()
    answer = anna.get(url)
    assert answer.status_code == 200
    assert len(asked) <= 3


def test_an_order_reaches_the_workers_the_history_and_the_log(anna, worker):
    [row] = anna.get(POLL, {"rows": PAYMENTS.id}).json()["rows"]
    assert (row["look"], row["cells"]["failures"]) == ("closed", "0 of 3 failures")
    order = {
        "action": "hold",
        "selected": f"{row['epoch']} {row['pk']}",
        "confirmed": "1",
        "reason": "a drill",
        "duration": "1800",
    }
    body = anna.post(f"{LIST}act/", order, follow=True).content.decode()
    assert "Held open: payments. It reaches 1 live process." in body
    assert worker.state is CircuitState.OPEN
    body = anna.post(f"{LIST}act/", order).content.decode()
    assert "Something has changed since you looked" in body
    [line] = anna.get(HISTORY).json()
    assert (line["actor"], line["reason"], line["after"]) == ("anna", "a drill", "open")
    [row] = anna.get(POLL_ONE).json()["rows"]
    assert (row["look"], row["cells"]["actor"]) == ("held", "held open by anna")
    assert [entry.object_id for entry in LogEntry.objects.all()] == [PAYMENTS.pk]


def test_a_store_that_nobody_has_made_is_none(anna, breaker_settings):
    body = anna.get(LIST).content.decode()
    assert "No process has used a breaker of registry “default” yet." in body
    assert body.count('data-look="closed"') >= 2
    assert "cannot be reached" not in body
    assert anna.get(DETAIL).status_code == 200


def test_calls_are_counted_and_drawn(anna, worker):
    for _ in range(120):
        worker.call(lambda: None)
    assert isinstance(worker.backend, RemoteBackend)
    worker.backend.publish()
    [row] = anna.get(POLL, {"rows": PAYMENTS.id}).json()["rows"]
    assert row["paths"]["spark"]
    assert anna.get(DETAIL).context["row"]["cells"]["sum_calls"] == "121 calls"
