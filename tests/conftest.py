from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from weakref import WeakValueDictionary

import hypothesis
import pytest
from django.dispatch import Signal

from circuitbreaker_django import (
    declarations,
    environment,
    held,
    pytest_plugin,
    registries,
    signals,
)

# Each model in more than 100,000 steps: pytest --hypothesis-profile=nightly
hypothesis.settings.register_profile("nightly", max_examples=3000)


def pytest_configure(config):
    # Its entry point does this where the package is installed.
    if not config.pluginmanager.has_plugin("circuitbreaker_django"):
        config.pluginmanager.register(pytest_plugin, "circuitbreaker_django")


@pytest.fixture(autouse=True)
def fresh_registries():
    """No test meets another's circuits; what modules have declared when imported stays."""
    with pytest.MonkeyPatch.context() as patch:
        for module, attribute in ((declarations, "_declared"), (held, "named")):
            known = getattr(module, attribute)
            patch.setattr(module, attribute, {alias: dict(known[alias]) for alias in known})
        patch.setattr(held, "by_key", defaultdict(WeakValueDictionary))
        registries.rebuild()
        yield
        registries.rebuild()


@pytest.fixture
def receivers_as_before():
    """Whatever a test connects to signals of this package is disconnected after it."""
    found = [each for each in vars(signals).values() if isinstance(each, Signal)]
    before = [list(signal.receivers) for signal in found]
    yield
    for signal, receivers in zip(found, before, strict=True):
        signal.receivers = receivers
    signals.call_rejected.disconnect()  # and it notices


@pytest.fixture
def outside_of_tests():
    """As in a worker process: Django's test environment is not in force."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "in_test_environment", lambda: False)
        yield
    registries.rebuild()


@pytest.fixture
def run(tmp_path):
    """Run code in a process of its own, beside the files given; return what it printed."""

    def run(code: str, *args: str, files: dict[str, str] | None = None, exits: int = 0) -> str:
        for name, text in {**(files or {}), "main.py": code}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run(
            [sys.executable, "-W", "error", tmp_path / "main.py", *args],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *_paths()])},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == exits, done.stdout + done.stderr
        return done.stdout

    return run


def _paths():
    """Where this process finds the package when it is not installed."""
    return [path for path in sys.path if (Path(path) / "circuitbreaker_django").is_dir()]
