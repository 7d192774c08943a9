"""From a URL, or from a Django cache, to a client of Redis or Valkey with manners of its own.

An application's client may wait for minutes and try ten times (the defaults of some releases);
this one waits for as long as it is told and never tries again. Nothing here opens a connection.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

#: Kinds of URL, the server's and how many there are of it.
_SCHEMES: Final = {
    f"{library}{secure}{kind}": (library, bool(secure), kind.removeprefix("+") or "single")
    for library in ("redis", "valkey")
    for secure in ("", "s")
    for kind in ("", "+sentinel", "+cluster")
} | {"unix": ("redis", False, "single")}
_FORMS: Final = (
    "redis://host:6379/0, rediss://host/0, unix:///run/redis.sock?db=0, "
    "redis+sentinel://host:26379,host:26379/service/0 or redis+cluster://host:6379,host:6379"
)
#: What a URL may say beside where the server is.
_TEXTS: Final = (
    "username",
    "password",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_cert_reqs",
    "sentinel_username",
    "sentinel_password",
)
_CERT_REQS: Final = ("none", "optional", "required")
#: Of the parameters of a cache's client those that say where and as whom, and not how.
_BORROWED: Final = (
    "host",
    "port",
    "path",
    "db",
    "username",
    "password",
    "credential_provider",
    "ssl_keyfile",
    "ssl_certfile",
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_ca_data",
    "ssl_password",
    "ssl_check_hostname",
    "ssl_min_version",
    "ssl_ciphers",
)
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


@dataclass(frozen=True)
class Server:
    """Where a server is, and as whom to go there.

    Attributes:
        driver: the name of the client's package.
        kind: ``single``, ``sentinel`` or ``cluster``.
        hosts: of sentinels or of nodes, where there are many.
        service: the name that sentinels know it by.
        options: of a connection.
        sentinel_options: of a connection to a sentinel.
        label: for people; without a password.
    """

    driver: str
    kind: str
    label: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    sentinel_options: Mapping[str, Any] = field(default_factory=dict)

    def client(self, patience: float) -> Any:
        """A client that waits so many seconds for any answer."""
        package = importlib.import_module(self.driver)
        manners = _manners(package, patience)
        options = {**self.options, **manners}
        if self.kind == "single":
            return _class(package, "Redis", "Valkey")(**options)
        if self.kind == "sentinel":
            sentinel = package.Sentinel(
                list(self.hosts), sentinel_kwargs={**self.sentinel_options, **manners}, **options
            )
            return sentinel.master_for(self.service)
        nodes = [package.cluster.ClusterNode(*host) for host in self.hosts]
        cluster = _class(package, "RedisCluster", "ValkeyCluster")
        if self.driver == "valkey" or int(package.__version__.partition(".")[0]) < 6:
            options["cluster_error_retry_attempts"] = 0  # later it is said by ``retry``
        return cluster(startup_nodes=nodes, **options)


def from_url(url: str) -> Server:
    """The server of a URL.

    Raises:
        ValueError: it is none that can be used; the message never shows a password.
        ImproperlyConfigured: there is no library for it.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in _SCHEMES:
        raise ValueError(f"it must be a URL such as {_FORMS}")
    wanted, secure, kind = _SCHEMES[scheme]
    said = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in said:
        if name not in (*_TEXTS, "db"):
            raise ValueError(
                f"it says {name}, which the backend decides or does not know; a URL may say "
                f"{', '.join(('db', *_TEXTS))}"
            )
    credentials, _, place = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    if said.get("ssl_cert_reqs", "none") not in _CERT_REQS:
        raise ValueError(f"ssl_cert_reqs is one of {', '.join(_CERT_REQS)}")
    options: dict[str, Any] = {name: value for name, value in said.items() if name in _TEXTS}
    sentinel_options = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in list(options)
        if name.startswith("sentinel_")
    }
    if username:
        options["username"] = unquote(username)
    if password:
        options["password"] = unquote(password)
    if secure:
        options["ssl"] = sentinel_options["ssl"] = True
    path = [unquote(part) for part in parts.path.split("/") if part]
    hosts: tuple[tuple[str, int], ...] = ()
    service = ""
    if scheme == "unix":
        if not path:
            raise ValueError(f"{scheme}:// needs a path, as unix:///run/redis.sock")
        options["unix_socket_path"] = unquote(parts.path)
        number = said.get("db", "0")
        label = f"unix://{parts.path}?db={number}"
    else:
        default = _SENTINEL_PORT if kind == "sentinel" else _PORT
        hosts = tuple(_host(part, default) for part in place.split(","))
        if kind == "sentinel":
            if not path:
                raise ValueError(
                    "it needs the name of the service, as redis+sentinel://host:26379/service/0"
                )
            service = path.pop(0)
        number = said.get("db", path[0] if path else "0")
        listed = ",".join(f"{host}:{port}" for host, port in hosts)
        label = f"{scheme}://{listed}/" + (f"{service}/" if service else "") + number
        if kind == "single":
            if len(hosts) > 1:
                raise ValueError(f"it names several hosts: say {wanted}+sentinel or +cluster")
            options["host"], options["port"] = hosts[0]
    if not number.isdecimal() or (kind == "cluster" and int(number)):
        raise ValueError(f"{label}: the number of a database is 0 or more, of a cluster 0")
    if kind != "cluster":
        options["db"] = int(number)
    return Server(_library(wanted), kind, label, hosts, service, options, sentinel_options)


