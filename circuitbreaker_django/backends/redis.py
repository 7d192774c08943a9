"""The backend of many hosts: circuits in Redis or Valkey.

A circuit is a row of one hash, changed by scripts that do what ``core/circuit.py`` does. Each
change adds to a short stream, which the feed of every process waits on; what it has to tell is
then read by its revision. All keys are in one slot of a cluster.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote

from django.core.exceptions import ImproperlyConfigured

from circuitbreaker_django import conf
from circuitbreaker_django.backends.base import Clock, monotonic
from circuitbreaker_django.backends.published import (
    FORGOTTEN_AFTER,
    GONE_AFTER,
    KEEP_DECLARED,
    dump_declaration,
    dump_process,
    is_keyed,
    load_declaration,
    patient_policy,
    roll_call,
)
from circuitbreaker_django.backends.redis_client import Server, from_cache, from_url
from circuitbreaker_django.backends.redis_scripts import (
    APPLY,
    CLEAN,
    DIGITS,
    DROP,
    EVENTS,
    LOOK,
    PUBLISH,
    RENEW,
    STATS,
    Script,
    acquire_data,
    as_read,
    as_text,
    circuits,
    command_data,
    named_events,
    pairs,
    policy_data,
    record_data,
    report_data,
    snapshot,
    stats,
)
from circuitbreaker_django.backends.remote import RemoteBackend
from circuitbreaker_django.backends.remote_store import Counted, RemoteStore, Snapshot, Teller
from circuitbreaker_django.backends.store import (
    HISTORY,
    MAX_DECLARED,
    MAX_ROWS,
    Declaration,
    Evidence,
    Fence,
    NoStore,
    Order,
    Overview,
    ProcessInfo,
    Report,
    Stats,
    StoreBusy,
    StoreLost,
    StoreUnsure,
    warn_of_dropped,
)
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import Event, Grant
from circuitbreaker_django.core.errors import CircuitConflictError
from circuitbreaker_django.core.policy import Policy, micros
from circuitbreaker_django.core.traffic import KEPT, MINUTE, QUARTER

T = TypeVar("T")

#: Of the keys and what is in them; another release may have another beside it.
SCHEMA: Final = "v1"
#: Rows that are read at once, about.
PAGE: Final = 1000

_RIGHTS: Final = "docs/redis.md lists the rights that the user needs"
#: What helps, by a part of what servers and clients of all releases say.
_REMEDIES: Final = {
    "WRONGTYPE": "somebody else has written to keys of the circuits: delete {keys}*",
    "no permissions to": _RIGHTS,
    "user executing the script can't": _RIGHTS,
    "used memory > 'maxmemory'": "the server is full: raise maxmemory, or make room",
    "read only replica": "name the primary",
}
_KEYS: Final = (
    "meta",
    "circuits",
    "changes",
    "feed",
    "events",
    "processes",
    "declarations",
    "traffic",
)


class RedisBackend(RemoteBackend):
    """Circuits in Redis (5 or newer) or Valkey.

    Args:
        location: a URL: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://`` or
            ``redis+cluster://``, or the same with ``valkey``.
        CACHE: instead of that the alias of a Django cache, whose server is used. Its client is
            not: the backend has one of its own.
        namespace: keeps projects apart on one server.
        alias: keeps a project's registries apart.
        node: what counts as one where a quorum is asked for; by default the host (rule 8).
        threads: whether this process may have threads.
        observer: look and steer only: make no store, and do not count as a process.
        clock: microseconds of a monotonic clock; tests inject one.
        server_clock: microseconds of the server's clock; tests inject one.

    Raises:
        ImproperlyConfigured: the location cannot be used, or there is no client's library.
    """

    def __init__(
        self,
        location: str | None = None,
        *,
        CACHE: str | None = None,
        namespace: str = "default",
        alias: str = "default",
        node: str | None = None,
        threads: bool = True,
        observer: bool = False,
        clock: Clock = monotonic,
        server_clock: Clock | None = None,
    ) -> None:
        try:
            if CACHE is None:
                server = from_url(location or "")
                self._label = server.label
                self._find_server: Callable[[], Server] = lambda: server
            elif location is None:
                self._label = f"the server of CACHES[{CACHE!r}]"
                self._find_server = from_cache(CACHE)
            else:
                raise ValueError('give either a URL, or a cache as OPTIONS["CACHE"], not both')
        except ValueError as error:
            place = conf.where(alias, "LOCATION" if CACHE is None else "OPTIONS")
            raise ImproperlyConfigured(f"{place}: {error}.") from None
        # In braces what a cluster finds the slot by; quoted, so that nobody's name has any.
        self.prefix = f"circuitbreaker:{{{quote(namespace, '')}:{quote(alias, '')}}}:{SCHEMA}:"
        self._server_clock = server_clock
        super().__init__(node=node, threads=threads, observer=observer, clock=clock)

    def describe(self) -> str:
        """The server's address; never with a password."""
        return f"{self._label}, keys {self.prefix}*"

    def connect(self, patience: float) -> RedisStore:
        """A connection whose every use takes so many seconds at most; it is not opened yet."""
        find = self._find_server  # and not this backend, whose threads end when it is gone
        return RedisStore(lambda: find().client(patience), self.prefix, self._server_clock)


