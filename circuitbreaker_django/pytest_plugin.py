"""Fixtures for the tests of projects; loads nothing of Django until one is used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from circuitbreaker_django.testing import FakeClock, override_breaker


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup() -> None:
    """Notice Django's test environment, which begins after the project has been imported."""
    project = sys.modules.get("circuitbreaker_django.project")
    if project is not None:
        project.registries.look_around()


@pytest.fixture
def live_breakers() -> Iterator[FakeClock]:
    """Every registry live, with fresh circuits; the fixture is their clock."""
    from circuitbreaker_django.testing import live_breakers

    with live_breakers() as clock:
        yield clock


@pytest.fixture(name="override_breaker")
def override_breaker_fixture() -> type[override_breaker]:
    """:class:`circuitbreaker_django.testing.override_breaker`, to be used in a ``with``."""
    from circuitbreaker_django.testing import override_breaker

    return override_breaker
