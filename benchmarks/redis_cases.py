"""What a call costs whose circuit is in Redis: ours, and of those who share theirs at all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import interlock
import pybreaker
import redis
from interlock.integrations.redis import RedisStorage

from benchmarks import server
from benchmarks.cases import Case, Group
from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.backends.redis import RedisBackend


def redis_calls() -> list[Group]:
    """Closed and successful calls; nothing where there is no server."""
    if server.find() is None:
        return []
    socket = server.Server().socket
    backend = RedisBackend(f"unix://{socket}")
    client = redis.Redis(unix_socket_path=socket)

    def func() -> None:
        return None

    def empty(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    def call(label: str, func: Callable[[], None], target: float | None = None) -> Case:
        return Case(label, "func()", {"func": func}, target)

    rates = CircuitBreaker("rates", failure_rate_threshold=0.5, backend=backend)
    theirs = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace="bench")
    return [
        Group(
            "Closed, successful, with Redis",
            "empty wrapper",
            (
                call("nothing", func),
                call("empty wrapper", functools.wraps(func)(empty)),
                call("**`@breaker`, Redis**", CircuitBreaker("func", backend=backend)(func), 1.7),
                call("**failure rate, Redis**", rates(func)),
                call("pybreaker, Redis", pybreaker.CircuitBreaker(state_storage=theirs)(func)),
                call(
                    "interlock-cb, Redis",
                    interlock.CircuitBreaker(name="func", storage=RedisStorage(client))(func),
                ),
            ),
        )
    ]
