"""Where the shared files of a host lie, who may use them, and how they are made.

Nothing here follows a link, and nothing depends on the user, the session or ``TMPDIR``:
all processes of a host must find the same place.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import re
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from circuitbreaker_django.backends.store import NoStore

#: The layout of the file; part of its name, so that releases never meet a strange one.
SCHEMA: Final = 1

_NETWORK: Final = re.compile(
    r"nfs|cifs|smb|9p|ceph|afs|gluster|lustre|beegfs|gpfs|ocfs2|gfs2|sshfs|davfs|drvfs|vboxsf"
    r"|vmhgfs|prl_fs|grpcfuse|osxfs|s3fs|gcsfuse|rclone|juicefs"
)


class PlaceError(Exception):
    """The place cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Place:
    """The files of one store.

    Attributes:
        database: the SQLite file; its write-ahead log and index lie beside it.
        ours: whether the folder is of our choice, so that only its owner may use it.
    """

    database: Path
    ours: bool

    @property
    def folder(self) -> Path:
        """The folder that all files of the store lie in."""
        return self.database.parent

    @property
    def bell(self) -> Path:
        """The file with the word that is mapped."""
        return self.database.with_name(self.database.name + "-bell")

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the store."""
        beside = (self.database.with_name(self.database.name + end) for end in ("-wal", "-shm"))
        return (self.database, self.bell, *beside)


def place_for(location: str | None, namespace: str, alias: str) -> Place:
    """The place that a registry's ``LOCATION``, or else its namespace and alias, name."""
    if location is None:
        folder = base_folder() / "circuitbreaker_django" / _as_file_name(namespace)
        return Place(folder / f"{_as_file_name(alias)}.v{SCHEMA}.sqlite3", ours=True)
    path = Path(os.path.abspath(location))
    return Place(path.with_name(f"{path.stem}.v{SCHEMA}{path.suffix or '.sqlite3'}"), ours=False)


def base_folder() -> Path:
    """The folder for temporary files that all users and sessions of the host share."""
    if sys.platform == "darwin":
        return Path("/private/tmp")
    return Path("/dev/shm") if os.path.isdir("/dev/shm") else Path("/tmp")


def prepare_folder(place: Place, *, create: bool) -> os.stat_result:
    """See to it that the folder is there and may be used by this user.

    Raises:
        NoStore: it is not there, and ``create`` is false.
        PlaceError: it may not be used.
    """
    folder = place.folder
    ours = [folder.parent, folder] if place.ours else [folder]
    try:
        for part in ours:
            if create:  # one by one, so that nothing is made behind a link
                _make_folders(part)
            info = os.lstat(part)
            if not stat.S_ISDIR(info.st_mode):
                raise PlaceError(f"{part} is no folder (links are not followed): remove it")
            if place.ours and os.geteuid() not in (0, info.st_uid):
                raise PlaceError(_belongs_to(part, info, removable=True))
    except FileNotFoundError:
        raise NoStore(f"there is no {folder}") from None
    except PermissionError:
        blocked = next(part for part in (folder, *folder.parents) if _can_stat(part))
        raise PlaceError(_belongs_to(blocked, os.lstat(blocked))) from None
    except OSError as error:
        raise PlaceError(f"{folder}: {error.strerror}") from None
    if info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX:
        raise PlaceError(
            f"everybody may replace files in {folder}: set LOCATION to a path in another folder, "
            "or take the right to write to it from others (chmod o-w)"
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=_EFFECTIVE):
        raise PlaceError(_belongs_to(folder, info))
    if kind := network_file_system(folder):
        raise PlaceError(
            f"{folder} is on a network file system ({kind}), where processes cannot share memory: "
            "set LOCATION to a path on a local disk"
        )
    return info


