from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path
from services import pay


def checkout(request: HttpRequest) -> HttpResponse:
    pay()
    return HttpResponse("paid")


urlpatterns = [path("", checkout)]
