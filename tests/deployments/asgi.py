from __future__ import annotations

from django.core.asgi import get_asgi_application

from tests.deployments.services import use_early

application = get_asgi_application()
use_early()
