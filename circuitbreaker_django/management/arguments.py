"""The sub-commands of ``manage.py breaker``, and what each of them takes."""

from __future__ import annotations

from argparse import SUPPRESS
from typing import Final

from django.core.management.base import CommandError, CommandParser

from circuitbreaker_django.conf import DEFAULT_ALIAS
from circuitbreaker_django.core.announce import printable
from circuitbreaker_django.core.circuit import CommandKind
from circuitbreaker_django.operations.duration import parse_duration

#: The sub-commands that steer.
KINDS: Final = {
    "trip": CommandKind.TRIP,
    "disable": CommandKind.DISABLE,
    "metrics-only": CommandKind.METRICS_ONLY,
    "enable": CommandKind.ENABLE,
    "reset": CommandKind.RESET,
}
_MODES: Final = {
    "disable": "let all calls pass and count nothing",
    "metrics-only": "let all calls pass, and count what it saves",
}


def add_to(parser: CommandParser) -> None:
    """One parser for each sub-command."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser("status", parents=[_common()], help="show circuits")
    status.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    status.add_argument("--registry", metavar="ALIAS", help="default: all registries")
    status.add_argument("--format", choices=["text", "json"], default="text")
    status.add_argument(
        "--fail-on-open", action="store_true", help="exit with 1 if one is open or held open"
    )

    steering = [_common(), _steering()]
    trip = commands.add_parser("trip", parents=steering, help="open circuits, for every process")
    kinds = trip.add_mutually_exclusive_group()
    kinds.add_argument("--hold", action="store_true", help="until `breaker reset`")
    kinds.add_argument("--for", metavar="DURATION", help="90s, 10m, 2h or 1h30m")

    for name, words in _MODES.items():
        mode = commands.add_parser(name, parents=steering, help=words)
        mode.add_argument(
            "--for", metavar="DURATION", help="90s, 10m, 2h or 1h30m; default: until `enable`"
        )
    commands.add_parser("enable", parents=steering, help="end a mode and keep what was counted")
    commands.add_parser("reset", parents=steering, help="close circuits, for every process")

    history = commands.add_parser("history", parents=[_common()], help="show what has happened")
    history.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    history.add_argument("--registry", metavar="ALIAS", default=DEFAULT_ALIAS)
    history.add_argument("--limit", type=int, default=20, metavar="N", help="default: 20")
    history.add_argument("--format", choices=["text", "json"], default="text")


def duration_of(length: object) -> int | None:
    """Microseconds of ``--for``, if it is given."""
    if length is None:
        return None
    text = str(length)
    try:
        return parse_duration(text)
    except ValueError as error:
        raise CommandError(f"--for {printable(text)}: {error}") from None


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
