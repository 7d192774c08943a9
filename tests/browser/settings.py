"""The project that the browser visits; the tests say what differs by environment."""

from __future__ import annotations

import json
import os
from pathlib import Path

import django

HOME = Path(os.environ["TEST_HOME"])
SECRET_KEY = "for tests only"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "tests.browser.urls"
USE_TZ = True
TIME_ZONE = "Europe/Zurich"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": HOME / "db.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
INSTALLED_APPS = [
    "circuitbreaker_django",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
PROCESSORS = [
    "django.template.context_processors.request",
    "django.contrib.auth.context_processors.auth",
    "django.contrib.messages.context_processors.messages",
]
if django.VERSION >= (6, 1):
    # From 6.1 on all that Django's admin loads has a nonce.
    MIDDLEWARE.insert(0, "django.middleware.csp.ContentSecurityPolicyMiddleware")
    PROCESSORS.append("django.template.context_processors.csp")
    NONCE = "<CSP_NONCE_SENTINEL>"  # django.utils.csp.CSP.NONCE
    SECURE_CSP = {
        "default-src": ["'none'"],
        "script-src": [NONCE],
        "style-src": [NONCE],
        "img-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
    }
else:
    MIDDLEWARE.insert(0, "tests.browser.views.only_own_sources")
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": PROCESSORS},
    },
]
CIRCUIT_BREAKERS = json.loads(os.environ["TEST_CIRCUIT_BREAKERS"])
