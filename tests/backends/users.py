"""Doing something as another user of the host, in a child process; for tests that run as root."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")

ANN, BOB, TEAM = 40001, 40002, 40100


def as_user(uid: int, func: Callable[[], object], *, groups: tuple[int, ...] = ()) -> str:
    """What ``func`` returned as text, or the class and text of what it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
            os.umask(0o022)
            try:
                answer = str(func())
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
                if os.environ.get("CB_DEBUG"):
                    traceback.print_exc()
            os.write(writer, answer.encode())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)  # no exit handlers, nor a report of coverage
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def modes(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Mode, owner and group of every file in the folder, by the end of its name."""
    found = {}
    for path in sorted(folder.iterdir()):
        info = path.lstat()
        end = path.name.rpartition("sqlite3")[2]
        found[end] = (oct(stat.S_IMODE(info.st_mode)), info.st_uid, info.st_gid)
    return found
