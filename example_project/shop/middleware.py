import os
import time

from asgiref.sync import iscoroutinefunction
from django.utils.decorators import sync_and_async_middleware


@sync_and_async_middleware
def worker_header(get_response):
    """Say in every answer which worker process gave it: ``X-Worker: <pid>``."""
    if iscoroutinefunction(get_response):

        async def middleware(request):
            request.arrived = time.monotonic()
            response = await get_response(request)
            response["X-Worker"] = str(os.getpid())
            return response

    else:

        def middleware(request):
            request.arrived = time.monotonic()
            response = get_response(request)
            response["X-Worker"] = str(os.getpid())
            return response

    return middleware
