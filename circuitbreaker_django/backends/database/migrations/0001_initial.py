"""The tables, on PostgreSQL only: on any other alias that is migrated nothing is made."""

from __future__ import annotations

from typing import Any

from django.db import migrations

MAKE = """
CREATE TABLE circuitbreaker_store (
    namespace text PRIMARY KEY,
    incarnation bigint NOT NULL,
    floor bigint NOT NULL,
    revision bigint NOT NULL,
    events bigint NOT NULL
);
CREATE TABLE circuitbreaker_circuit (
    namespace text NOT NULL,
    name text NOT NULL,
    revision bigint NOT NULL,
    record text,
    PRIMARY KEY (namespace, name)
);
CREATE INDEX circuitbreaker_circuit_revision ON circuitbreaker_circuit (namespace, revision);
CREATE TABLE circuitbreaker_event (
    namespace text NOT NULL,
    number bigint NOT NULL,
    name text NOT NULL,
    record text NOT NULL,
    PRIMARY KEY (namespace, number)
);
CREATE TABLE circuitbreaker_process (
    namespace text NOT NULL,
    id text NOT NULL,
    seen_at bigint NOT NULL,
    info text NOT NULL,
    PRIMARY KEY (namespace, id)
);
CREATE TABLE circuitbreaker_declaration (
    namespace text NOT NULL,
    name text NOT NULL,
    seen_at bigint NOT NULL,
    info text NOT NULL,
    PRIMARY KEY (namespace, name)
);
CREATE TABLE circuitbreaker_traffic (
    namespace text NOT NULL,
    name text NOT NULL,
    width bigint NOT NULL,
    start bigint NOT NULL,
    calls bigint NOT NULL,
    failures bigint NOT NULL,
    slow bigint NOT NULL,
    ignored bigint NOT NULL,
    rejected bigint NOT NULL,
    PRIMARY KEY (namespace, name, width, start)
);
CREATE INDEX circuitbreaker_traffic_start ON circuitbreaker_traffic (namespace, width, start);
"""
DROP = """
DROP TABLE circuitbreaker_traffic;
DROP TABLE circuitbreaker_declaration;
DROP TABLE circuitbreaker_process;
DROP TABLE circuitbreaker_event;
DROP TABLE circuitbreaker_circuit;
DROP TABLE circuitbreaker_store;
"""


class RunOnPostgreSQL(migrations.RunSQL):
    """SQL that other engines are spared; Django's routers are asked as for any other."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Run it."""
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Undo it."""
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [RunOnPostgreSQL(MAKE, DROP)]
