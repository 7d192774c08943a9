"""The dashboard in an admin site of a project's own."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.urls import path

from circuitbreaker_django.admin import BreakerAdmin
from circuitbreaker_django.models import Breaker
from tests.urls import urlpatterns as default_patterns

operations = AdminSite(name="operations")
operations.site_header = "Operations"
operations.site_url = None
operations.register(Breaker, BreakerAdmin)

urlpatterns = [path("ops/", operations.urls), *default_patterns]
