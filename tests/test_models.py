from __future__ import annotations

import json
from io import StringIO

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import connection

from circuitbreaker_django.models import Breaker


def dumped_models(*args: str) -> set[str]:
    out = StringIO()
    call_command("dumpdata", *args, stdout=out)
    return {record["model"] for record in json.loads(out.getvalue())}


def test_a_breaker_is_called_by_its_name():
    assert str(Breaker(name="payments")) == "payments"


# Without the mark django_db any query would fail.
def test_no_manager_asks_the_database():
    assert list(Breaker.objects.all()) == []
    assert not Breaker._base_manager.filter(name="payments").exists()


@pytest.mark.django_db
def test_migrate_makes_no_table():
    assert "circuitbreaker_django_breaker" not in connection.introspection.table_names()


@pytest.mark.django_db
def test_migrate_creates_one_permission_for_each_thing_an_operator_may_do():
    codenames = Permission.objects.filter(
        content_type__app_label="circuitbreaker_django", content_type__model="breaker"
    ).values_list("codename", flat=True)

    assert set(codenames) == {
        "view_breaker",
        "trip_breaker",
        "reset_breaker",
        "change_mode_breaker",
    }


@pytest.mark.django_db
@pytest.mark.parametrize("args", [(), ("--all",)], ids=["default", "all"])
def test_dumpdata_of_the_project_passes_over_it(args):
    models = dumped_models(*args)

    assert "auth.permission" in models
    assert "circuitbreaker_django.breaker" not in models


@pytest.mark.django_db
@pytest.mark.parametrize("args", [(), ("--all",)], ids=["default", "all"])
def test_dumpdata_of_this_app_is_empty(args):
    assert dumped_models("circuitbreaker_django", *args) == set()


@pytest.mark.django_db(transaction=True)
def test_flush_passes_over_it_and_keeps_its_permissions():
    call_command("flush", interactive=False, verbosity=0)

    assert Permission.objects.filter(codename="trip_breaker").exists()


@pytest.mark.django_db
def test_the_database_can_be_serialised_for_a_transaction_test_case():
    assert "circuitbreaker_django.breaker" not in connection.creation.serialize_db_to_string()


@pytest.mark.django_db
def test_the_migration_says_what_the_model_says():
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)
