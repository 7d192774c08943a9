"""Fail once, so that the circuit opens, and print what the next visitor is answered."""

from __future__ import annotations

import os

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()

from django.test import Client  # noqa: E402 - needs the settings

client = Client(raise_request_exception=False)
failed, rejected = client.get("/"), client.get("/")
print(failed.status_code, rejected.status_code, rejected["Retry-After"])