class RedisStore(RemoteStore):
    """A connection to Redis or Valkey.

    Args:
        connect: makes a client.
        prefix: of all keys.
        clock: the server's, if it is not to be asked.
    """

    def __init__(self, connect: Callable[[], Any], prefix: str, clock: Clock | None) -> None:
        self._connect = connect
        self._prefix = prefix
        self._keys = tuple(prefix + key for key in _KEYS)
        self._circuits = self._keys[1]
        self._feed = self._keys[3]
        self._processes, self._declarations = self._keys[5:7]
        self._clock = clock
        self._client: Any = None

    # -- reading -----------------------------------------------------------------------------

    def look(self, since: int) -> Snapshot:
        """What has changed after a revision, in pages.

        It writes nothing, unless there are rows that are no circuits: those it drops.
        """
        return self._look(since, PAGE)[0]

    def _look(self, since: int, most: int, *, whole: bool = False) -> tuple[Snapshot, list[Any]]:
        """One page; of the whole store also who is there, and what is declared."""

        def look(client: Any) -> tuple[tuple[Snapshot, list[Any]], list[bytes]]:
            head, rows, more, *told = self._run(client, LOOK, since, most, int(whole))
            found, unreadable = circuits(rows)
            return (snapshot(head, found, more=bool(more)), told), unreadable

        return self._readable(lambda: self._read(look))

    def wait(self, since: int, seconds: float) -> None:
        """Return when there is a newer revision, or when the time is over."""
        block = max(1, round(seconds * 1000)) if seconds else None  # 0 were for ever
        self._read(lambda client: client.xread({self._feed: f"{since}-0"}, 1, block))

    def overview(self) -> Overview:
        """Everything, for operators."""
        seen, (processes, declarations) = self._look(0, MAX_ROWS, whole=True)
        if not seen.incarnation:
            raise NoStore(f"there is nothing at {self._keys[0]}")
        rows = dict(seen.circuits)
        while seen.more:
            seen = self.look(seen.revision)
            rows.update(seen.circuits)
        told = self._told(processes, seen.now - micros(FORGOTTEN_AFTER))
        live, silent = roll_call(told.values(), seen.now)
        texts = self._told(declarations, seen.now - micros(KEEP_DECLARED))
        declared = [load_declaration(name, texts[name][0]) for name in sorted(texts)]
        return Overview(
            seen.now,
            rows,
            {one.name: one for one in declared if one is not None},
            live,
            seen.floor,
            silent,
        )

    def stats(
        self, names: Collection[str] | None, *, minutes: int = KEPT[MINUTE], day: bool
    ) -> Mapping[str, Stats]:
        """The calls of breakers over time."""
        wanted = as_text([False if names is None else list(names)])

        def ask(client: Any) -> Mapping[str, Stats]:
            now, buckets = self._run(client, STATS, wanted, minutes, KEPT[QUARTER] if day else 0)
            return stats(now, buckets, time.time())

        return self._read(ask)

    def advice(self) -> list[str]:
        """What operators should know of the server."""
        info = self._read(lambda client: client.info())
        policy = str(info.get("maxmemory_policy", ""))
        found = []
        if info.get("maxmemory") and policy.startswith("allkeys"):
            found.append(
                f"The server may drop any key when its memory is full ({policy}), and with it all "
                "circuits: use noeviction or a volatile-* policy, or a server of its own."
            )
        most = info.get("maxmemory")
        if most and info.get("used_memory", 0) >= most and policy in ("", "noeviction"):
            found.append(
                "The server's memory is full (maxmemory): it takes no changes, so each process is "
                "alone."
            )
        if info.get("role") == "slave":
            found.append("The server is a replica: it takes no changes, so each process is alone.")
        return found

    def events(
        self, limit: int, names: Collection[str] | None = None
    ) -> tuple[int, list[tuple[str, Event]]]:
        """The server's time, and the newest events of those breakers, or of any, newest first."""
        wanted = as_text([False if names is None else dict.fromkeys(names, True)])

        def ask(client: Any) -> tuple[int, list[tuple[str, Event]]]:
            now, found = self._run(client, EVENTS, wanted, min(limit, HISTORY))
            return int(now), named_events(found)

        return self._read(ask)

    @staticmethod
    def _told(flat: Sequence[bytes], since: int) -> dict[str, tuple[str, int]]:
        """What was told after that time, by name, and when."""
        found = {}
        texts = dict(pairs(flat))
        for name in sorted(texts):
            stamp, _, text = as_read(texts[name]).partition(" ")
            if stamp.isdecimal() and len(stamp) <= DIGITS and int(stamp) > since:
                found[as_read(name)] = text, int(stamp)
        return found

    # -- changing ----------------------------------------------------------------------------

    def deliver(
        self, evidence: Mapping[str, Evidence], reports: Sequence[Report], teller: Teller
    ) -> Snapshot:
        """Count calls and take reports."""
        operations = [
            record_data(name, kept, teller.now, teller.origin, teller.patience)
            for name, kept in evidence.items()
        ]
        operations += [report_data(report, teller.now) for report in reports]
        return self._apply(operations, teller.before)[1]

    def acquire(
        self, name: str, fence: Fence, token: str, policy: Policy, before: int
    ) -> tuple[Grant, Snapshot]:
        """Ask for a trial permit."""
        (verdict, wait), seen = self._apply([acquire_data(name, fence, token, policy)], before)
        return Grant(verdict == b"granted", int(wait) if wait else None), seen

    def command(
        self, orders: Mapping[str, Order], before: int, *, if_lost: bool = False
    ) -> Snapshot:
        """Apply commands, all or none."""
        operations = [
            command_data(name, command, policy, if_lost)
            for name, (command, policy) in orders.items()
        ]
        return self._apply(operations, before)[1]

    def renew(self, incarnation: int) -> None:
        """Take another identity."""
        self._tell(RENEW, incarnation, _new_incarnation())

    def publish(
        self,
        process: str,
        info: ProcessInfo | None = None,
        declared: Sequence[Declaration] = (),
        counted: Counted = ({}, 0),
    ) -> Snapshot:
        """Write down who is there and what his code declares; makes the store."""
        traffic, age = counted
        told = {
            "seed": str(_new_incarnation()),
            "process": process,
            "info": info is not None and dump_process(info),
            "declarations": {one.name: dump_declaration(one) for one in declared},
            "traffic": traffic,
            "age": age,
            "gone_after": micros(GONE_AFTER),
            "keep_declared": micros(KEEP_DECLARED),
        }

        def publish(client: Any) -> Snapshot:
            (head,) = self._run(client, PUBLISH, as_text(told))
            return snapshot(head, {})

        return self._change(publish)

    def withdraw(self, process: str) -> None:
        """Forget a process that ends."""
        self._change(lambda client: client.hdel(self._processes, process))

    def clean(self) -> None:
        """Drop what nobody will miss where there is too much."""

        def count(client: Any) -> tuple[int, int]:
            return client.hlen(self._circuits), client.hlen(self._declarations)

        rows, entries = self._read(count)
        if rows <= MAX_ROWS and entries <= MAX_DECLARED:
            return
        try:
            found = self.overview()
        except NoStore:
            return  # gone since it was counted
        keyed = [name for name, one in found.declarations.items() if is_keyed(one)]
        patient = patient_policy(one.policy for one in found.declarations.values())
        blank = [
            name
            for name, circuit in found.circuits.items()
            if rows > MAX_ROWS and core.is_blank(circuit, patient, found.now)
        ]
        policy = policy_data(patient)
        surplus = keyed[: max(0, entries - MAX_DECLARED)]
        while blank or surplus:
            part = {"policy": policy, "names": blank[:PAGE], "declarations": surplus[:PAGE]}
            blank, surplus = blank[PAGE:], surplus[PAGE:]
            self._tell(CLEAN, as_text(part))

    def _apply(self, operations: list[dict[str, Any]], before: int) -> tuple[Any, Snapshot]:
        asked = {"seed": str(_new_incarnation()), "before": before, "operations": operations}

        def apply(client: Any) -> tuple[tuple[Any, Snapshot] | None, list[bytes]]:
            verdict, *answer = self._run(client, APPLY, as_text(asked))
            if verdict == b"late":
                raise StoreBusy("the store was slow, and has done nothing")
            if verdict == b"unreadable":
                return None, answer[0]
            if verdict == b"conflict":
                name = answer[0].decode()
                raise CircuitConflictError(
                    f"nothing was applied: circuit {name!r} has changed meanwhile"
                )
            head, answer, rows, events = answer
            return (answer, snapshot(head, circuits(rows)[0], events)), []

        done = self._readable(lambda: self._change(apply))
        assert done is not None
        return done

    def _readable(self, ask: Callable[[], tuple[T, list[bytes]]]) -> T:
        """What is answered once there are no rows that are no circuits: they are dropped first.

        Args:
            ask: gives the answer, and the names and texts of such rows by turns.
        """
        for _ in range(3):
            answer, unreadable = ask()
            if not unreadable:
                return answer
            self._drop(unreadable)
        raise StoreBusy("somebody fills the rows of circuits again and again")

    def _drop(self, unreadable: list[bytes]) -> None:
        """Drop rows that are no circuits; the others are as they were."""
        step = 2 * PAGE  # names and texts by turns
        parts = [unreadable[start : start + step] for start in range(0, len(unreadable), step)]
        if sum([self._tell(DROP, *part) for part in parts]):
            warn_of_dropped(as_read(name) for name, _ in pairs(unreadable))

    # -- the connection ----------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the connection."""
        client, self._client = self._client, None
        if client is not None:
            try:
                client.close()
                client.connection_pool.disconnect()
            except Exception:  # of a client that is broken nobody wants to hear
                pass

    def _read(self, ask: Callable[[Any], T]) -> T:
        return self._use(ask, StoreLost)

    def _change(self, ask: Callable[[Any], T]) -> T:
        if self._client is None:
            # What cannot be reached has not done anything, and what can be may not answer.
            self._use(lambda client: client.ping(), StoreLost)
        return self._use(ask, StoreUnsure)

    def _use(self, ask: Callable[[Any], T], silent: type[StoreLost]) -> T:
        try:
            if self._client is None:
                self._client = self._connect()
            return ask(self._client)
        except (StoreBusy, CircuitConflictError):
            raise
        except Exception as error:  # whatever a client's library or a server comes up with
            kind = type(error)
            self.close()  # so that the next use asks anew where the server is
            answered = any(one.__name__ == "ResponseError" for one in kind.__mro__)
            text = f"{kind.__name__}: {error}"
            remedy = next((_REMEDIES[part] for part in _REMEDIES if part in text), "")
            if remedy:
                text = f"{text} ({remedy.format(keys=self._prefix)})"
            raise (StoreLost if answered else silent)(text) from error

    def _tell(self, script: Script, *values: Any) -> Any:
        """Run a script that changes something, and that is all that there is to do."""
        return self._change(lambda client: self._run(client, script, *values))

    def _run(self, client: Any, script: Script, *values: Any) -> Any:
        now = "" if self._clock is None else self._clock()
        arguments = (len(self._keys), *self._keys, now, *values)
        try:
            return client.evalsha(script.sha, *arguments)
        except Exception as error:
            if type(error).__name__ != "NoScriptError":
                raise
            return client.eval(script.text, *arguments)


def _new_incarnation() -> int:
    """The identity of a new store (rule 1)."""
    return secrets.randbits(63) | 1
