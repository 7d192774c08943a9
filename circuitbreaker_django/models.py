"""The model that gives circuit breakers a place in the admin, without a table."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class BreakerManager(models.Manager["Breaker"]):
    """Finds no breaker and asks no database: there is no table to ask."""

    def get_queryset(self) -> models.QuerySet[Breaker]:
        """Return an empty queryset."""
        return super().get_queryset().none()


class Breaker(models.Model):
    """A circuit breaker as the admin and the permissions know it.

    Circuits live in the backend of their registry, never in a table of this model. What the
    model brings is the content type, the permissions and the names of the admin's URLs.
    """

    name: models.CharField[str, str] = models.CharField(_("name"), max_length=255, primary_key=True)

    objects: ClassVar[BreakerManager] = BreakerManager()

    class Meta:
        managed = False
        # `dumpdata --all` takes the base manager, which would look for the table.
        base_manager_name = "objects"
        verbose_name = _("circuit breaker")
        verbose_name_plural = _("circuit breakers")
        default_permissions = ("view",)
        permissions: ClassVar[Any] = [
            ("trip_breaker", "Can trip circuit breaker"),
            ("reset_breaker", "Can reset circuit breaker"),
            ("change_mode_breaker", "Can change mode of circuit breaker"),
        ]

    def __str__(self) -> str:
        return self.name
