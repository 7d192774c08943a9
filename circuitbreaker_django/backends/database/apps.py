"""The app that brings the tables, for projects that have it in ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class CircuitBreakerDatabaseConfig(AppConfig):
    """It has migrations and no models: what the tables hold is no data of the project.

    So ``dumpdata``, ``flush``, content types, permissions and the flush after each
    ``TransactionTestCase`` pass over them.
    """

    name = "circuitbreaker_django.backends.database"
    label = "circuitbreaker_database"
    verbose_name = _("Circuit breakers: tables")
