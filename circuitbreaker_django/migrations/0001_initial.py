from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Breaker",
            fields=[
                (
                    "name",
                    models.CharField(
                        max_length=255, primary_key=True, serialize=False, verbose_name="name"
                    ),
                ),
            ],
            options={
                "verbose_name": "circuit breaker",
                "verbose_name_plural": "circuit breakers",
                "managed": False,
                "base_manager_name": "objects",
                "default_permissions": ("view",),
                "permissions": [
                    ("trip_breaker", "Can trip circuit breaker"),
                    ("reset_breaker", "Can reset circuit breaker"),
                    ("change_mode_breaker", "Can change mode of circuit breaker"),
                ],
            },
        ),
    ]
