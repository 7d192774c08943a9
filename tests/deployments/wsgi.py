from __future__ import annotations

from django.core.wsgi import get_wsgi_application

from tests.deployments.services import use_early

application = get_wsgi_application()
use_early()
