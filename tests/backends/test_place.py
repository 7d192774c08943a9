from __future__ import annotations

import errno
import os
import pwd
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from circuitbreaker_django.backends import place
from circuitbreaker_django.backends.place import (
    PlaceError,
    check_files,
    create_file,
    locked_folder,
    network_file_system,
    place_for,
    prepare_folder,
    share_side_files,
)
from circuitbreaker_django.backends.store import NoStore
from tests.backends.users import ANN, BOB, TEAM, as_user, common, needs_root

__all__ = ["common"]


@pytest.fixture
def base(tmp_path, monkeypatch):
    """What all users of the host share, in the tests."""
    monkeypatch.setattr(place, "base_folder", lambda: tmp_path)
    return tmp_path


# -- names -----------------------------------------------------------------------------------


def test_the_default_place_depends_on_namespace_and_alias_alone(base, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/elsewhere")
    found = place_for(None, "shop", "default")
    assert found.database == base / "circuitbreaker_django" / "shop" / "default.v1.sqlite3"
    assert found.ours


@pytest.mark.parametrize(
    "hostile",
    ["../x", "..", ".", "", "/etc/passwd", "a/b", "a\0b", "a\nb", "x" * 5000, "ä" * 300, "\udc80"],
)
def test_no_name_leaves_the_folder(base, hostile):
    for found in (place_for(None, hostile, "default"), place_for(None, "shop", hostile)):
        inside = found.database.relative_to(base / "circuitbreaker_django")
        assert len(inside.parts) == 2
        assert all(part not in ("", ".", "..") and len(part) < 130 for part in inside.parts)
        assert str(inside).isascii()
        assert str(inside).isprintable()


def test_names_that_differ_have_places_that_differ(base):
    names = ["shop", "shop.a", "shop/a", "shop%2e.a", "", "%", "x" * 200 + "1", "x" * 200 + "2"]
    assert len({place_for(None, name, "default").database for name in names}) == len(names)


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("breakers.sqlite3", "breakers.v1.sqlite3"),
        ("breakers.db", "breakers.v1.db"),
        ("breakers", "breakers.v1.sqlite3"),
    ],
)
def test_a_location_gets_the_version_of_the_schema(tmp_path, location, name):
    found = place_for(str(tmp_path / location), "shop", "default")
    assert found.database == tmp_path / name
    assert found.folder == tmp_path
    assert not found.ours


def test_a_location_is_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert place_for("a/../b.db", "shop", "default").database == tmp_path / "b.v1.db"


@pytest.mark.parametrize(
    ("platform", "memory", "folder"),
    [
        ("darwin", True, "/private/tmp"),
        ("linux", True, "/dev/shm"),
        ("linux", False, "/tmp"),
    ],
)
def test_the_base_is_of_the_system(monkeypatch, platform, memory, folder):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os.path, "isdir", lambda path: memory)
    assert place.base_folder() == Path(folder)


# -- folders ---------------------------------------------------------------------------------


def test_folders_that_we_make_are_private(base):
    os.umask(os.umask(0))
    prepare_folder(place_for(None, "shop", "default"), create=True)
    for folder in (base / "circuitbreaker_django", base / "circuitbreaker_django" / "shop"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_is_there_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o2775)
    prepare_folder(place_for(str(tmp_path / "x.db"), "shop", "default"), create=True)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o2775


def test_nothing_is_made_unless_asked(base):
    with pytest.raises(NoStore):
        prepare_folder(place_for(None, "shop", "default"), create=False)
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("level", ["circuitbreaker_django", "circuitbreaker_django/shop"])
@pytest.mark.parametrize("target", ["there", "missing"])
def test_a_link_at_any_level_of_our_folders_is_refused(base, level, target):
    (base / "there").mkdir()
    link = base / level
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(base / target)
    with pytest.raises(PlaceError, match="links are not followed"):
        prepare_folder(place_for(None, "shop", "default"), create=True)
    assert list((base / "there").iterdir()) == []


def test_a_link_to_the_folder_of_a_location_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PlaceError, match="links are not followed"):
        prepare_folder(place_for(str(tmp_path / "link" / "x.db"), "a", "b"), create=True)


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PlaceError, match="no folder"):
        prepare_folder(place_for(str(tmp_path / "file" / "x.db"), "a", "b"), create=True)
    with pytest.raises(PlaceError, match="Not a directory"):
        prepare_folder(place_for(str(tmp_path / "file" / "a" / "x.db"), "a", "b"), create=True)


def test_a_folder_where_everybody_may_replace_files_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(PlaceError, match="everybody may replace"):
        prepare_folder(place_for(str(tmp_path / "x.db"), "a", "b"), create=True)
    tmp_path.chmod(0o1777)
    prepare_folder(place_for(str(tmp_path / "x.db"), "a", "b"), create=True)


