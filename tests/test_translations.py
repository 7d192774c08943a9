"""The catalogue says what the code says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from django.core.management import call_command

import circuitbreaker_django

CATALOGUE = Path("locale", "en", "LC_MESSAGES", "django.po")
PACKAGE = Path(circuitbreaker_django.__file__).parent
pytestmark = pytest.mark.skipif(
    shutil.which("xgettext") is None and "CI" not in os.environ, reason="needs gettext"
)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the package, to make messages in."""
    copy = tmp_path / "circuitbreaker_django"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(copy)
    return copy


def texts(folder):
    lines = (folder / CATALOGUE).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "POT-Creation-Date" not in line]


def test_makemessages_leaves_no_difference(copied):
    call_command("makemessages", locale=["en"], no_location=True, verbosity=0)
    assert texts(copied) == texts(PACKAGE)


def test_what_is_compiled_is_what_is_written(copied):
    call_command("compilemessages", verbosity=0)
    compiled = CATALOGUE.with_suffix(".mo")
    assert (copied / compiled).read_bytes() == (PACKAGE / compiled).read_bytes()
