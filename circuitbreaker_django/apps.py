"""What happens when Django starts: checks and receivers are registered; nothing is opened."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import register
from django.core.signals import request_started, setting_changed
from django.utils.module_loading import autodiscover_modules
from django.utils.translation import gettext_lazy as _


class CircuitBreakerConfig(AppConfig):
    """The app."""

    name = "circuitbreaker_django"
    verbose_name = _("Circuit breakers")

    def ready(self) -> None:
        """Register checks and receivers, and import every app's ``breakers`` module."""
        from circuitbreaker_django.checks import check_deployment, check_settings

        register(check_settings, "circuitbreaker_django")
        register(check_deployment, "circuitbreaker_django", deploy=True)
        setting_changed.connect(_rebuild, dispatch_uid="circuitbreaker_django.rebuild")
        request_started.connect(_touch, dispatch_uid="circuitbreaker_django.touch")
        autodiscover_modules("breakers")


def _rebuild(*, setting: str, **kwargs: Any) -> None:
    from circuitbreaker_django.project import registries

    if setting in ("CIRCUIT_BREAKERS", "ROOT_URLCONF"):
        registries.rebuild()


def _touch(**kwargs: Any) -> None:
    """Where threads cannot run, requests do the housekeeping."""
    from circuitbreaker_django.project import registries

    registries.look_around()
    for registry in registries.built():
        registry.touch()
