"""How a breaker is named in the admin: in URLs, forms and its log."""

from __future__ import annotations

import functools
import hashlib
from typing import NamedTuple
from urllib.parse import quote, unquote


class Key(NamedTuple):
    """A breaker of a registry."""

    registry: str
    name: str

    @property
    def pk(self) -> str:
        """The primary key that the admin knows it by, such as ``default:payments``."""
        return f"{quote(self.registry, safe='')}:{self.name}"

    @property
    def id(self) -> str:
        """A short word for it: for ids of elements and for lists in URLs, however odd its name."""
        return _short(self)

    @classmethod
    def of(cls, pk: str) -> Key:
        """The key of a primary key.

        Raises:
            ValueError: it is none.
        """
        registry, colon, name = pk.partition(":")
        if not (registry and colon and name):
            raise ValueError(f"{pk!r} is no registry:name")
        return cls(unquote(registry), name)


@functools.lru_cache(maxsize=4096)  # each poll looks for some among all
def _short(key: Key) -> str:
    return hashlib.blake2b(key.pk.encode(), digest_size=6).hexdigest()
