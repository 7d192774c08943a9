"""The same project with django-unfold, which brings inline scripts of its own."""

from __future__ import annotations

from tests.browser import settings as plain
from tests.browser.settings import *  # noqa: F403 # as settings are extended

INSTALLED_APPS = ["unfold", *plain.INSTALLED_APPS]
MIDDLEWARE = plain.MIDDLEWARE[1:]
ROOT_URLCONF = "tests.browser.unfold.urls"
