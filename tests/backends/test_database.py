"""The database backend: what is its own beside what every backend over a network does."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection, connections

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


# -- the tables ------------------------------------------------------------------------------


def test_the_migration_makes_no_table_on_another_engine():
    module = import_module(f"{DatabaseBackend.app}.migrations.0001_initial")
    (operation,) = module.Migration.operations
    editor = SimpleNamespace(connection=SimpleNamespace(vendor="sqlite"))  # that can do nothing
    operation.database_forwards(DatabaseBackend.app_label, editor, None, None)
    operation.database_backwards(DatabaseBackend.app_label, editor, None, None)


@pytest.mark.django_db
def test_the_project_does_not_meet_the_tables():
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)
    assert list(apps.get_app_config(DatabaseBackend.app_label).get_models()) == []
    assert not [
        name for name in connection.introspection.table_names() if "circuitbreaker_s" in name
    ]


def test_a_router_decides_where_the_tables_are(postgres, settings, django_db_blocker):
    settings.DATABASE_ROUTERS = [f"{__name__}.Elsewhere"]
    with django_db_blocker.unblock():
        with registered("owner", postgres.settings()), connections["owner"].cursor() as cursor:
            cursor.execute("CREATE DATABASE routed")
        with registered("routed", postgres.settings("routed")):
            call_command("migrate", database="routed", verbosity=0)
            names = connections["routed"].introspection.table_names()
    assert not [name for name in names if name.startswith("circuitbreaker")]


class Elsewhere:
    """A router."""

    def allow_migrate(self, db, app_label, **hints):
        return app_label != DatabaseBackend.app_label


# -- what it shares with every backend over a network --------------------------------------------


def test_a_circuit_that_is_known_and_has_no_row_is_no_loss(tables, make):
    ours = make(tables())
    ours.enable()  # of a circuit that nobody has disabled
    before = ours.view.incarnation
    ours.backend._here().resync = True
    ours.backend.touch()
    assert not ours.backend._here().resync
    assert ours.view.incarnation == before
