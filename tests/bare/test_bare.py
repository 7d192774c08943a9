from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def python(tmp_path):
    """Run a script of the bare project in a process of its own; return what it printed."""

    def run(*args: str, exits: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", *args],
            cwd=HERE,
            env={**os.environ, "BARE_LOCATION": str(tmp_path / "circuits")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == exits, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_checks_find_nothing(python):
    python("manage.py", "check", "--fail-level", "WARNING")


def test_migrate_needs_no_content_types(python):
    python("manage.py", "migrate")
    python("manage.py", "makemigrations", "--check")


def test_an_open_circuit_is_answered_and_seen_by_another_process(python):
    failed, rejected, retry_after = python("visit.py").split()
    assert (failed, rejected) == ("500", "503")
    assert 290 < int(retry_after) <= 300

    shown = python("manage.py", "breaker", "status", "--format", "json", "--fail-on-open", exits=1)
    assert [(row["name"], row["state"]) for row in json.loads(shown)] == [("payments", "open")]
