"""A project without admin, auth, contenttypes, sessions and templates."""

from __future__ import annotations

import os

SECRET_KEY = "for tests only"
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "urls"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["circuitbreaker_django"]
MIDDLEWARE = ["circuitbreaker_django.middleware.CircuitBreakerMiddleware"]
CIRCUIT_BREAKERS = {"default": {"NAMESPACE": "bare", "LOCATION": os.environ["BARE_LOCATION"]}}
