"""Workers and the command as processes of their own, with their circuits in a database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from circuitbreaker_django import conf
from tests.backends.postgres import Postgres, registered
from tests.backends.waiting import until

ROOT = Path(__file__).parents[2]
Breaker = Callable[..., str]
Ask = Callable[[str], str]


@pytest.fixture
def environment(postgres: Postgres, request: pytest.FixtureRequest) -> dict[str, str]:
    """Of every process; the command never imports what workers declare."""
    registry = {"BACKEND": conf.DATABASE_BACKEND, "NAMESPACE": request.node.nodeid}
    database = {**postgres.settings(), "PASSWORD": "swordfish"}
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "tests.command_settings",
        "TEST_CIRCUIT_BREAKERS": json.dumps({"default": registry}),
        "TEST_DATABASES": json.dumps({"default": database}),
    }


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[[], Ask]]:
    """Starts a worker, to be asked line by line."""
    workers: list[subprocess.Popen[str]] = []

    def start() -> Ask:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.command_worker"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        workers.append(worker)

        def ask(line: str) -> str:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write(f"{line}\n")
            return worker.stdout.readline().strip()

        return ask

    yield start
    for worker in workers:
        worker.communicate(timeout=60)


@pytest.fixture
def breaker(environment: dict[str, str]) -> Breaker:
    """Runs the command; what it has said."""

    def run(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "django", "breaker", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_a_command_reaches_every_worker(start, breaker):
    first, second = start(), start()
    assert first("call search") == second("call search") == "ok"
    until(lambda: "2 live processes" in breaker("status"))
    breaker("trip", "search", "--hold", "--reason", "maintenance")
    until(lambda: [first("call search"), second("call search")] == ["rejected"] * 2)
    told = breaker("status")
    assert "maintenance" in told
    assert "DATABASES['default'], postgres at " in told
    assert "swordfish" not in told
    breaker("reset", "search")
    until(lambda: [first("call search"), second("call search")] == ["ok"] * 2)


def test_what_workers_fail_on_together_is_open_for_the_command_too(start, breaker):
    first, second = start(), start()
    assert first("call search") == second("call search") == "ok"
    until(lambda: "2 live processes" in breaker("status"))  # from now on failures are shared
    assert [worker("fail payments") for worker in (first, second, first)] == ["failed"] * 3
    until(lambda: second("call payments") == "rejected")
    status = json.loads(breaker("status", "--format", "json"))
    assert [row["state"] for row in status if row["name"] == "payments"] == ["open"]
    breaker("status", "--fail-on-open", code=1)


def test_without_tables_the_command_says_what_to_do_and_workers_work(
    start, breaker, environment, postgres
):
    environment["TEST_DATABASES"] = json.dumps({"default": postgres.settings("template1")})
    worker = start()
    assert worker("call search") == "ok"
    assert [worker("fail payments") for _ in range(3)] == ["failed"] * 3
    assert worker("call payments") == "rejected"
    for words in (("status",), ("trip", "--all", "--no-input")):
        assert "run `manage.py migrate`" in breaker(*words, code=2)


def test_without_its_server_the_command_says_what_it_has_seen(mortal_postgres, monkeypatch):
    monkeypatch.setattr("circuitbreaker_django.operations.room.in_test_environment", lambda: False)
    settings = conf.registry_from_url("database://mortal", BREAKERS={"payments": {}})
    with registered("mortal", mortal_postgres.settings()):
        mortal_postgres.stop(signal.SIGQUIT)
        with (
            override_settings(CIRCUIT_BREAKERS={"default": settings}),
            pytest.raises(
                CommandError, match=r"cannot be used now: .+ \(asked for \d+ ms\)"
            ) as seen,
        ):
            call_command("breaker", "status")
    assert seen.value.returncode == 2
    assert "Since when, only the log of the workers says" in str(seen.value)


def test_the_example_has_its_circuits_there_by_one_variable(postgres):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "SHOP_ENV_FILE": os.devnull,
        "SHOP_DATABASE_URL": f"postgres://owner@/{postgres.folder}/example",
        "SHOP_CIRCUIT_BREAKERS_URL": "database://default",
    }

    def manage(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, ROOT / "example_project" / "manage.py", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    postgres.run("createdb", "--host", postgres.folder, "--username", "owner", "example")
    manage("check")
    manage("migrate")
    manage("breaker", "trip", "payments", "--hold", "--force", "--reason", "maintenance")
    status = manage("breaker", "status")
    assert "maintenance" in status
    assert "DatabaseBackend at DATABASES['default'], example at " in status
