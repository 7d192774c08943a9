from __future__ import annotations

from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import path

from tests.browser.views import call, who

urlpatterns = [
    path("admin/", admin.site.urls),
    path("call/<str:name>/", call),
    path("who/", who),
    path("static/<path:path>", serve, {"insecure": True}),
]
