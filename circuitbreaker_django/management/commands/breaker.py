"""``manage.py breaker``: look at the circuits of running processes, and steer them."""

from __future__ import annotations

import getpass
import io
import json
import math
import os
import shlex
import socket
import sys
import traceback
from argparse import SUPPRESS
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import Any, TextIO, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper

from circuitbreaker_django.conf import DEFAULT_ALIAS
from circuitbreaker_django.core.announce import event_in_words, printable
from circuitbreaker_django.core.circuit import MODES, CommandKind, Event
from circuitbreaker_django.core.errors import CircuitBreakerError
from circuitbreaker_django.core.states import CircuitState, Mode
from circuitbreaker_django.operations import (
    BreakerStatus,
    ControlRoom,
    choose,
    event_as_data,
    parse_duration,
    silence,
)
from circuitbreaker_django.registry import registries

#: The longest text in a cell of the table; JSON has all of it.
_MAX_CELL = 80
#: What is asked before many circuits are steered at once.
_ASKED = {
    CommandKind.TRIP: "Open",
    CommandKind.HOLD: "Hold open",
    CommandKind.RESET: "Close",
    CommandKind.DISABLE: "Disable",
    CommandKind.METRICS_ONLY: "Let pass, and count only, the calls of",
    CommandKind.ENABLE: "End the modes of",
}


