"""``manage.py breaker``: look at the circuits of running processes, and steer them."""

from __future__ import annotations

import io
import json
import os
import shlex
import socket
import sys
import traceback
from collections import Counter
from contextlib import ExitStack, closing
from typing import Any, TextIO, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    OutputWrapper,
    no_translations,
)

from circuitbreaker_django.core.announce import printable
from circuitbreaker_django.core.circuit import MODES, CommandKind
from circuitbreaker_django.core.errors import CircuitBackendError, CircuitBreakerError
from circuitbreaker_django.core.states import CircuitState
from circuitbreaker_django.management import arguments, asking, words
from circuitbreaker_django.management.printing import Printed
from circuitbreaker_django.management.table import is_quiet, table, urgency
from circuitbreaker_django.operations.as_data import event_as_data, status_as_data
from circuitbreaker_django.operations.catalogue import choose
from circuitbreaker_django.operations.room import ControlRoom, silence
from circuitbreaker_django.operations.status import BreakerStatus
from circuitbreaker_django.project import registries


class Command(BaseCommand):
    """The command and its sub-commands."""

    help = "Show and steer the circuits of the running processes."
    # An operator in need is not to be stopped by a check of something else.
    requires_system_checks: list[str] = []  # noqa: RUF012 - the base class has it so
    #: Whether an order was given, which nothing that comes later may deny.
    applied = False

    def __init__(
        self,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        no_color: bool = False,
        force_color: bool = False,
    ) -> None:
        """In colours, unless ``NO_COLOR`` is set: Django does not look at it."""
        if os.environ.get("NO_COLOR") and not force_color:
            no_color = True
        super().__init__(stdout, stderr, no_color, force_color)

    def add_arguments(self, parser: CommandParser) -> None:
        """One parser for each sub-command."""
        arguments.add_to(parser)

    def run_from_argv(self, argv: list[str]) -> None:
        """A traceback too ends with exit code 2: 1 would say that a circuit is open.

        That nobody can read what is printed undoes nothing, so it does not change what a command
        that was applied ends with.
        """
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        printed = Printed(self.stdout)
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
            raise CommandError(words.problem(error), returncode=2) from error

    @no_translations  # what it says in the dashboard's words is to be English too
    def handle(self, *args: Any, command: str, **options: Any) -> None:
        """Leave it to the sub-command."""
        if command == "status":
            self.status(**options)
        elif command == "history":
            self.history(**options)
        else:
            self.steer(arguments.KINDS[command], **options)

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
            rooms, problems = [], []
            for alias in aliases:
                try:
                    rooms.append(stack.enter_context(closing(ControlRoom(registries[alias]))))
                except CircuitBackendError as error:
                    problems.append(error)
            if not rooms:
                raise problems[0]
            for problem in problems:
                self.stderr.write(words.problem(problem), self.style.ERROR)
            aliases = [room.registry.config.alias for room in rooms]
            known = sorted({name for room in rooms for name in room.known.names(names)})
            where = " or ".join(f"registry {alias!r}" for alias in aliases)
            chosen = set(choose(names, known, where) or known)
            shown = [
                room.status(name for name in room.known.names(names) if name in chosen)
                for room in rooms
            ]
            rows = [row for part in shown for row in part]
            if format == "json":
                self.stdout.write(json.dumps([status_as_data(row) for row in rows], indent=2))
                for room, part in zip(rooms, shown, strict=True):
                    for warning in words.warnings(room, part, verbosity):
                        self.stderr.write(warning, self.style.WARNING)
            else:
                for room, part in zip(rooms, shown, strict=True):
                    self._show(room, part, verbosity, brief=not names)
        if problems:
            raise CommandError("not all registries could be seen")
        if fail_on_open and any(row.state is CircuitState.OPEN for row in rows):
            sys.exit(1)

    def history(
        self, names: list[str], registry: str, limit: int, format: str, **options: Any
    ) -> None:
        """Show what has happened."""
        if limit < 1:
            raise CommandError(f"--limit {limit}: give a number of at least 1")
        with closing(ControlRoom(registries[registry])) as room:
            found = room.history(room.known.choose(names) if names else [], limit)
            if format == "json":
                lines = [event_as_data(registry, *entry) for entry in found]
                self.stdout.write(json.dumps(lines, indent=2))
                return
            for entry in found:
                self.stdout.write(words.event(*entry))
            if not found:
                self.stdout.write("Nothing has happened yet.")

    def steer(
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
        hold: bool = False,
        **options: Any,
    ) -> None:
        """Give an order."""
        duration = arguments.duration_of(options.get("for"))
        if kind is CommandKind.TRIP and (hold or duration is not None):
            kind = CommandKind.HOLD
        if bool(names) == all:
            raise CommandError("give the names of breakers, or --all")
        try:
            entered = ControlRoom(registries[registry])
        except CircuitBackendError as error:
            raise CommandError(f"nothing was done: {words.problem(error)}") from error
        with closing(entered) as room:
            chosen, known = room.known.choose(names), set(room.known.names())
            room.refuse_in_vain(force=force)
            # By a pattern or by none there may be more of them than whoever asks believes.
            unnamed = len(chosen) > 1 and not set(chosen) <= set(names)
            if unnamed and interactive and not asking.is_meant(kind, len(chosen)):
                raise CommandError("nothing was done")
            before = room.status(chosen)
            after = room.order(
                chosen,
                kind,
                duration=duration,
                actor=actor or asking.who(),
                reason=reason,
                force=force,
            )
            self.applied = True
            if verbosity:
                for was, row in zip(before, after, strict=True):
                    self.stdout.write(words.said(was, row, kind))
                for name in sorted({*chosen} - known):
                    self.stdout.write(
                        self.style.WARNING(f"No process has told of {printable(name)} yet.")
                    )
                self.stdout.write(
                    f"Written to {printable(room.place)} on {socket.gethostname()}; "
                    f"it reaches {words.crowd(room)}."
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
        shown, quiet = [], Counter[str]()
        for row in rows:
            if brief and row.name not in named and is_quiet(row):
                quiet[row.family] += 1
            else:
                shown.append(row)
        if shown:
            self._show_table(sorted(shown, key=urgency), len(room.processes), wide=verbosity > 1)
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
            self.stdout.write(f"Attached: {words.crowd(room)}")
            if room.answered_in is not None:
                self.stdout.write(f"Reachable: it answered in {room.answered_in * 1000:.0f} ms")
        for warning in words.warnings(room, rows, verbosity):
            self.stdout.write(self.style.WARNING(warning))
        self.stdout.write()

    def _show_table(self, rows: list[BreakerStatus], processes: int, *, wide: bool) -> None:
        head, *lines = table(rows, processes, wide=wide)
        self.stdout.write(self.style.MIGRATE_LABEL(head))
        colours = {
            CircuitState.CLOSED: self.style.SUCCESS,
            CircuitState.OPEN: self.style.ERROR,
            CircuitState.HALF_OPEN: self.style.WARNING,
        }
        for row, line in zip(rows, lines, strict=True):
            self.stdout.write(colours[row.state](line))
