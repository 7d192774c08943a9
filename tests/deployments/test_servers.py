"""What workers share, under every kind of server and in every store; pairs that tell nothing new
are left to the nightly run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.store import NoStore
from circuitbreaker_django.core.errors import CircuitBackendError
from tests.backends.waiting import until
from tests.deployments.conftest import STORES, Store, make_store
from tests.deployments.deployment import Deployment, Server


def gunicorn(worker: str, *options: str, **server: object) -> Server:
    application = "asgi" if "uvicorn" in worker else "wsgi"
    command = (
        *("-m", "gunicorn", f"tests.deployments.{application}", "--worker-class", worker),
        *("--workers", "2", "--bind", "fd://{socket}", "--no-control-socket"),
        *("--log-level", "warning", *options),
    )
    prefix = "async/" if "uvicorn" in worker else ""
    return Server(command, early="--preload" in options, prefix=prefix)


def celery() -> Server:
    command = (
        *("-m", "celery", "--app", "tests.deployments.tasks", "worker", "--pool", "prefork"),
        *("--concurrency", "2", "--without-gossip", "--without-mingle", "--without-heartbeat"),
        *("--loglevel", "WARNING"),
    )
    return Server(command, early=True, needs_broker=True)


def pool(method: str) -> Server:
    command = ("-m", "tests.deployments.pool", method, "{socket}")
    return Server(command, early=method == "fork")


def uwsgi(*options: str) -> Server:
    command = (
        *("-c", "import pyuwsgi; pyuwsgi.run()", "--http-socket", "fd://{socket}"),
        *("--module", "tests.deployments.wsgi"),
        *("--processes", "2", "--need-app", "--die-on-term", "--disable-logging"),
        *options,
    )
    return Server(command, early="--lazy-apps" not in options, led="--master" in options)


SERVERS = {
    "sync": gunicorn("sync"),
    "gthread": gunicorn("gthread", "--threads", "4"),
    "uvicorn": gunicorn("uvicorn_worker.UvicornWorker"),
    "sync-preload": gunicorn("sync", "--preload"),
    "gthread-preload": gunicorn("gthread", "--threads", "4", "--preload"),
    "uvicorn-preload": gunicorn("uvicorn_worker.UvicornWorker", "--preload"),
    "celery": celery(),
    "fork": pool("fork"),
    "spawn": pool("spawn"),
    "uwsgi": uwsgi("--master"),
    "uwsgi-threads": uwsgi("--master", "--enable-threads", "--threads", "4"),
    "uwsgi-lazy": uwsgi("--master", "--lazy-apps"),
    "uwsgi-hooks": uwsgi("--master", "--py-call-osafterfork"),
    "uwsgi-alone": uwsgi(),
}


def pairs() -> Iterator[object]:
    """Every kind of server with every store."""
    quick = {
        *((server, store) for server in SERVERS if "-preload" in server for store in STORES),
        *((server, store) for server in ("celery", "fork") for store in STORES),
        *zip(("sync", "gthread", "uvicorn"), STORES, strict=True),
        ("spawn", "redis"),
    }
    for server in SERVERS:
        for store in STORES:
            marks = [] if (server, store) in quick else [pytest.mark.nightly]
            yield pytest.param((server, store), marks=marks, id=f"{server}-{store}")


@pytest.fixture(scope="module", params=pairs())
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@pytest.fixture(scope="module")
def store(pair: tuple[str, str], request: pytest.FixtureRequest) -> Iterator[Store]:
    with make_store(pair[1], request) as store:
        yield store


@pytest.fixture(scope="module")
def deployment(
    pair: tuple[str, str],
    store: Store,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Deployment]:
    """A server whose workers all know each other."""
    server = SERVERS[pair[0]]
    broker = ""
    if server.needs_broker:
        broker = f"redis+socket://{request.getfixturevalue('redis_server').socket}"
    folder = tmp_path_factory.mktemp("server")
    with closing(Deployment(server, store.environment, folder, broker)) as deployment:
        until(lambda: share(deployment, store), seconds=60)
        yield deployment


def share(deployment: Deployment, store: Store) -> bool:
    """Whether each worker is heard of in the store, which it is from its first use on."""
    pids = deployment.workers()
    for pid in pids:
        assert deployment.ask("ok", "held", pid)["word"] == "ok"
    with operator(store) as observer:
        return {process.pid for process in observer.overview().processes} >= set(pids)


@contextmanager
def operator(store: Store) -> Iterator[Backend]:
    """Somebody who looks and steers from outside, once the store has time for it."""
    with closing(store.join(observer=True)) as observer:

        def is_open() -> bool:
            try:
                observer.open(create=False)
            except (CircuitBackendError, NoStore):
                return False
            return True

        until(is_open)
        yield observer


def failures(store: Store, name: str) -> int:
    """How many the store knows of."""
    with operator(store) as observer:
        circuit = observer.overview().circuits.get(name)
        return 0 if circuit is None else len(circuit.failures)


def test_each_worker_has_threads_of_its_own(deployment, store):
    for threads in deployment.told("threads", "look", "early"):
        assert store.threads <= set(threads)


def test_what_was_counted_before_the_fork_is_counted_once(deployment, store, pair):
    if not SERVERS[pair[0]].early:
        pytest.skip("no worker of it is forked after a call")
    if pair[0].startswith("uwsgi"):
        pytest.skip("what its parent has counted last is told when it ends: it has no threads")
    until(lambda: failures(store, "early") == 1)
    for pid in deployment.workers():
        assert deployment.ask("fail", "early", pid)["word"] == "failed"
    until(lambda: deployment.told("word", "ok", "early") == ["rejected"] * 2)


def test_failures_of_one_worker_open_the_circuit_in_all(deployment):
    failing = deployment.workers()[0]
    assert [deployment.ask("fail", "broken", failing)["word"] for _ in range(3)] == ["failed"] * 3
    assert deployment.ask("ok", "broken", failing)["word"] == "rejected"
    until(lambda: deployment.told("word", "ok", "broken") == ["rejected"] * 2)


def test_a_hold_and_its_end_reach_every_worker(deployment, store):
    assert deployment.told("word", "ok", "held") == ["ok"] * 2
    with operator(store) as observer:
        breaker = CircuitBreaker("held", backend=observer)
        breaker.trip(hold=True)
        until(lambda: deployment.told("word", "ok", "held") == ["rejected"] * 2)
        breaker.reset()
        until(lambda: deployment.told("word", "ok", "held") == ["ok"] * 2)


def test_it_recovers_by_one_trial_at_a_time(deployment, store):
    failing = deployment.workers()[0]
    assert [deployment.ask("fail", "mended", failing)["word"] for _ in range(3)] == ["failed"] * 3
    until(lambda: "closed" not in deployment.told("state", "look", "mended"))
    told = []

    def is_mended() -> bool:
        told.extend(deployment.ask_at_once(8, "slow", "mended"))
        return [answer["word"] for answer in told[-8:]] == ["ok"] * 8

    until(is_mended)
    assert {answer["word"] for answer in told} == {"ok", "rejected"}
    spans = sorted(tuple(answer["ran"]) for answer in told if answer["word"] == "ok")
    trials, rest = spans[:3], spans[3:]
    ends = [end for _, end in trials]
    begins = [begin for begin, _ in [*trials[1:], rest[0]]]
    assert all(end <= begin for end, begin in zip(ends, begins, strict=True))


def test_who_takes_the_place_of_a_killed_worker_shares_again(deployment, store, pair):
    if not SERVERS[pair[0]].led:
        pytest.skip("nobody takes it")
    victim, other = deployment.workers()
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in deployment.workers(), seconds=60)
    [heir] = set(deployment.workers()) - {other}
    until(lambda: share(deployment, store), seconds=60)
    assert store.threads <= set(deployment.ask("look", "early", heir)["threads"])
    assert [deployment.ask("fail", "outlived", heir)["word"] for _ in range(3)] == ["failed"] * 3
    until(lambda: deployment.told("word", "ok", "outlived") == ["rejected"] * 2)


def test_at_the_end_nothing_hangs_and_nothing_went_wrong(deployment, pair):
    # The last test: it ends the server.
    well = 0 if SERVERS[pair[0]].led else 30  # by which a worker of uWSGI lets a master know
    assert (deployment.end(), "Traceback" in deployment.log.read_text()) == (well, False)