@contextmanager
def locked_folder(place: Place, patience: float, sleep: float = 0.002) -> Iterator[None]:
    """Keep others from making or replacing the files of the store meanwhile.

    Raises:
        PlaceError: another process kept the lock for ``patience`` seconds.
    """
    handle = os.open(place.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise PlaceError(f"another process keeps {place.folder} locked") from None
                time.sleep(sleep)
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # a fork may have the descriptor, and keep it open
        os.close(handle)


def create_file(path: Path, folder: os.stat_result) -> int:
    """Make the file, with the folder's group and mode, and return its descriptor.

    Raises:
        FileExistsError: it is there already, be it as a link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(path, flags, 0o600)
    try:
        os.fchmod(handle, file_mode(folder))
        if os.geteuid() == 0:
            os.fchown(handle, folder.st_uid, folder.st_gid)
        else:
            _take_group(handle, folder)
    except BaseException:
        os.close(handle)
        raise
    return handle


def file_mode(folder: os.stat_result) -> int:
    """The folder's mode without its execute bits; private where everybody may write."""
    return 0o600 if folder.st_mode & stat.S_IWOTH else folder.st_mode & 0o666


def check_files(place: Place, folder: os.stat_result) -> None:
    """Refuse links and, where everybody may make files, those of strangers.

    Raises:
        PlaceError: the message names the file.
    """
    for path in place.files:
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
            raise PlaceError(f"{path} is a link or no plain file: remove it")
        if folder.st_mode & stat.S_IWOTH and info.st_uid != os.geteuid():
            raise PlaceError(_belongs_to(path, info))
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=_EFFECTIVE):
            raise PlaceError(_belongs_to(path, info))


def share_side_files(place: Place, folder: os.stat_result) -> None:
    """Give SQLite's own files beside the database the folder's group.

    Their mode SQLite takes from the database, and for root the owner and group too.
    """
    if os.geteuid() == 0:
        return
    for path in place.files:
        try:
            if os.lstat(path).st_gid != folder.st_gid:
                os.chown(path, -1, folder.st_gid, follow_symlinks=False)
        except OSError:
            continue  # another user's, who does the same


def remove_files(place: Place) -> None:
    """Remove the store; whoever has it open goes on with what he has."""
    for path in place.files:
        path.unlink(missing_ok=True)


def network_file_system(folder: Path) -> str | None:
    """The kind of network file system that the folder is on, if it is on one."""
    best, kind = "", ""
    path = os.path.realpath(folder)
    for mount_point, file_system in mounts():
        inside = path == mount_point or path.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):
            best, kind = mount_point, file_system
    return kind if _NETWORK.search(kind) else None


def mounts() -> Iterator[tuple[str, str]]:
    """Every mount point with the kind of its file system."""
    if sys.platform == "darwin":
        listing = subprocess.run(["/sbin/mount"], capture_output=True, text=True, check=False)
        yield from re.findall(r"^.+? on (/.*?) \((\w+)", listing.stdout, re.MULTILINE)
        return
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        found = re.match(r"(?:\S+ ){4}(\S+) .*? - (\S+)", line)
        if found:
            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), found[1])
            yield point, found[2]


_EFFECTIVE: Final = os.access in os.supports_effective_ids


def _make_folders(folder: Path) -> None:
    """Make what is missing of the path: private, and the owner's of what was there."""
    missing = [part for part in (folder, *folder.parents) if not os.path.lexists(part)]
    for part in reversed(missing):
        try:
            os.mkdir(part, 0o700)
        except FileExistsError:
            continue  # another process was faster
        above = os.stat(part.parent)
        if os.geteuid() == 0 and not above.st_mode & stat.S_IWOTH:
            # Not by path: it may be another's by now.
            handle = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchown(handle, above.st_uid, above.st_gid)
            finally:
                os.close(handle)


def _as_file_name(name: str) -> str:
    """A name that can leave no folder, and that is another one for every other name."""
    safe = re.sub(r"[^A-Za-z0-9_-]", lambda char: f"%{ord(char[0]):x}.", name) or "%"
    if len(safe) <= 100:
        return safe
    return f"{safe[:60]}%{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _take_group(handle: int, folder: os.stat_result) -> None:
    if os.fstat(handle).st_gid != folder.st_gid:
        try:
            os.fchown(handle, -1, folder.st_gid)
        except PermissionError:
            pass  # not in that group: the folder's owner has chosen so


def _can_stat(path: Path) -> bool:
    try:
        os.lstat(path)
    except OSError:
        return False
    return True


def _belongs_to(path: Path, info: os.stat_result, *, removable: bool = False) -> str:
    owner, me = _user(info.st_uid), _user(os.geteuid())
    if info.st_uid == os.geteuid():
        return f"{path} cannot be written to by {me}: check its mode, and how its disk is mounted"
    remedies = ["set LOCATION to a path in a folder that both may write to"]
    if removable:
        remedies.insert(0, f"remove it as {owner}, if no process of that user needs it")
    if sys.argv[1:2] == ["breaker"]:  # of a server it would be no remedy, least of all as root
        user = shlex.quote(owner.replace("uid ", "#"))
        command = shlex.join([sys.executable, *sys.argv])
        remedies.insert(0, f"run it as that user (sudo -u {user} {command})")
    return f"{path} belongs to {owner} and this process runs as {me}: {', or '.join(remedies)}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