def test_two_processes_make_the_folder_at_once(base, monkeypatch):
    made = os.mkdir

    def faster(path, mode):
        made(path, mode)
        made(path, mode)

    monkeypatch.setattr(os, "mkdir", faster)
    prepare_folder(place_for(None, "shop", "default"), create=True)
    assert (base / "circuitbreaker_django" / "shop").is_dir()


def test_a_folder_that_may_not_be_used_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args, **kwargs: False)
    with pytest.raises(PlaceError, match="check its mode, and how its disk is mounted"):
        prepare_folder(place_for(str(tmp_path / "x.db"), "a", "b"), create=True)


# -- users -----------------------------------------------------------------------------------


@needs_root
def test_another_users_store_is_refused_with_the_owner_and_the_command_line(common, monkeypatch):
    monkeypatch.setattr(place, "base_folder", lambda: common)
    monkeypatch.setattr(sys, "argv", ["manage.py", "breaker", "trip", "two words"])
    common.chmod(0o1777)
    where = place_for(None, "shop", "default")
    assert "stat_result" in as_user(ANN, lambda: prepare_folder(where, create=True))
    message = as_user(BOB, lambda: prepare_folder(where, create=True))
    assert message.startswith("PlaceError")
    assert f"belongs to uid {ANN} and this process runs as uid {BOB}" in message
    assert f"sudo -u '#{ANN}' {sys.executable} manage.py breaker trip 'two words'" in message


@needs_root
@pytest.mark.parametrize("argv", [["gunicorn", "shop.wsgi"], ["manage.py", "runserver"], [""]])
def test_a_server_is_never_told_to_run_as_another_user(common, monkeypatch, argv):
    monkeypatch.setattr(place, "base_folder", lambda: common)
    monkeypatch.setattr(sys, "argv", argv)
    common.chmod(0o1777)
    where = place_for(None, "shop", "default")
    prepare_folder(where, create=True)
    assert as_user(BOB, lambda: prepare_folder(where, create=True)) == (
        f"PlaceError: {where.folder.parent} belongs to root and this process runs as uid {BOB}: "
        "remove it as root, if no process of that user needs it, "
        "or set LOCATION to a path in a folder that both may write to"
    )


@needs_root
def test_a_folder_of_the_projects_choice_is_never_to_be_removed(common):
    where = place_for(str(common / "new" / "x.db"), "a", "b")
    assert "remove" not in as_user(ANN, lambda: prepare_folder(where, create=True))


@needs_root
def test_root_joins_and_what_it_makes_is_the_owners(common):
    os.chown(common, ANN, TEAM)
    where = place_for(str(common / "deeper" / "still" / "x.db"), "a", "b")
    prepare_folder(where, create=True)
    for folder in (common / "deeper", common / "deeper" / "still"):
        assert (folder.stat().st_uid, folder.stat().st_gid) == (ANN, TEAM)
    assert "stat_result" in as_user(ANN, lambda: prepare_folder(where, create=True))


@needs_root
def test_a_folder_that_cannot_be_made_says_whose_the_place_is(common):
    where = place_for(str(common / "new" / "x.db"), "a", "b")
    message = as_user(ANN, lambda: prepare_folder(where, create=True))
    assert message.startswith(f"PlaceError: {common} belongs to root")


@needs_root
def test_a_folder_out_of_sight_says_who_blocks_it(common):
    (common / "private").mkdir(0o700)
    where = place_for(str(common / "private" / "in" / "x.db"), "a", "b")
    message = as_user(ANN, lambda: prepare_folder(where, create=True))
    assert message.startswith(f"PlaceError: {common / 'private'} belongs to root")


def test_users_without_a_name_are_numbers(monkeypatch, tmp_path):
    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(os, "geteuid", lambda: 1234567)
    with pytest.raises(PlaceError, match=r"belongs to uid 0 and .* runs as uid 1234567: remove it"):
        prepare_folder(place.Place(tmp_path / "x.db", ours=True), create=True)


# -- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "file"), [(0o700, 0o600), (0o770, 0o660), (0o2775, 0o664), (0o1777, 0o600)]
)
def test_a_file_takes_the_mode_of_the_folder(tmp_path, folder, file):
    tmp_path.chmod(folder)
    os.close(create_file(tmp_path / "file", tmp_path.stat()))
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == file


def test_a_file_is_never_made_where_something_is(tmp_path):
    (tmp_path / "file").symlink_to(tmp_path / "missing")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "file", tmp_path.stat())


def test_a_file_that_cannot_be_given_its_mode_is_not_left_open(tmp_path, monkeypatch):
    def fails(handle, mode):
        raise OSError(errno.EPERM, "no")

    closed = []
    close = os.close
    monkeypatch.setattr(os, "fchmod", fails)

    def closing(handle):
        closed.append(handle)
        close(handle)

    monkeypatch.setattr(os, "close", closing)
    with pytest.raises(OSError, match="no"):
        create_file(tmp_path / "file", tmp_path.stat())
    assert len(closed) == 1


