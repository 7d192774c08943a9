"""Circuits in tables of the project's database; this is also the app that brings them."""

from __future__ import annotations

from circuitbreaker_django.backends.database.backend import DatabaseBackend

__all__ = ["DatabaseBackend"]
