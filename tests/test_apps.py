"""Django's start: what is imported and connected, and that nothing is opened."""

from __future__ import annotations

import pytest
from django.test import Client, override_settings

import circuitbreaker_django
from circuitbreaker_django import apps, breakers, environment, registries
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.backends.sqlite import SQLiteBackend

MEMORY = "circuitbreaker_django.backends.memory.MemoryBackend"


def test_breakers_modules_of_installed_apps_are_found(run):
    out = run(
        """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["shop", "circuitbreaker_django", "news", "plain"])
django.setup()
from circuitbreaker_django import breakers, registries
print({name: breakers[name].policy.failure_threshold for name in breakers}, registries.built())
""",
        files={
            "shop/__init__.py": "",
            "shop/breakers.py": "from circuitbreaker_django import breakers\n"
            "breakers.declare('payments', failure_threshold=2)",
            "news/__init__.py": "",
            "news/breakers.py": "from circuitbreaker_django import breakers\n"
            "breakers.declare('feed', failure_threshold=3)",
            "plain/__init__.py": "",
        },
    )

    assert out.startswith("{'feed': 3, 'payments': 2} ")


def test_an_error_in_a_breakers_module_is_not_swallowed(run):
    with pytest.raises(AssertionError, match="ImproperlyConfigured: breaker 'a' is declared twice"):
        run(
            """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["shop", "circuitbreaker_django"])
django.setup()
""",
            files={
                "shop/__init__.py": "",
                "shop/breakers.py": "from circuitbreaker_django import breakers\n"
                "breakers.declare('a', failure_threshold=2)\n"
                "breakers.declare('a', failure_threshold=3)",
            },
        )


def test_starting_django_makes_no_registry_and_reads_no_registrys_settings(run):
    out = run(
        """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["circuitbreaker_django"], CIRCUIT_BREAKERS="nonsense")
django.setup()
from circuitbreaker_django import registries
print(registries.built())
"""
    )

    assert out.strip() == "[]"


class CountingBackend(MemoryBackend):
    def __init__(self):
        super().__init__()
        self.touched = 0

    def touch(self):
        self.touched += 1


@pytest.mark.usefixtures("outside_of_tests")
@override_settings(
    CIRCUIT_BREAKERS={
        "default": {"BACKEND": f"{__name__}.CountingBackend"},
        "off": {"BACKEND": f"{__name__}.CountingBackend", "ENABLED": False},
        "unused": {"BACKEND": f"{__name__}.CountingBackend"},
    }
)
def test_requests_do_the_housekeeping_of_backends_in_use():
    backend = registries["default"].backend
    assert isinstance(backend, CountingBackend)
    off = registries["off"].backend
    unused = registries["unused"]
    Client().get("/nothing/")
    Client().get("/nothing/")

    assert backend.touched == 2
    assert type(off) is MemoryBackend
    assert unused._home is None


def test_a_request_notices_that_the_test_environment_has_begun(monkeypatch, tmp_path):
    with override_settings(CIRCUIT_BREAKERS={"default": {"LOCATION": str(tmp_path / "circuits")}}):
        breakers.declare("payments")
        with monkeypatch.context() as outside:
            outside.setattr(environment, "in_test_environment", lambda: False)
            held = breakers["payments"]
            assert isinstance(held.backend, SQLiteBackend)
            assert not held.passive
        Client().get("/nothing/")

        assert isinstance(held.backend, MemoryBackend)
        assert held.passive


def test_the_app_is_found_by_the_packages_name():
    config = apps.CircuitBreakerConfig.create("circuitbreaker_django")

    assert str(config.verbose_name) == "Circuit breakers"


def test_every_public_name_is_there():
    for name in circuitbreaker_django.__all__:
        assert getattr(circuitbreaker_django, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'breaker_of_nothing'"):
        getattr(circuitbreaker_django, "breaker_of_nothing")  # noqa: B009 - mypy knows it is not
