"""Makes the database and the users of the project that the browser visits."""

from __future__ import annotations

import django
from django.core.management import call_command


def main() -> None:
    django.setup()
    from django.contrib.auth.models import Permission, User

    call_command("migrate", verbosity=0)
    for name in ("anna", "ben"):
        User.objects.create_superuser(name, password="secret")
    viewer = User.objects.create_user("viewer", password="secret", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_breaker"))


if __name__ == "__main__":
    main()
