"""The Redis backend on real servers of every shape."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import redis as redis_py
from django.core.management import CommandError, call_command
from django.test import override_settings

from circuitbreaker_django import CircuitBreaker, CircuitState, conf
from circuitbreaker_django.backends import host, remote
from circuitbreaker_django.backends import redis as redis_module
from circuitbreaker_django.backends.redis import RedisBackend
from circuitbreaker_django.backends.store import Declaration, NoStore, ProcessInfo
from circuitbreaker_django.checks import check_settings
from circuitbreaker_django.core.circuit import Command, CommandKind
from circuitbreaker_django.core.errors import CircuitBackendError
from circuitbreaker_django.core.policy import Policy
from circuitbreaker_django.core.traffic import Counts, total
from tests.backends.conftest import AHEAD
from tests.backends.servers import RedisServer, find_server, free_port, short_folder
from tests.backends.test_redis_faults import (
    is_back,
    is_closed,
    is_lost,
    is_open,
    live,
    server,
    works,
)
from tests.backends.waiting import until
from tests.core.calls import failing, ok

__all__ = ["live", "server"]

PAGE = Path(__file__).parents[2] / "docs" / "redis.md"


@pytest.fixture
def cluster() -> Iterator[list[RedisServer]]:
    """Three nodes that share the slots."""
    cli = find_server("redis-cli", "valkey-cli")
    for folder in short_folder():
        nodes = []
        for name in "abc":
            (folder / name).mkdir()
            nodes.append(RedisServer(folder / name, "--cluster-enabled", "yes"))
        try:
            for node in nodes:
                node.start()
            places = [f"127.0.0.1:{node.port}" for node in nodes]
            command = [cli, "--cluster", "create", *places, "--cluster-yes"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            for node in nodes:
                until(partial(is_up, node))
            yield nodes
        finally:
            for node in nodes:
                node.kill()


def is_up(node: RedisServer) -> bool:
    with closing(node.client()) as client:
        return bool(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")


def test_a_cluster(cluster, live):
    place = ",".join(f"127.0.0.1:{node.port}" for node in cluster)
    ours, theirs = (live(url=f"{library}+cluster://{place}") for library in ("redis", "valkey"))
    works(ours, theirs)
    assert ours.backend.advice() == theirs.backend.advice() == []
    ours.trip()
    assert theirs.backend.overview().circuits["payments"].state is CircuitState.OPEN
    for node in cluster:
        with closing(node.client()) as client:
            client.script_flush()
    works(ours, theirs)


def test_a_node_of_a_cluster_that_is_away(cluster, live):
    place = ",".join(f"127.0.0.1:{node.port}" for node in cluster)
    ours, theirs = (live(url=f"redis+cluster://{place}") for _ in range(2))
    works(ours, theirs)
    for node in cluster:
        node.pause()
    try:
        until(lambda: ours.backend.problem)
        assert ours.call(ok) == "ok"
        failing(ours)
        failing(ours)
        assert is_open(ours)
    finally:
        for node in cluster:
            node.resume()
    until(lambda: ours.backend.available and theirs.backend.available)
    ours.reset()
    works(ours, theirs)


@pytest.fixture
def watched() -> Iterator[tuple[RedisServer, str]]:
    """A server, and the URL of a sentinel that promotes its replica if it is away."""
    program = find_server("redis-sentinel", "valkey-sentinel")
    for folder in short_folder():
        for name in ("first", "second", "sentinel"):
            (folder / name).mkdir()
        first = RedisServer(folder / "first", "--repl-diskless-sync-delay", "0")
        second = RedisServer(folder / "second", "--replicaof", "127.0.0.1", str(first.port))
        port = free_port()
        config = folder / "sentinel" / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder / 'sentinel'}\n"
            f"sentinel monitor shop 127.0.0.1 {first.port} 1\n"
            "sentinel down-after-milliseconds shop 1500\nsentinel failover-timeout shop 5000\n"
        )
        first.start()
        second.start()
        quiet = subprocess.DEVNULL
        process = subprocess.Popen([program, str(config)], stdout=quiet, stderr=quiet)
        try:
            until(partial(follows, second))
            until(partial(knows_a_replica, port))
            yield first, f"redis+sentinel://127.0.0.1:{port}/shop"
        finally:
            process.kill()
            process.wait()
            first.kill()
            second.kill()


def follows(server: RedisServer) -> bool:
    with closing(server.client()) as client:
        return bool(client.info("replication")["master_link_status"] == "up")


def knows_a_replica(port: int) -> bool:
    with closing(redis_py.Redis(port=port)) as client:
        try:
            return bool(client.execute_command("SENTINEL", "REPLICAS", "shop"))
        except redis_py.RedisError:
            return False


def test_a_failover_that_sentinels_have_decided(watched, live):
    first, url = watched
    ours, theirs = live(url=url), live(url=url)
    works(ours, theirs)
    ours.trip(hold=True)
    until(lambda: is_open(theirs))
    first.kill()
    until(lambda: is_lost(ours, theirs))
    assert is_open(ours)
    until(lambda: is_back(ours, theirs), seconds=60)
    assert is_open(theirs)
    works(ours, theirs)


@pytest.mark.skipif(not PAGE.is_file(), reason="docs/ is not here")
def test_a_server_that_wants_to_know_who_asks(server, live, monkeypatch):
    _, _, rights = PAGE.read_text(encoding="utf-8").partition("**Rights.**")
    commands = re.findall(r"\+[a-z]+", rights.partition("\n\n")[0])
    with closing(server.client()) as client:
        client.acl_setuser(
            "shop",
            enabled=True,
            passwords=["+s3cret"],
            keys=["circuitbreaker:{default:default}:*"],
            categories=["-@all"],
            commands=commands,
        )
    known = live(url=f"redis://shop:s3cret@127.0.0.1:{server.port}")
    works(known, live())
    assert known.backend.advice() == []
    assert known.backend.events()
    for _ in range(3):
        known.call(ok)
        known.backend.publish()
    assert known.backend.stats()["payments"].last_hour.calls >= 3
    CircuitBreaker("search", backend=known.backend).reset()
    assert set(known.backend.overview().circuits) == {"payments", "search"}
    monkeypatch.setattr(redis_module, "MAX_ROWS", 1)
    with closing(known.backend.connect(20)) as store:
        store.clean()
    assert known.backend.overview().circuits == {}
    stranger = live(url=f"redis://shop:wrong@127.0.0.1:{server.port}")
    assert stranger.call(ok) == "ok"
    assert "s3cret" not in stranger.backend.problem
    assert known.backend.problem is None
    with closing(server.client()) as client:
        client.acl_setuser("shop", enabled=True, commands=["-evalsha", "-eval"])
    until(lambda: "evalsha" in (known.backend.problem or ""))
    assert known.call(ok) == "ok"


def test_a_server_that_speaks_tls(live):
    openssl = find_server("openssl")
    for folder in short_folder():
        key, certificate = str(folder / "key"), str(folder / "certificate")
        command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        command += ["-keyout", key, "-out", certificate]
        subprocess.run(command, check=True, capture_output=True)
        port = free_port()
        options = ["--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file"]
        options += [certificate, "--tls-cert-file", certificate, "--tls-key-file", key]
        server = RedisServer(folder, *options)
        try:
            server.start()
            safe = live(url=f"rediss://localhost:{port}?ssl_ca_certs={certificate}")
            works(safe, live(url=server.url))
            strict = live(url=f"rediss://localhost:{port}")
            until(partial(is_lost, strict))
            assert "certificate verify failed" in strict.backend.problem
        finally:
            server.kill()


def test_the_cache_of_the_project(server):
    caches = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": server.tcp_url,
        }
    }
    with override_settings(CACHES=caches):
        backend = RedisBackend(CACHE="default", threads=False)
        backend.turn_patience = 20
        breaker = CircuitBreaker("payments", backend=backend)
        breaker.trip()
        assert is_open(breaker)
        assert "CACHES['default']" in backend.describe()
        backend.close()


def test_the_library_of_valkey(server, live):
    works(live(url=server.tcp_url.replace("redis", "valkey")), live())


def test_a_server_of_valkey(live):
    for folder in short_folder():
        server = RedisServer(folder, program=find_server("valkey-server"))
        try:
            server.start()
            works(live(url=server.tcp_url.replace("redis", "valkey")), live(url=server.url))
        finally:
            server.kill()


def test_an_operator_makes_no_store_unless_he_insists(server):
    with closing(RedisBackend(server.url, observer=True)) as backend:
        with pytest.raises(NoStore, match="there is nothing at unix://"):
            backend.open(create=False)
        backend.open(create=True)
        assert backend.overview().processes == ()
        CircuitBreaker("payments", backend=backend).trip()
        assert backend.overview().circuits["payments"].state is CircuitState.OPEN


def test_an_operator_without_a_server_is_told_so(server):
    server.kill()
    with (
        closing(RedisBackend(server.url, observer=True)) as backend,
        pytest.raises(CircuitBackendError, match="ConnectionError"),
    ):
        backend.open(create=False)


def test_processes_that_are_gone_are_not_counted(server, live, monkeypatch):
    monkeypatch.setattr(remote, "CLOSE_PATIENCE", 20)  # this host may be busy
    ours, theirs = live(), live()
    until(lambda: len(ours.backend.overview().processes) == 2)
    theirs.backend.close()
    assert len(ours.backend.overview().processes) == 1


def test_what_only_the_server_knows_is_told(server):
    with closing(server.client()) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        backend = RedisBackend(server.url, threads=False)
        backend.turn_patience = 20
        backend.open(create=True)
        (advice,) = backend.advice()
        assert "allkeys-lru" in advice
        client.config_set("maxmemory-policy", "noeviction")
        client.replicaof("127.0.0.1", 1)
        (advice,) = backend.advice()
        assert "replica" in advice
        client.replicaof("NO", "ONE")
        backend.close()


def test_rows_are_read_in_pages(server, monkeypatch):
    monkeypatch.setattr("circuitbreaker_django.backends.redis.PAGE", 7)
    ours = RedisBackend(server.url, threads=False)
    ours.turn_every, ours.turn_patience = 0, 20
    for number in range(50):
        CircuitBreaker(f"breaker {number}", backend=ours).trip()
    names = [f"together {number}" for number in range(20)]
    ours.order({name: (Command(CommandKind.TRIP), Policy()) for name in names})
    theirs = RedisBackend(server.url, threads=False)
    theirs.turn_patience = 20
    theirs.open(create=False)
    assert len(theirs._rows) == len(theirs.overview().circuits) == 70
    ours.close()
    theirs.close()


def test_a_thousand_names_in_one_delivery_are_several_scripts(server, live):
    breaker = live()
    backend = breaker.backend
    others = [
        CircuitBreaker(f"breaker {number}", failure_threshold=2, backend=backend)
        for number in range(200)
    ]
    for other in others:
        failing(other)
    until(lambda: len(backend.overview().circuits) == 200)
    assert is_closed(breaker)


# -- too much ------------------------------------------------------------------------------------


@pytest.fixture
def crowded(redis, make, monkeypatch):
    """A member of a store in which more has happened than is kept."""
    monkeypatch.setattr(redis_module, "MAX_ROWS", 5)
    monkeypatch.setattr(redis_module, "MAX_DECLARED", 5)
    backend = redis()
    for number in range(8):
        failing(make(backend, f"user:{number}"))
    make(backend, "open").trip()
    return backend


def test_rows_on_which_nothing_counts_go_where_there_are_many(crowded, redis, make, clock):
    other = make(redis(), "user:1")
    other.call(ok)
    before = other.view.shared_epoch
    store = crowded.connect(20)
    with closing(store):
        store.clean()
        assert len(crowded.overview().circuits) == 9  # they count
        clock.advance(60)
        store.clean()
        assert set(crowded.overview().circuits) == {"open"}
        store.clean()
    assert other.call(ok) == "ok"
    assert other.view.shared_epoch > before
    failing(other)
    failing(other)
    assert is_open(other)


def test_declarations_of_breakers_by_key_go_where_there_are_many(crowded):
    for number in range(8):
        policy = {"keyed": number != 0, "failure_window": 1000}
        crowded.declare(Declaration(f"user:{number}", policy, "here"))
    crowded.declare(Declaration("payments", {}, "here"))
    crowded.publish()
    with closing(crowded.connect(20)) as store:
        store.clean()
    kept = set(crowded.overview().declarations)
    assert len(kept) == 5
    assert {"payments", "user:0"} <= kept


@pytest.fixture
def published(redis, redis_server, clock):
    """What a process leaves of others, and of what they declared, when it tells of its own."""
    backend = redis()
    info = ProcessInfo("elsewhere", 1, "test", 1.0, "", "")

    def published(key: str, *waits: float) -> str:
        with closing(backend.connect(20)) as store, closing(redis_server.client()) as client:
            client.hset(backend.prefix + key, "?", "garbage")
            for name, wait in zip("abc", waits, strict=True):
                clock.advance(wait)
                store.publish(name, info, [Declaration(name, {}, "here")])
            return b"".join(sorted(client.hkeys(backend.prefix + key))).decode()

    return published


@pytest.mark.parametrize(("key", "kept"), [("processes", 15), ("declarations", 7 * 86400)])
def test_what_was_not_told_again_for_long_does_not_fill_the_server(published, key, kept):
    """Rule 23."""
    assert published(key, 0, kept - 1, 1) == "bc"


@pytest.mark.parametrize(("key", "kept"), [("processes", 15), ("declarations", 7 * 86400)])
def test_what_was_told_before_the_clock_was_set_back_does_not_stay_for_ever(published, key, kept):
    assert published(key, 0, 1, -kept - 1) == "ac"


def test_a_store_that_is_not_there_has_nothing_to_drop(crowded, redis_server, monkeypatch):
    with closing(crowded.connect(20)) as store, closing(redis_server.client()) as client:
        client.delete(crowded.prefix + "meta")
        store.clean()
        assert client.hlen(crowded.prefix + "circuits") == 10


def test_what_another_release_has_published_is_left_out(crowded, redis_server):
    prefix = crowded.prefix
    now = crowded.overview().now + AHEAD
    with closing(redis_server.client()) as client:
        client.hset(prefix + "processes", "a", f"{now} garbage")
        client.hset(prefix + "processes", "b", "garbage")
        client.hset(prefix + "processes", "d", "9" * 5000 + " {}")
        client.hset(prefix + "processes", "c", f'{now} {{"host": 5}}')
        client.hset(prefix + "declarations", "a", f'{now} {{"policy": 5, "where": ""}}')
        client.hset(prefix + "declarations", "b", f"{now} []")
    overview = crowded.overview()
    assert len(overview.processes) == 1
    assert overview.declarations == {}


def test_a_process_that_was_killed_is_not_counted_on_its_own_host(crowded, redis_server):
    gone = ProcessInfo(host.host_name(), 2**22 + 1, "x", 1.0, "", host.pid_space())
    elsewhere = replace(gone, host="elsewhere")
    with closing(crowded.connect(20)) as store:
        for name, info in (("gone", gone), ("elsewhere", elsewhere)):
            store.publish(name, info)
    assert {info.host for info in crowded.overview().processes} == {
        host.host_name(),
        "elsewhere",
    }
    assert gone not in crowded.overview().processes


def test_calls_by_key_are_their_familys_where_there_are_too_many(redis):
    counts = Counts(1, 1, 1, 1, 1)
    with closing(redis().connect(20)) as store:
        for names in ([f"tenant:{number}" for number in range(2000)], ["tenant:1", "tenant:new"]):
            store.publish("process", counted=(dict.fromkeys(names, counts), 0))
        store.publish("process", counted=({"payments": counts}, 0))
        found = store.stats(["payments", "tenant", "tenant:1", "tenant:2", "tenant:new"], day=True)
    expected = {"payments": 1, "tenant": 1, "tenant:1": 2, "tenant:2": 1}
    assert {name: one.last_hour.calls for name, one in found.items()} == expected
    assert {name: total(one.quarters).calls for name, one in found.items()} == expected


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def run(server, monkeypatch, capsys):
    """Runs ``manage.py breaker`` on the server."""
    monkeypatch.setattr("circuitbreaker_django.operations.room.in_test_environment", lambda: False)

    def run(*arguments: str) -> str:
        registry = conf.registry_from_url(server.url, BREAKERS={"payments": {}})
        with override_settings(CIRCUIT_BREAKERS={"default": registry, "other": registry}):
            call_command("breaker", *arguments)
        return str(capsys.readouterr().out)

    return run


def test_status_says_which_server_and_that_it_is_reachable(run, live):
    assert "No process has used a breaker yet: there is nothing at unix://" in run("status")
    live(namespace="tests")
    out = run("status", "--registry", "default")
    assert "Backend: RedisBackend at unix:///" in out
    assert re.search(r"Attached: 1 live process .*\nReachable: it answered in \d+ ms\n", out)


def test_status_warns_of_what_only_the_server_knows(run, live, server):
    live(namespace="tests")
    with closing(server.client()) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lfu")
    assert "(allkeys-lfu)" in run("status")


def test_the_command_steers_and_is_confirmed(run, live):
    breaker = live(namespace="tests")
    assert "open" in run("trip", "payments", "--hold", "--reason", "so")
    until(lambda: is_open(breaker))
    run("reset", "payments")
    until(lambda: is_closed(breaker))
    assert "so" in run("history", "payments")


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_command_without_its_server_fails_loudly_and_says_what_it_has_seen(run, server, how):
    getattr(server, how)()
    for begin, arguments in (
        ("", ["status"]),
        ("nothing was done: ", ["trip", "payments", "--force"]),
    ):
        with pytest.raises(CommandError) as caught:
            run(*arguments)
        assert caught.value.returncode == 2
        assert re.fullmatch(
            begin + r"unix://.+ cannot be used now: .+ \(asked for \d+ ms\)\. Since when, only the "
            r"log of the workers says \(logger circuitbreaker_django\): whoever cannot reach it "
            "goes on alone meanwhile",
            str(caught.value),
        )


def test_registries_of_one_server_are_no_mistake(server):
    registry = conf.registry_from_url(server.url)
    with override_settings(CIRCUIT_BREAKERS={"default": registry, "other": registry}):
        assert check_settings() == []
    with override_settings(CIRCUIT_BREAKERS={"default": {**registry, "LOCATION": "h:1"}}):
        (error,) = check_settings()
    assert error.id == "circuitbreaker_django.E010"
    assert "it must be a URL such as" in error.msg


def test_a_process_that_told_nothing_for_eight_seconds_is_silent(crowded, redis_server):
    crowded.publish()
    prefix = crowded.prefix
    with closing(redis_server.client()) as client:
        [(key, value)] = client.hgetall(prefix + "processes").items()
        stamp, _, text = value.partition(b" ")
        client.hset(prefix + "processes", key, b"%d %s" % (int(stamp) - 12_000_000, text))
    overview = crowded.overview()
    assert overview.processes == ()
    assert [round(age) for age in overview.silent.values()] == [12]
