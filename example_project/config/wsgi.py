"""The shop for a WSGI server. Its async view works there too, on a loop of its own per request."""

import os

from django.conf import settings
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = get_wsgi_application()
if settings.DEBUG:
    application = StaticFilesHandler(application)