class Command(BaseCommand):
    """The command and its sub-commands."""

    help = "Show and steer the circuits of the running processes."
    # An operator in need is not to be stopped by a check of something else.
    requires_system_checks: list[str] = []  # noqa: RUF012 - the base class has it so
    #: Whether an order was given, which nothing that comes later may deny.
    applied = False

    def add_arguments(self, parser: CommandParser) -> None:
        """One parser for each sub-command."""
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        status = commands.add_parser("status", parents=[_common()], help="show circuits")
        status.add_argument("names", nargs="*", metavar="NAME", help="default: all")
        status.add_argument("--registry", metavar="ALIAS", help="default: all registries")
        status.add_argument("--format", choices=["text", "json"], default="text")
        status.add_argument(
            "--fail-on-open", action="store_true", help="exit with 1 if one is open or held open"
        )
        status.set_defaults(method=self.status)

        trip = commands.add_parser(
            "trip", parents=[_common(), _steering()], help="open circuits, for every process"
        )
        kinds = trip.add_mutually_exclusive_group()
        kinds.add_argument("--hold", action="store_true", help="until `breaker reset`")
        kinds.add_argument("--for", metavar="DURATION", help="90s, 10m, 2h or 1h30m")
        trip.set_defaults(method=self.trip)

        for name, kind, words in (
            ("disable", CommandKind.DISABLE, "let all calls pass and count nothing"),
            (
                "metrics-only",
                CommandKind.METRICS_ONLY,
                "let all calls pass, and count what it saves",
            ),
        ):
            mode = commands.add_parser(name, parents=[_common(), _steering()], help=words)
            mode.add_argument(
                "--for", metavar="DURATION", help="90s, 10m, 2h or 1h30m; default: until `enable`"
            )
            mode.set_defaults(method=self.set_mode, kind=kind)

        enable = commands.add_parser(
            "enable", parents=[_common(), _steering()], help="end a mode and keep what was counted"
        )
        enable.set_defaults(method=self.enable)

        reset = commands.add_parser(
            "reset", parents=[_common(), _steering()], help="close circuits, for every process"
        )
        reset.set_defaults(method=self.reset)

        history = commands.add_parser("history", parents=[_common()], help="show what has happened")
        history.add_argument("names", nargs="*", metavar="NAME", help="default: all")
        history.add_argument("--registry", metavar="ALIAS", default=DEFAULT_ALIAS)
        history.add_argument("--limit", type=int, default=20, metavar="N", help="default: 20")
        history.add_argument("--format", choices=["text", "json"], default="text")
        history.set_defaults(method=self.history)

    def run_from_argv(self, argv: list[str]) -> None:
        """A traceback too ends with exit code 2: 1 would say that a circuit is open.

        That nobody can read what is printed undoes nothing, so it does not change what a command
        that was applied ends with.
        """
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        printed = _Printed(self.stdout)
        self.stdout = OutputWrapper(cast("TextIO", printed))
        code: str | int | None = 0
        try:
            super().run_from_argv(argv)
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc()
            code = 2
        problem = printed.finish()
        if problem is not None and not isinstance(problem, BrokenPipeError):
            if not self.applied:
                code = code or 2
            what = "It was applied, but the" if self.applied else "The"
            self.stderr.write(f"{what} output could not be printed: {problem.strerror}.")
        if code:
            sys.exit(code)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Whatever goes wrong is told in one line, with exit code 2."""
        try:
            return super().execute(*args, **options)
        except CommandError as error:
            error.returncode = 2
            raise
        except (CircuitBreakerError, ImproperlyConfigured) as error:
            line = " ".join(str(error).splitlines())
            raise CommandError(printable(line), returncode=2) from error

    def handle(self, *args: Any, method: Any, **options: Any) -> None:
        """Leave it to the sub-command."""
        method(**options)

    # -- sub-commands -----------------------------------------------------------------------

    def status(
        self,
        names: list[str],
        registry: str | None,
        format: str,
        fail_on_open: bool,
        verbosity: int,
        **options: Any,
    ) -> None:
        """Show circuits."""
        aliases = list(registries) if registry is None else [registry]
        with ExitStack() as stack:
            rooms = [
                stack.enter_context(closing(ControlRoom(registries[alias]))) for alias in aliases
            ]
            known = sorted({name for room in rooms for name in room.names(names)})
            where = " or ".join(f"registry {alias!r}" for alias in aliases)
            chosen = set(choose(names, known, where) or known)
            shown = [
                room.status(name for name in room.names(names) if name in chosen) for room in rooms
            ]
            rows = [row for part in shown for row in part]
            if format == "json":
                self.stdout.write(json.dumps([_as_json(row) for row in rows], indent=2))
                for room in rooms:
                    for warning in _warnings(room, verbosity):
                        self.stderr.write(warning, self.style.WARNING)
            else:
                for room, part in zip(rooms, shown, strict=True):
                    self._show(room, part, verbosity, brief=not names)
        if fail_on_open and any(row.state is CircuitState.OPEN for row in rows):
            sys.exit(1)

    def trip(self, hold: bool, **options: Any) -> None:
        """Open circuits."""
        length = options["for"]
        if length is not None:
            self._steer(CommandKind.HOLD, duration=_duration(str(length)), **options)
        else:
            self._steer(CommandKind.HOLD if hold else CommandKind.TRIP, **options)

    def reset(self, **options: Any) -> None:
        """Close circuits."""
        self._steer(CommandKind.RESET, **options)

    def set_mode(self, kind: CommandKind, **options: Any) -> None:
        """Put circuits into a mode."""
        length = options["for"]
        duration = None if length is None else _duration(str(length))
        self._steer(kind, duration=duration, **options)

    def enable(self, **options: Any) -> None:
        """End the mode of circuits."""
        self._steer(CommandKind.ENABLE, **options)

    def history(
        self, names: list[str], registry: str, limit: int, format: str, **options: Any
    ) -> None:
        """Show what has happened."""
        if limit < 1:
            raise CommandError(f"--limit {limit}: give a number of at least 1")
        with closing(ControlRoom(registries[registry])) as room:
            found = room.history(room.choose(names) if names else [], limit)
            if format == "json":
                lines = [event_as_data(registry, *entry) for entry in found]
                self.stdout.write(json.dumps(lines, indent=2))
                return
            for entry in found:
                self.stdout.write(_event_as_line(*entry))
            if not found:
                self.stdout.write("Nothing has happened yet.")

    def _steer(
        self,
        kind: CommandKind,
        *,
        names: list[str],
        all: bool,
        registry: str,
        reason: str,
        actor: str | None,
        force: bool,
        verbosity: int,
        interactive: bool,
        duration: int | None = None,
        **options: Any,
    ) -> None:
        if bool(names) == all:
            raise CommandError("give the names of breakers, or --all")
        with closing(ControlRoom(registries[registry])) as room:
            chosen, known = room.choose(names), set(room.names())
            room.refuse_in_vain(force=force)
            # By a pattern or by none there may be more of them than whoever asks believes.
            unnamed = len(chosen) > 1 and not set(chosen) <= set(names)
            question = f"{_ASKED[kind]} {len(chosen)} circuits, for every process? [y/N] "
            if unnamed and interactive and not _yes(question):
                raise CommandError("nothing was done")
            before = room.status(chosen)
            after = room.order(
                chosen, kind, duration=duration, actor=actor or _actor(), reason=reason, force=force
            )
            self.applied = True
            if verbosity:
                for was, row in zip(before, after, strict=True):
                    self.stdout.write(_said(was, row, kind))
                for name in sorted({*chosen} - known):
                    self.stdout.write(
                        self.style.WARNING(f"No process has told of {printable(name)} yet.")
                    )
                self.stdout.write(
                    f"Written to {printable(room.place)} on {socket.gethostname()}; "
                    f"it reaches {_crowd(room)}."
                )
                if room.silent:
                    self.stdout.write(self.style.WARNING(f"Not reached: {silence(room.silent)}."))
                if room.in_memory and kind in MODES:
                    what = "hold" if kind is CommandKind.HOLD else "mode"
                    self.stdout.write(f"It lies in memory: a restart of the host ends the {what}.")

    # -- text -------------------------------------------------------------------------------

    def _show(
        self, room: ControlRoom, rows: list[BreakerStatus], verbosity: int, *, brief: bool
    ) -> None:
        config = room.registry.config
        if len(registries) > 1:
            self.stdout.write(self.style.MIGRATE_HEADING(f"Registry {printable(config.alias)}"))
        named = set(room.registry)
        table, quiet = [], Counter[str]()
        for row in rows:
            if brief and row.name not in named and _is_quiet(row):
                quiet[row.family] += 1
            else:
                table.append(row)
        if table:
            self._show_table(table, len(room.processes), wide=verbosity > 1)
        elif not quiet:
            self.stdout.write(
                "No breakers are known. Those of BREAKERS in the settings and of breakers.py "
                "modules always are; those of views are when their URLconf was imported, and those "
                "of workers from their first use of any."
            )
        for family, count in sorted(quiet.items()):
            pattern = shlex.quote(printable(f"{family}:*"))
            self.stdout.write(
                f"{printable(family)}: {count} more breaker{'s' * (count > 1)} by key, closed; "
                f"`breaker status {pattern}` shows all."
            )
        backend = config.backend.rpartition(".")[2]
        self.stdout.write(f"\nBackend: {backend} at {printable(room.place)}")
        if room.missing is not None:
            self.stdout.write(f"No process has used a breaker yet: {printable(room.missing)}.")
        elif room.shared:
            self.stdout.write(f"Attached: {_crowd(room)}")
            if room.answered_in is not None:
                self.stdout.write(f"Reachable: it answered in {room.answered_in * 1000:.0f} ms")
        for warning in _warnings(room, verbosity):
            self.stdout.write(self.style.WARNING(warning))
        self.stdout.write()

    def _show_table(self, rows: list[BreakerStatus], processes: int, *, wide: bool) -> None:
        head = ["BREAKER", "STATE", "RETRY IN", "FAILURES", "WOULD REJECT", "CALLS/S", "REJECTED/H"]
        head += ["SINCE", "WHY", "WHO"]
        head += ["DECLARED IN"] * wide
        cells = (_cells(row, processes, wide=wide)[: len(head)] for row in rows)
        columns = zip(head, *cells, strict=True)
        padded = [
            [cell.ljust(max(map(len, column))) for cell in column]
            for column in columns
            if any(column[1:])
        ]
        head_line, *lines = ("  ".join(cells).rstrip() for cells in zip(*padded, strict=True))
        self.stdout.write(self.style.MIGRATE_LABEL(head_line))
        colours = {
            CircuitState.CLOSED: self.style.SUCCESS,
            CircuitState.OPEN: self.style.ERROR,
            CircuitState.HALF_OPEN: self.style.WARNING,
        }
        for row, line in zip(rows, lines, strict=True):
            self.stdout.write(colours[row.state](line))


class _Printed:
    """A stream that goes quiet when it cannot be written to, and keeps why."""

    def __init__(self, stream: TextIO | OutputWrapper) -> None:
        self.stream = stream
        self.problem: OSError | None = None

    def write(self, text: str) -> None:
        if self.problem is None:
            try:
                self.stream.write(text)
            except OSError as error:
                self.problem = error

    def flush(self) -> None:
        if self.problem is None:
            try:
                self.stream.flush()
            except OSError as error:
                self.problem = error

    def finish(self) -> OSError | None:
        """Print what is left; returns why it could not be, after which nobody else tries to."""
        self.flush()
        if self.problem is not None:  # else the interpreter would fail at its end
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
        return self.problem


def _common() -> CommandParser:
    """Django's own options, which would not be known after the sub-command (django-pgtrigger)."""
    parser = CommandParser(add_help=False)
    parser.add_argument(
        "-v", "--verbosity", type=int, choices=[0, 1, 2, 3], default=SUPPRESS, help=SUPPRESS
    )
    for option in ("--settings", "--pythonpath"):
        parser.add_argument(option, default=SUPPRESS, help=SUPPRESS)
    for option in ("--traceback", "--no-color", "--force-color"):
        parser.add_argument(option, action="store_true", default=SUPPRESS, help=SUPPRESS)
    return parser


