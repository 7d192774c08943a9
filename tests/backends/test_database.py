"""The database backend: what is its own beside what every backend over a network does."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from circuitbreaker_django.backends.database import DatabaseBackend
from tests.backends.postgres import registered

# -- where it is -----------------------------------------------------------------------------

SHOP = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": "shop",
    "USER": "ann",
    "PASSWORD": "swordfish",
    "HOST": "db.example",
    "PORT": "5433",
}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (SHOP, "shop at db.example:5433"),
        ({**SHOP, "PORT": ""}, "shop at db.example:5432"),
        ({**SHOP, "HOST": "", "PORT": None}, "shop at localhost:5432"),
    ],
)
def test_it_says_where_it_is_and_never_the_password(settings, told):
    pytest.importorskip("psycopg")
    with registered("circuits", settings):
        backend = DatabaseBackend("circuits", namespace="shop", alias="other")
        assert backend.describe() == f"DATABASES['circuits'], {told}, namespace shop:other"


@pytest.mark.parametrize(
    ("location", "told"),
    [
        (None, "the database 'default' is sqlite, and must be PostgreSQL"),
        ("", "the database 'default' is sqlite"),
        ("defualt", r"\[\"payments\"\]\[\"LOCATION\"\]: .* DATABASES; did you mean 'default'\?$"),
        ("nowhere", r"DATABASES; add it there\.$"),
        ("strange", r"the database 'strange' cannot be used: 'json' isn't an available"),
    ],
)
def test_a_database_that_cannot_have_the_tables_is_refused(location, told):
    with (
        registered("strange", {"ENGINE": "json"}),
        pytest.raises(ImproperlyConfigured, match=told),
    ):
        DatabaseBackend(location, alias="payments")
