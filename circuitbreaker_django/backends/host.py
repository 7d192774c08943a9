"""Which boot of which host this is, and what kind of process."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

_KINDS = ("gunicorn", "uwsgi", "uvicorn", "hypercorn", "daphne", "granian", "celery", "mod_wsgi")


@functools.cache
def boot_identity() -> str:
    """The time for which the monotonic clock is one: a boot, in one time namespace (rule 4)."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        except OSError:
            found = ""
        return found.strip() or "unknown"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        boot = "unknown"
    try:
        namespace = os.readlink("/proc/self/ns/time")
    except OSError:
        namespace = ""
    return f"{boot} {namespace}".strip()


@functools.cache
def pid_space() -> str:
    """Where pids are unique: a host, or a container on it."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return host_name()


def is_running(pid: int) -> bool:
    """Whether there is a process of this pid in this process's pid space."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or no pid at all
        return True
    return True


def host_name() -> str:
    """The host's name, as people know it."""
    return socket.gethostname()


def may_run_threads() -> bool:
    """Whether this process may have threads that stay.

    The one that uWSGI forks its workers from may not, for it forks without the interpreter's
    lock: where a thread has that just then, the worker waits for it for ever. It may later, where
    it becomes a worker itself (no ``--master``). What is no worker, but a mule or the spooler,
    forks nothing. A module of that name that has no number of the worker is not uWSGI's.
    """
    uwsgi = sys.modules.get("uwsgi")
    worker, *others = (
        getattr(uwsgi, question, lambda: None)()
        for question in ("worker_id", "mule_id", "i_am_the_spooler")
    )
    return not isinstance(worker, int) or worker > 0 or any(others)


def process_kind() -> str:
    """What kind of process this is: the server's name, ``runserver``, or a command's name."""
    arguments = sys.argv or [""]
    program = os.path.basename(arguments[0]) or "python"
    if program == "__main__.py":
        program = os.path.basename(os.path.dirname(arguments[0]))
    for kind in _KINDS:
        if program.startswith(kind) or (kind == "uwsgi" and kind in sys.modules):
            return kind
    if program in ("manage.py", "django-admin", "django") and len(arguments) > 1:
        return arguments[1]
    return program