def _steering() -> CommandParser:
    parser = CommandParser(add_help=False)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="every known breaker of the registry")
    parser.add_argument("--registry", metavar="ALIAS", default=DEFAULT_ALIAS)
    parser.add_argument("--reason", default="", metavar="TEXT", help="kept and shown")
    parser.add_argument("--actor", metavar="WHO", help="default: you, at this host")
    parser.add_argument("--force", action="store_true", help="even if no live process hears of it")
    parser.add_argument(
        "--no-input",
        "--noinput",
        action="store_false",
        dest="interactive",
        help="do not ask before --all or a pattern",
    )
    return parser


def _duration(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise CommandError(f"--for {printable(text)}: {error}") from None


def _actor() -> str:
    try:
        name = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        name = f"uid:{os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def _yes(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()  # the question has no end of line yet
        return False


def _crowd(room: ControlRoom) -> str:
    count = len(room.processes)
    if not count:
        return "no live process"
    kinds = Counter(process.kind for process in room.processes)
    listed = ", ".join(f"{number} {printable(kind)}" for kind, number in sorted(kinds.items()))
    return f"{count} live process{'es' * (count > 1)} ({listed})"


def _warnings(room: ControlRoom, verbosity: int) -> Iterator[str]:
    alias = room.registry.config.alias
    if not room.registry.config.enabled:
        yield f"Registry {alias!r} is switched off (ENABLED is False): all calls pass."
    if not room.shared:
        yield (
            f"Registry {alias!r} keeps circuits in each process alone: these are the ones of this "
            "command, and say nothing of any other process."
        )
    if room.differing:
        share = f"{len(room.differing)} of {len(room.processes)} live processes"
        pids = ", ".join(f"{process.host}:{process.pid}" for process in room.differing)
        listed = f" ({printable(pids)})" * (verbosity > 1)
        yield f"Other settings than this command's are in force in {share}{listed}."
    if room.silent:
        yield f"{silence(room.silent)}."
    yield from room.advice


def _said(before: BreakerStatus, after: BreakerStatus, kind: CommandKind) -> str:
    """What a command has brought about, in a sentence or two."""
    name = printable(after.name)
    if kind is CommandKind.RESET:
        already = " (it was already)" if before.state is CircuitState.CLOSED else ""
        return f"{name}: closed{already}."
    already = " (it was open already)" if before.state is CircuitState.OPEN else ""
    if kind is CommandKind.ENABLE:
        already = " (it was in no mode)" if before.mode is Mode.AUTO else ""
        return f"{name}: {_state(after)}{already}."
    if after.mode in (Mode.DISABLED, Mode.METRICS_ONLY):
        if kind is CommandKind.TRIP:
            return (
                f"{name}: {_state(after)} still, since a trip ends no mode: its calls pass. "
                "--hold stops them."
            )
        return f"{name}: {_state(after)}."
    if after.mode is Mode.FORCED_OPEN:
        still = ", since a trip ends no hold" if kind is CommandKind.TRIP else ""
        return f"{name}: {_state(after)}{still or already}."
    return (
        f"{name}: open{already}. It will be tried again in {math.ceil(after.retry_after or 0)} s, "
        "and may then close by itself; --hold or --for keeps it open."
    )


def _state(row: BreakerStatus) -> str:
    words = {
        Mode.AUTO: row.state.replace("_", "-"),
        Mode.FORCED_OPEN: "held open until reset",
        Mode.DISABLED: "disabled",
        Mode.METRICS_ONLY: "metrics only",
    }[row.mode]
    if row.mode_until is None:
        return words
    return f"{words.removesuffix(' until reset')} until {_utc(row.mode_until)}"


def _cells(row: BreakerStatus, processes: int, *, wide: bool) -> list[str]:
    alone = f", open alone in {len(row.alone_in)} of {processes} processes" * bool(row.alone_in)
    cells = (
        row.name,
        _state(row) + alone,
        "" if row.retry_after is None else _length(math.ceil(row.retry_after)),
        _failures(row) * (row.state is CircuitState.CLOSED),
        f"{row.would_reject} calls" * (row.mode is Mode.METRICS_ONLY),
        "" if row.stats is None else _per_second(row.stats.calls_per_second),
        "" if row.stats is None else str(row.stats.last_hour.rejected or ""),
        "" if row.since is None else _ago(row.since) + f" ({_utc(row.since)})" * wide,
        row.reason,
        row.updated_by,
        row.where,
    )
    texts = (printable(cell) for cell in cells)
    return [text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…" for text in texts]


def _as_json(row: BreakerStatus) -> dict[str, Any]:
    return {
        "registry": row.registry,
        "name": row.name,
        "state": row.state,
        "mode": row.mode,
        "mode_until": row.mode_until and f"{row.mode_until:%Y-%m-%dT%H:%M:%SZ}",
        "reason": row.reason or None,
        "updated_by": row.updated_by or None,
        "since": row.since and f"{row.since:%Y-%m-%dT%H:%M:%SZ}",
        "retry_after": row.retry_after,
        "failures": row.failures,
        "would_reject": row.would_reject,
        "failure_rate": row.failure_rate,
        "slow_rate": row.slow_rate,
        "calls_needed": row.calls_needed,
        "calls_per_second": row.stats and row.stats.calls_per_second,
        "last_minute": row.stats and row.stats.last_minute._asdict(),
        "last_hour": row.stats and row.stats.last_hour._asdict(),
        "open_alone_in": [f"{process.host}:{process.pid}" for process in row.alone_in],
        "last_error": row.last_error or None,
        "last_error_message": row.last_message or None,
        "last_error_at": row.last_error_at and f"{row.last_error_at:%Y-%m-%dT%H:%M:%SZ}",
        "family": row.family or None,
    }


def _is_quiet(row: BreakerStatus) -> bool:
    """Whether a breaker by key is like most of its family, of which there may be thousands."""
    is_closed = row.state is CircuitState.CLOSED and row.mode is Mode.AUTO
    return bool(row.family) and is_closed and not row.failures and not row.alone_in


def _failures(row: BreakerStatus) -> str:
    """How near it is to opening, by each rule."""
    policy, parts = row.policy, []
    if policy.failure_threshold is not None:
        parts.append(f"{row.failures} of {policy.failure_threshold}")
    if row.calls_needed:
        parts.append(f"rates need {row.calls_needed} more call{'s' * (row.calls_needed > 1)}")
        return ", ".join(parts)
    if row.failure_rate is not None and policy.failure_rate_threshold is not None:
        parts.append(_share(row.failure_rate, policy.failure_rate_threshold))
    if row.slow_rate is not None:
        parts.append(f"slow {_share(row.slow_rate, policy.slow_call_rate_threshold)}")
    return ", ".join(parts)


def _share(rate: float, threshold: float) -> str:
    """Both in whole percent, but never as much as the threshold where it is less."""
    most = math.floor(100 * rate) if rate < threshold else round(100 * rate)
    return f"{most} of {100 * threshold:.3g} %"


def _per_second(rate: float) -> str:
    if not rate:
        return ""
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}" if rate >= 0.1 else "< 0.1"


def _event_as_line(at: datetime, name: str, event: Event) -> str:
    words = [_utc(at), name, f"{event.before} -> {event.after}"]
    words += [f"[{event.mode}]"] * (event.mode is not Mode.AUTO)
    words.append(event_in_words(event))
    return printable("  ".join(words))


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _ago(moment: datetime) -> str:
    return f"{_length((datetime.now(UTC) - moment).total_seconds())} ago"


def _length(seconds: float) -> str:
    """A duration in its largest fitting unit: ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (seconds >= size and seconds % size == 0):
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
