"""The settings of real processes: workers, and the command that steers them."""

from __future__ import annotations

import json
import os

SECRET_KEY = "for tests only"
ROOT_URLCONF = "shop.urls"
USE_TZ = True
DATABASES = json.loads(os.environ.get("TEST_DATABASES", "{}"))
INSTALLED_APPS = ["circuitbreaker_django"]
CIRCUIT_BREAKERS = json.loads(os.environ["TEST_CIRCUIT_BREAKERS"])
