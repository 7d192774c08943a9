from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest

from circuitbreaker_django.backends.doorbell import SIZE, fresh_word, is_clean, open_bell


@pytest.fixture
def folder(tmp_path):
    return tmp_path.stat()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bell"


def test_words_are_clean_and_never_the_same():
    words = {fresh_word() for _ in range(1000)}
    assert len(words) == 1000
    assert all(is_clean(word) and word == int(word) for word in words)


@pytest.mark.parametrize("word", [-1.0, 0.0, -math.inf, math.nan])
def test_what_is_not_positive_is_dirty(word):
    assert not is_clean(word)


def test_two_mappings_are_one_word(path, folder):
    first, inode = open_bell(path, folder)
    second, same = open_bell(path, folder)
    assert inode == same == (path.stat().st_dev, path.stat().st_ino)
    assert is_clean(first[()])
    first[()] = -7.0
    assert second[()] == -7.0


def test_its_blocks_are_written_before_it_is_mapped(path, folder):
    open_bell(path, folder)
    assert path.stat().st_size == SIZE
    assert path.stat().st_blocks > 0


def test_the_holes_of_a_sparse_copy_are_filled_and_the_word_is_kept(path, folder):
    path.write_bytes(b"")
    os.truncate(path, SIZE)
    word, _ = open_bell(path, folder)
    assert word[()] == 0.0
    assert path.stat().st_blocks * 512 >= SIZE


@pytest.mark.parametrize("content", [b"", b"torn"])
def test_a_truncated_bell_is_replaced_and_not_extended(path, folder, content):
    path.write_bytes(content)
    before = path.stat().st_ino
    os.link(path, path.with_name("kept"))  # so that its inode is not used again
    word, (_, inode) = open_bell(path, folder)
    assert inode != before
    assert is_clean(word[()])
    assert path.with_name("kept").read_bytes() == content


def test_a_link_is_not_followed(path, folder, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(bytes(SIZE))
    path.symlink_to(target)
    with pytest.raises(OSError):
        open_bell(path, folder)


def test_a_full_disk_is_an_error_and_no_signal_and_leaks_nothing(path, folder, monkeypatch):
    monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: len(data) // 2)
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    with pytest.raises(OSError, match="space"):
        open_bell(path, folder)
    after = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    assert after == before


def test_it_is_made_with_no_umask_in_the_way(path, tmp_path):
    code = (
        "import os, pathlib, sys; from circuitbreaker_django.backends.doorbell import open_bell;"
        "os.umask(0o777); path = pathlib.Path(sys.argv[1]);"
        "open_bell(path, path.parent.stat()); print(oct(path.stat().st_mode & 0o777))"
    )
    tmp_path.chmod(0o770)
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0o660\n"


def test_the_limit_of_a_file_is_no_signal(path, tmp_path):
    code = (
        "import os, pathlib, resource, sys;"
        "from circuitbreaker_django.backends.doorbell import open_bell;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1)); path = pathlib.Path(sys.argv[1])\n"
        "try: open_bell(path, path.parent.stat())\nexcept OSError as error: print('told')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "told\n")