@needs_root
def test_a_file_takes_the_group_of_the_folder_if_it_may(common):
    os.chown(common, 0, TEAM)
    common.chmod(0o770)

    def create(name):
        os.close(create_file(common / name, common.stat()))
        return (common / name).stat().st_gid

    assert as_user(ANN, lambda: create("a"), groups=(TEAM,)) == str(TEAM)
    os.chown(common, BOB, TEAM)
    assert create("b") == TEAM
    assert (common / "b").stat().st_uid == BOB
    common.chmod(0o1777)
    assert as_user(ANN, lambda: create("c")) == str(ANN)


@pytest.fixture
def store(tmp_path):
    found = place_for(str(tmp_path / "x.db"), "a", "b")
    for path in found.files:
        path.touch()
    return found


def test_plain_files_are_accepted_and_missing_ones_too(store):
    check_files(store, store.folder.stat())
    store.bell.unlink()
    check_files(store, store.folder.stat())


@pytest.mark.parametrize("number", range(4))
def test_a_link_in_place_of_any_file_is_refused(store, number, tmp_path):
    path = store.files[number]
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(PlaceError, match=f"{path} is a link"):
        check_files(store, store.folder.stat())
    path.unlink()
    os.link(tmp_path / "moved", path)
    with pytest.raises(PlaceError, match=f"{path} is a link"):
        check_files(store, store.folder.stat())


def test_a_pipe_in_place_of_a_file_is_refused(store):
    store.bell.unlink()
    os.mkfifo(store.bell)
    with pytest.raises(PlaceError, match="no plain file"):
        check_files(store, store.folder.stat())


def test_a_file_that_may_not_be_written_is_refused(store, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args, **kwargs: False)
    with pytest.raises(PlaceError, match="cannot be written"):
        check_files(store, store.folder.stat())


@needs_root
def test_a_strangers_file_is_refused_where_everybody_may_make_some(store, tmp_path):
    tmp_path.chmod(0o1777)
    check_files(store, tmp_path.stat())
    os.chown(store.database, ANN, ANN)
    with pytest.raises(PlaceError, match=f"belongs to uid {ANN}"):
        check_files(store, tmp_path.stat())


@needs_root
def test_side_files_get_the_group_of_the_folder_from_their_owner(common):
    os.chown(common, 0, TEAM)
    common.chmod(0o770)
    found = place_for(str(common / "x.db"), "a", "b")

    def share():
        for path in found.files[1:]:
            path.touch()
        share_side_files(found, common.stat())
        return [path.stat().st_gid for path in found.files[1:]]

    assert as_user(ANN, share, groups=(TEAM,)) == str([TEAM] * 3)
    os.chown(found.bell, 0, 0)
    found.bell.chmod(0o666)
    assert as_user(ANN, share, groups=(TEAM,)) == str([0, TEAM, TEAM])


@needs_root
def test_root_changes_no_side_file_by_its_path(store, monkeypatch):
    monkeypatch.setattr(os, "chown", lambda *args, **kwargs: pytest.fail("by path"))
    os.lchown(store.folder, ANN, TEAM)
    share_side_files(store, store.folder.stat())


def test_the_lock_of_the_folder_is_waited_for_and_not_for_ever(store):
    with (
        locked_folder(store, 0),
        pytest.raises(PlaceError, match=r"keeps .* locked"),
        locked_folder(store, 0.01),
    ):
        pytest.fail("both have it")
    entered = threading.Event()
    with locked_folder(store, 0):
        thread = threading.Thread(target=_enter, args=(store, entered))
        thread.start()
        assert not entered.is_set()
    thread.join(10)
    assert entered.is_set()


def _enter(store, entered):
    with locked_folder(store, 10):
        entered.set()


