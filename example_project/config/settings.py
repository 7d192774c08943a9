"""
Settings of the example shop, read from the environment by django-environ.

Every variable starts with ``SHOP_`` and has a default, so that ``manage.py`` works without any.
A ``.env`` file beside ``manage.py`` is read too; the real environment wins over it. The demo
writes one, which is why ``manage.py`` in another terminal acts on the demo's workers.
"""

import os
from pathlib import Path

import environ

from circuitbreaker_django.conf import registry_from_url

BASE_DIR = Path(__file__).resolve().parent.parent

environ.Env.read_env(os.environ.get("SHOP_ENV_FILE", BASE_DIR / ".env"))
env = environ.Env()
env.prefix = "SHOP_"

DEBUG = env.bool("DEBUG", default=True)
SECRET_KEY = env.str("SECRET_KEY", default="for-the-example-on-this-machine-only")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = [
    "circuitbreaker_django",
    "circuitbreaker_django.backends.database",  # for database://; makes nothing in SQLite
    "shop",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "shop.middleware.worker_header",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    # Answers 503 with Retry-After where a view lets a CircuitOpenError rise.
    "circuitbreaker_django.middleware.CircuitBreakerMiddleware",
]

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
WSGI_APPLICATION = "config.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "shop.context_processors.worker",
            ],
        },
    },
]

DATABASES = {"default": env.db_url("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'db.sqlite3'}")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TIME_ZONE = "UTC"
STATIC_URL = "static/"

# The other service, which the shop depends on: upstream.py.
UPSTREAM_URL = env.str("UPSTREAM_URL", default="http://127.0.0.1:9000")

CIRCUIT_BREAKERS = {
    # One variable says where the circuits are: redis://..., sqlite:///path, database://default.
    # Without it they are at a place that every process of this host finds by itself.
    "default": registry_from_url(env.str("CIRCUIT_BREAKERS_URL", default="sqlite://"))
    | {
        "NAMESPACE": env.str("BREAKER_NAMESPACE", default="shop"),
        # Quick to open and quick to try again, so that one can watch it.
        "DEFAULTS": {
            "failure_threshold": 3,
            "recovery_timeout": env.float("RECOVERY_TIMEOUT", default=10.0),
        },
        # What stands here wins over what the code declares.
        "BREAKERS": {
            "payments": {
                "exceptions": [
                    "urllib.error.URLError",
                    "builtins.ConnectionError",
                    "builtins.TimeoutError",
                ],
            },
        },
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "worker": {
            "format": "{asctime} [{process}] {levelname} {name}: {message}",
            "datefmt": "%H:%M:%S",
            "style": "{",
        },
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "worker"}},
    "loggers": {
        "django": {"handlers": ["console"], "level": "INFO"},
        "circuitbreaker_django": {"handlers": ["console"], "level": "INFO"},
    },
}
