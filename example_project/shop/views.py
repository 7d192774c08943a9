import asyncio
from contextlib import suppress

from django.http import Http404
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from circuitbreaker_django import CircuitOpenError, breakers, circuit_protected
from shop import services
from shop.services import UPSTREAM_FAILURES

BESTSELLERS = ["tea", "teapot"]

MODES = {
    "healthy": "answers at once",
    "errors": "answers 500 at once",
    "slow": "answers after 2 s: search and stock do not wait that long, checkout does",
    "hang": "never answers",
}


def home(request):
    """What there is to try: the switch of the upstream, and where each circuit stands."""
    try:
        mode = services.upstream_mode()
    except UPSTREAM_FAILURES:
        mode = None
    circuits = {name: breakers[name].state.value for name in ("payments", "stock", "search")}
    return render(request, "shop/home.html", {"mode": mode, "modes": MODES, "circuits": circuits})


def checkout(request):
    """
    A sync view that calls a protected service.

    With the circuit open, ``charge()`` raises ``CircuitOpenError``. Nothing here catches it, so the
    middleware answers 503 with ``Retry-After``.
    """
    try:
        receipt = services.charge()
    except UPSTREAM_FAILURES as error:
        return _bad_gateway(request, "The payment did not go through", error)
    return render(request, "shop/checkout.html", {"receipt": receipt})


@circuit_protected("stock")
async def stock(request):
    """
    An async view, protected as a whole.

    A failure is an exception that it raises or, as here, an answer of 5xx. With the circuit open,
    the visitor gets 503 and nothing below runs. The blocking call runs in a thread; the event loop
    goes on serving others.
    """
    try:
        goods = await asyncio.to_thread(services.stock)
    except UPSTREAM_FAILURES as error:
        return _bad_gateway(request, "The stock is not known", error)
    return render(request, "shop/stock.html", {"goods": goods})


def search(request):
    """A view with something else to offer while the service is away."""
    query = request.GET.get("q", "")
    try:
        found = services.search(query)
    except CircuitOpenError:
        return render(request, "shop/fallback.html", {"goods": BESTSELLERS, "circuit_open": True})
    except UPSTREAM_FAILURES:
        return render(request, "shop/fallback.html", {"goods": BESTSELLERS})
    return render(request, "shop/search.html", {"query": query, "goods": found})


@require_POST
def switch_upstream(request, mode):
    if mode not in MODES:
        raise Http404
    with suppress(*UPSTREAM_FAILURES):  # the home page says that it is away
        services.switch_upstream(mode)
    return redirect("home")


def _bad_gateway(request, title, error):
    return render(request, "shop/failed.html", {"title": title, "error": error}, status=502)
