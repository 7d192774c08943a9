"""From the settings of a registry to its backend."""

from __future__ import annotations

import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from circuitbreaker_django import conf
from circuitbreaker_django.backends.base import Backend
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.conf import RegistryConfig


def make_backend(config: RegistryConfig, **options: Any) -> Backend:
    """The backend that the settings name; nothing is opened.

    Raises:
        ImproperlyConfigured: it cannot be imported, is none, or refuses its ``OPTIONS``.
    """
    backend_class = load_backend_class(config)
    options = {**config.options, **options}
    backend: Backend
    try:
        if is_replaced(config):
            backend = MemoryBackend()
        elif issubclass(backend_class, MemoryBackend):
            backend = backend_class(**options)
        else:
            place = {"namespace": config.namespace, "alias": config.alias}
            backend = backend_class(config.location, **place, **options)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{conf.where(config.alias, 'OPTIONS')}: {error}.") from error
    backend.digest, backend.registry = config.digest(), config.alias
    return backend


def load_backend_class(config: RegistryConfig) -> type[Any]:
    """The class of the backend.

    Raises:
        ImproperlyConfigured: there is none at the dotted path.
    """
    if is_replaced(config):
        return MemoryBackend
    place = conf.where(config.alias, "BACKEND")
    try:
        found = import_string(config.backend)
    except ImportError as error:
        raise ImproperlyConfigured(f"{place}: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise ImproperlyConfigured(f"{place}: {config.backend!r} is no backend class.")
    return found


def is_replaced(config: RegistryConfig) -> bool:
    """Whether the default backend cannot run here."""
    return sys.platform == "win32" and config.backend == conf.DEFAULT_BACKEND
