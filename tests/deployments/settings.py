"""The settings of every worker; the tests say by environment where the circuits are."""

from __future__ import annotations

import json
import os

SECRET_KEY = "for tests only"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "tests.deployments.urls"
USE_TZ = True
DATABASES = json.loads(os.environ["TEST_DATABASES"])
INSTALLED_APPS = ["circuitbreaker_django"]
CIRCUIT_BREAKERS = {
    "default": {
        **json.loads(os.environ["TEST_CIRCUIT_BREAKERS"]),
        "DEFAULTS": {"failure_threshold": 3, "recovery_timeout": 300},
        # One for each thing that the tests do, so that none meets what another has left.
        "BREAKERS": {
            "broken": {},
            "early": {},
            "held": {},
            "mended": {"recovery_timeout": 0.2, "success_threshold": 3},
            "outlived": {},
        },
    }
}
