"""The breakers that were handed out, and the lock under which registries change.

They outlive registries, which come and go with the settings: who holds a breaker holds it for good.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from weakref import WeakValueDictionary

from circuitbreaker_django.core.breaker import CircuitBreaker

#: Every breaker with a name of its own, by registry and name.
named: dict[str, dict[str, CircuitBreaker]] = {}
#: Every breaker by key that anybody holds, be it a registry; what nobody holds goes by itself.
by_key: defaultdict[str, WeakValueDictionary[str, CircuitBreaker]]
by_key = defaultdict(WeakValueDictionary)
lock = threading.RLock()


def by_key_only(alias: str) -> list[CircuitBreaker]:
    """The breakers by key that somebody holds, but for those with a name of their own."""
    known = named.get(alias, {})
    return [breaker for name, breaker in list(by_key[alias].items()) if name not in known]


def _renew_lock() -> None:
    global lock
    lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)
