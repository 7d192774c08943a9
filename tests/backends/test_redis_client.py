"""From URLs and caches to clients; nothing here opens a connection."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.core import signals
from django.core.cache.backends.base import BaseCache
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from circuitbreaker_django.backends.redis import RedisBackend
from circuitbreaker_django.backends.redis_client import Server, from_cache, from_url

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "library", "kind", "options"),
    [
        ("redis://", "redis", "single", {"host": "localhost", "port": 6379, "db": 0}),
        ("redis://h:1/2", "redis", "single", {"host": "h", "port": 1, "db": 2}),
        ("redis://h?db=3", "redis", "single", {"host": "h", "port": 6379, "db": 3}),
        ("redis://[::1]:7", "redis", "single", {"host": "::1", "port": 7, "db": 0}),
        ("redis://[::1]", "redis", "single", {"host": "::1", "port": 6379, "db": 0}),
        ("valkey://h", "valkey", "single", {"host": "h", "port": 6379, "db": 0}),
        (
            "rediss://ann:a%40b@h?ssl_ca_certs=/ca",
            "redis",
            "single",
            {
                "ssl_ca_certs": "/ca",
                "username": "ann",
                "password": "a@b",
                "ssl": True,
                "host": "h",
                "port": 6379,
                "db": 0,
            },
        ),
        (
            "unix:///run/r.sock?db=1",
            "redis",
            "single",
            {"unix_socket_path": "/run/r.sock", "db": 1},
        ),
        ("redis+cluster://a:1,b", "redis", "cluster", {}),
        ("redis+sentinel://a:1,b/shop/2", "redis", "sentinel", {"db": 2}),
    ],
)
def test_what_a_url_says(url, library, kind, options):
    server = from_url(url)
    assert (server.driver, server.kind, dict(server.options)) == (library, kind, options)


def test_the_hosts_of_sentinels_and_nodes():
    assert from_url("redis+sentinel://a:1,b/shop").hosts == (("a", 1), ("b", 26379))
    assert from_url("redis+cluster://a:1,b").hosts == (("a", 1), ("b", 6379))
    server = from_url("rediss+sentinel://h/shop?sentinel_password=x&password=y")
    assert server.service == "shop"
    assert server.sentinel_options == {"password": "x", "ssl": True}
    assert server.options == {"password": "y", "ssl": True, "db": 0}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "it must be a URL such as redis://"),
        ("localhost:6379", "it must be a URL"),
        ("postgres://h", "it must be a URL"),
        ("redis://h?socket_timeout=30", "says socket_timeout, which the backend decides"),
        ("redis://a,b", "several hosts: say redis\\+sentinel or \\+cluster"),
        ("redis://h/one", "the number of a database"),
        ("redis+cluster://h/1", "of a cluster 0"),
        ("redis+sentinel://h", "the name of the service"),
        ("unix://", "needs a path"),
        ("rediss://h?ssl_cert_reqs=bogus", "ssl_cert_reqs is one of none, optional, required"),
        ("redis://h:port", "'port' is no port"),
        ("redis://h:70000", "'70000' is no port"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_remedy(url, words):
    with pytest.raises(ImproperlyConfigured, match=f'\\["default"\\]\\["LOCATION"\\]: .*{words}'):
        RedisBackend(url)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://ann:{SECRET}@h:1/0",
        f"redis://h:1/0?password={SECRET}",
        f"redis+sentinel://ann:{SECRET}@a,b/shop?sentinel_password={SECRET}",
        f"redis+cluster://ann:{SECRET}@a,b",
        f"unix:///run/r.sock?password={SECRET}",
    ],
)
def test_nobody_is_shown_a_password(url):
    backend = RedisBackend(url, namespace="shop")
    assert SECRET not in backend.describe()
    assert "{shop:default}" in backend.describe()
    with pytest.raises(ImproperlyConfigured) as caught:
        RedisBackend(url.replace("redis", "postgres").replace("unix", "file"))
    assert SECRET not in str(caught.value)


def test_a_namespace_cannot_leave_its_slot():
    backend = RedisBackend("redis://h", namespace="a}:{b", alias="c d")
    assert backend.prefix.count("{") == backend.prefix.count("}") == 1


@pytest.mark.parametrize("url", ["redis://h", "valkey://h"])
def test_a_client_has_manners_of_its_own(url):
    client = from_url(url).client(0.25)
    options = client.connection_pool.connection_kwargs
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 0.25
    assert options["retry"]._retries == 0
    assert options["decode_responses"] is False
    client.close()


def test_a_library_that_is_not_there_gives_way_to_the_other(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    assert from_url("redis://h").driver == "valkey"
    monkeypatch.setitem(sys.modules, "valkey", None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'circuitbreaker-django\[redis\]'"):
        from_url("redis://h")


# -- caches of Django ----------------------------------------------------------------------------

BUILT_IN = "django.core.cache.backends.redis.RedisCache"


@pytest.fixture(autouse=True)
def _requests_end_as_before() -> Iterator[None]:
    """A cache may have an async function called at the end of each request, once imported."""
    ended = signals.request_finished
    before = list(ended.receivers)
    yield
    ended.receivers = before
    ended.sender_receivers_cache.clear()


def borrowed(**cache: object) -> Server:
    factory = "django_redis.pool.SentinelConnectionFactory" if "OPTIONS" in cache else ""
    settings = {"DJANGO_REDIS_CONNECTION_FACTORY": factory} if factory else {}
    with override_settings(CACHES={"default": cache}, **settings):
        return from_cache("default")()


@pytest.mark.parametrize(
    ("path", "library"),
    [
        (BUILT_IN, "redis"),
        ("django_redis.cache.RedisCache", "redis"),
        ("django_valkey.cache.ValkeyCache", "valkey"),
    ],
)
def test_a_cache_lends_its_server_and_nothing_else(path, library):
    scheme = "valkey" if library == "valkey" else "redis"
    server = borrowed(BACKEND=path, LOCATION=f"{scheme}://ann:{SECRET}@h:1/2?socket_timeout=30")
    assert (server.driver, server.kind) == (library, "single")
    assert server.options == {
        "host": "h",
        "port": 1,
        "db": 2,
        "username": "ann",
        "password": SECRET,
    }
    assert SECRET not in server.label
    client = server.client(0.25)
    assert client.connection_pool.connection_kwargs["socket_timeout"] == 0.25
    client.close()


def test_a_cache_behind_a_socket_or_tls():
    server = borrowed(BACKEND=BUILT_IN, LOCATION="unix:///run/r.sock?db=1")
    assert server.options == {"unix_socket_path": "/run/r.sock", "db": 1}
    server = borrowed(BACKEND=BUILT_IN, LOCATION="rediss://h:1/0")
    assert server.options["ssl"] is True


def test_a_cache_that_sentinels_know():
    server = borrowed(
        BACKEND="django_redis.cache.RedisCache",
        LOCATION="redis://shop/2",
        OPTIONS={
            "CLIENT_CLASS": "django_redis.client.SentinelClient",
            "SENTINELS": [("a", 1), ("b", 2)],
        },
    )
    assert (server.kind, server.service) == ("sentinel", "shop")
    assert server.hosts == (("a", 1), ("b", 2))
    assert server.options["db"] == 2


class Cluster:
    """As the client of a cluster looks that a cache may have."""

    def __init__(self) -> None:
        nodes = [SimpleNamespace(host="a", port=1), SimpleNamespace(host="b", port=2)]
        self.nodes_manager = SimpleNamespace(
            startup_nodes={node.host: node for node in nodes},
            connection_kwargs={"password": SECRET, "socket_timeout": 30},
        )


class RedisClusterCache(BaseCache):
    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self.client = SimpleNamespace(get_client=lambda write: Cluster())


def test_a_cache_in_a_cluster():
    server = borrowed(BACKEND=f"{__name__}.RedisClusterCache")
    assert (server.kind, server.hosts) == ("cluster", (("a", 1), ("b", 2)))
    assert server.options == {"password": SECRET}
    assert SECRET not in server.label


@pytest.mark.parametrize(
    ("caches", "words"),
    [
        ({"default": {"BACKEND": BUILT_IN}}, "'other' is not in CACHES; there are default"),
        (
            {"other": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
            "must be Redis or Valkey",
        ),
    ],
)
def test_a_cache_that_has_no_server_is_refused(caches, words):
    with (
        override_settings(CACHES={"default": {}, **caches}),
        pytest.raises(ImproperlyConfigured, match=rf'\["OPTIONS"\]: .*{words}'),
    ):
        RedisBackend(CACHE="other")


def test_a_url_and_a_cache_are_one_too_many():
    with pytest.raises(ImproperlyConfigured, match="not both"):
        RedisBackend("redis://h", CACHE="default")