# -- file systems ----------------------------------------------------------------------------

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
23 22 0:21 / /dev/shm rw,nosuid - tmpfs tmpfs rw
24 22 0:30 / /srv/net rw,relatime shared:2 master:3 - nfs4 server:/x rw
25 24 0:31 / /srv/net/local rw - xfs /dev/sdb rw
26 22 0:32 / /srv/with\040space rw - fuse.sshfs me@host: rw
27 22 0:33 / /auto rw - autofs systemd-1 rw
28 27 0:34 / /auto rw - cifs //server/share rw
garbage
29 22
"""


@pytest.fixture
def mounted(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "read_text", lambda self, **kwargs: MOUNTS)


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/net/a", "nfs4"),
        ("/srv/net", "nfs4"),
        ("/srv/net/local/a", None),
        ("/srv/network", None),
        ("/srv/with space", "fuse.sshfs"),
        ("/auto", "cifs"),
        ("/dev/shm/x", None),
        ("/", None),
    ],
)
def test_network_file_systems_are_known(mounted, folder, kind):
    assert network_file_system(Path(folder)) == kind


def test_a_place_on_a_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "network_file_system", lambda folder: "nfs4")
    with pytest.raises(PlaceError, match=r"network file system \(nfs4\).*set LOCATION"):
        prepare_folder(place_for(str(tmp_path / "x.db"), "a", "b"), create=True)


def test_without_a_list_of_mounts_nothing_is_refused(monkeypatch):
    def missing(self, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "read_text", missing)
    assert network_file_system(Path("/srv")) is None


def test_mounts_of_macos_are_asked_for(monkeypatch):
    listing = (
        "/dev/disk1 on / (apfs, local)\nmap auto on /System (autofs)\n//s/x on /v (smbfs, n)\n"
    )
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kw: SimpleNamespace(stdout=listing))
    assert network_file_system(Path("/v/a")) == "smbfs"
    assert network_file_system(Path("/usr")) is None


# -- the same, as far as one user can see ----------------------------------------------------


@pytest.fixture
def nobody(monkeypatch):
    """As if this process was not root's, but for what it may do."""
    monkeypatch.setattr(os, "geteuid", lambda: os.stat("/").st_uid + 54321)


@pytest.fixture
def root(monkeypatch):
    """As if this process was root's; what it gives away is remembered, and not done."""
    given = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda handle, *owner: given.append(owner))
    return given


def other_group(info):
    """The folder, as if it was of another group."""
    return SimpleNamespace(st_mode=info.st_mode, st_uid=info.st_uid, st_gid=info.st_gid + 1)


def test_a_user_gives_a_file_the_group_of_the_folder(nobody, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(os, "fchown", lambda handle, *owner: given.append(owner))
    os.close(create_file(tmp_path / "same", tmp_path.stat()))
    os.close(create_file(tmp_path / "other", other_group(tmp_path.stat())))
    assert given == [(-1, tmp_path.stat().st_gid + 1)]


def test_a_user_who_is_not_in_the_group_keeps_the_file(nobody, tmp_path, monkeypatch):
    def refuse(handle, *owner):
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    os.close(create_file(tmp_path / "file", other_group(tmp_path.stat())))
    assert (tmp_path / "file").exists()


def test_root_gives_what_it_makes_to_the_owner_of_the_folder(root, tmp_path):
    info = tmp_path.stat()
    os.close(create_file(tmp_path / "file", info))
    prepare_folder(place_for(str(tmp_path / "new" / "x.db"), "a", "b"), create=True)
    assert root == [(info.st_uid, info.st_gid)] * 2
    tmp_path.chmod(0o1777)
    prepare_folder(place_for(str(tmp_path / "other" / "x.db"), "a", "b"), create=True)
    assert len(root) == 2


def test_side_files_are_shared_by_a_user_and_not_by_root(store, monkeypatch):
    given = []
    monkeypatch.setattr(
        os, "chown", lambda path, *owner, follow_symlinks: given.append((path, owner))
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    share_side_files(store, other_group(store.folder.stat()))
    assert given == []
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    store.bell.unlink()
    share_side_files(store, store.folder.stat())
    assert given == []
    group = store.folder.stat().st_gid + 1
    share_side_files(store, other_group(store.folder.stat()))
    assert given == [(path, (-1, group)) for path in store.files if path != store.bell]


def test_a_folder_out_of_reach_says_whose_it_is(tmp_path, monkeypatch):
    lstat = os.lstat

    def refuse(path):
        if "private" in str(path):
            raise PermissionError
        return lstat(path)

    monkeypatch.setattr(os, "lstat", refuse)
    where = place_for(str(tmp_path / "private" / "x.db"), "a", "b")
    with pytest.raises(PlaceError, match=f"^{tmp_path} "):
        prepare_folder(where, create=False)


def test_a_strangers_file_is_no_file_for_all(nobody, store, tmp_path):
    tmp_path.chmod(0o1777)
    with pytest.raises(PlaceError, match="belongs to"):
        check_files(store, tmp_path.stat())


def test_only_the_command_is_told_to_run_as_the_owner(monkeypatch):
    stranger = os.stat_result((0o700, 0, 0, 1, 54321, 0, 0, 0, 0, 0))
    monkeypatch.setattr(sys, "argv", ["manage.py", "breaker", "status"])
    remedy = f"sudo -u '#54321' {sys.executable} manage.py breaker status"
    assert remedy in place._belongs_to(Path("/store"), stranger)
    monkeypatch.setattr(sys, "argv", ["gunicorn", "shop.wsgi"])
    assert "sudo" not in place._belongs_to(Path("/store"), stranger)
