"""Each worker can be asked by HTTP."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.deployments.services import aanswer, answer


def ask(request: HttpRequest, verb: str, name: str, pid: int) -> JsonResponse:
    return JsonResponse(answer(verb, name, pid))


async def aask(request: HttpRequest, verb: str, name: str, pid: int) -> JsonResponse:
    return JsonResponse(await aanswer(verb, name, pid))


urlpatterns = [path("<verb>/<name>/<int:pid>/", ask), path("async/<verb>/<name>/<int:pid>/", aask)]