def from_cache(alias: str) -> Callable[[], Server]:
    """A function that gives the server of a Django cache, when that may be made.

    Raises:
        ValueError: there is no such cache, or it is of no kind that has a server.
    """
    from django.conf import settings
    from django.core.cache import caches

    config = settings.CACHES.get(alias)
    if config is None:
        raise ValueError(
            f"CACHE {alias!r} is not in CACHES; there are {', '.join(settings.CACHES)}"
        )
    path = str(config.get("BACKEND", ""))
    if not any(word in path.lower() for word in ("redis", "valkey")):
        raise ValueError(f"CACHE {alias!r} is a {path}: its server must be Redis or Valkey")

    def server() -> Server:
        cache: Any = caches[alias]
        if hasattr(cache, "client"):
            client = cache.client.get_client(write=True)
        else:
            client = cache._cache.get_client(None, write=True)
        return _of_client(client, alias)

    return server


def _of_client(client: Any, alias: str) -> Server:
    """The server that a client talks to."""
    library = type(client).__module__.partition(".")[0]
    if not hasattr(client, "connection_pool"):
        nodes = client.nodes_manager
        hosts = tuple((node.host, node.port) for node in nodes.startup_nodes.values())
        options = _borrow(nodes.connection_kwargs)
        return Server(library, "cluster", f"the cluster of CACHES[{alias!r}]", hosts, "", options)
    pool = client.connection_pool
    options = _borrow(pool.connection_kwargs)
    if "SSL" in pool.connection_class.__name__:
        options["ssl"] = True
    if "path" in options:
        options["unix_socket_path"] = options.pop("path")
    if not hasattr(pool, "sentinel_manager"):
        where = options.get("unix_socket_path") or f"{options.get('host')}:{options.get('port')}"
        label = f"{library}://{where}/{options.get('db') or 0} of CACHES[{alias!r}]"
        return Server(library, "single", label, (), "", options)
    sentinels = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    hosts = tuple((one["host"], one["port"]) for one in sentinels)
    label = f"{library}+sentinel, service {pool.service_name} of CACHES[{alias!r}]"
    return Server(
        library, "sentinel", label, hosts, pool.service_name, options, _borrow(sentinels[0])
    )


def _borrow(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in _BORROWED if options.get(key) is not None}


def _manners(package: ModuleType, patience: float) -> dict[str, Any]:
    """How every connection behaves, whatever anybody's defaults are."""
    retry = importlib.import_module(f"{package.__name__}.retry")
    backoff = importlib.import_module(f"{package.__name__}.backoff")
    return {
        "socket_timeout": patience,
        "socket_connect_timeout": patience,
        "socket_keepalive": True,
        "retry": retry.Retry(backoff.NoBackoff(), 0),
        "decode_responses": False,
        "encoding": "utf-8",
        "protocol": 2,
        "health_check_interval": 0,
        "client_name": "circuitbreaker",
    }


def _class(package: ModuleType, *names: str) -> Any:
    return next(getattr(package, name) for name in names if hasattr(package, name))


def _library(wanted: str) -> str:
    """The package that is there: the one of the URL, or the other, which speaks the same."""
    for name in sorted(("redis", "valkey"), key=lambda name: name != wanted):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        return name
    raise ImproperlyConfigured(
        "RedisBackend needs a client: pip install 'circuitbreaker-django[redis]' or "
        "'circuitbreaker-django[valkey]'"
    )


def _host(text: str, port: int) -> tuple[str, int]:
    """A host and its port; an address of IPv6 stands in brackets."""
    host, colon, number = text.rpartition(":")
    if not colon or "]" in number:
        host, number = text, str(port)
    host = host.strip("[]")
    if not number.isdecimal() or not 0 < int(number) < 65536:
        raise ValueError(f"{number!r} is no port")
    return unquote(host) or "localhost", int(number)
