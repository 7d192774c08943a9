"""The doorbell: one mapped word beside the database, different after every change (rules 24, 26).

A writer makes it *dirty* (negative) under the write lock and before COMMIT, and clean with a
new value after it. A reader that sees it dirty reads the database at every call.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from circuitbreaker_django.backends.place import create_file

if TYPE_CHECKING:
    Word = memoryview[float]

SIZE = mmap.PAGESIZE

_WORD = struct.Struct("=d")


def fresh_word() -> float:
    """A clean word that was never used before: a positive double with 52 random bits."""
    return float(secrets.randbits(52) + 1)


def is_clean(word: float) -> bool:
    """Whether no writer is at work, or was killed at it. What is no number is not clean."""
    return word > 0


def open_bell(path: Path, folder: os.stat_result) -> tuple[Word, tuple[int, int]]:
    """Map the word, making the file if there is none of the right size.

    Returns:
        The word, read as ``word[()]``, and the file's device and inode.
    """
    handle = _open_whole(path)
    if handle is None:
        path.unlink(missing_ok=True)
        handle = create_file(path, folder)
        image = _WORD.pack(fresh_word()).ljust(SIZE, b"\0")
    else:
        image = bytes(SIZE - _WORD.size)
    try:
        # All blocks are written before anybody maps them, also the holes that a sparse copy has:
        # a full disk shows here as an error, and not later as a signal that kills.
        if os.pwrite(handle, image, SIZE - len(image)) < len(image):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        info = os.fstat(handle)
        mapped = mmap.mmap(handle, SIZE)
    finally:
        os.close(handle)
    word = memoryview(mapped)[:8].cast("d", shape=[])
    return word, (info.st_dev, info.st_ino)


def _open_whole(path: Path) -> int | None:
    """The file's descriptor, unless it is missing or truncated: mapping that would be fatal."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if os.fstat(handle).st_size >= SIZE:
        return handle
    os.close(handle)
    return None
