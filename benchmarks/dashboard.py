"""``python -m benchmarks.dashboard``: what a poll of a hundred rows costs the server.

Of a thousand breakers, told of by a worker, each has calls in every minute of the last hour, and a
few are open.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from pathlib import Path

import django
from django.conf import settings

BREAKERS = [f"service-{number:04}" for number in range(1000)]
POLICY = {"failure_threshold": 3}
OPEN = BREAKERS[::50]
POLLS = 100


def main() -> None:
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        location = Path(folder) / "circuits.sqlite3"
        settings.configure(
            INSTALLED_APPS=[
                *("django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes"),
                *("django.contrib.messages", "django.contrib.sessions", "circuitbreaker_django"),
            ],
            ROOT_URLCONF="benchmarks.dashboard",
            CIRCUIT_BREAKERS={
                "default": {"LOCATION": str(location), "BREAKERS": dict.fromkeys(BREAKERS, POLICY)}
            },
        )
        django.setup()
        live_for_an_hour(location)
        times = sorted(polls())
    print(
        f"A poll of 100 of {len(BREAKERS):,} breakers: {times[0]:.1f} ms at best, "
        f"{statistics.median(times):.1f} ms in the middle of {len(times)}"
    )


def live_for_an_hour(location: Path) -> None:
    from circuitbreaker_django import CircuitBreaker, registries
    from circuitbreaker_django.backends.sqlite import SQLiteBackend
    from circuitbreaker_django.backends.sqlite_traffic import keep_traffic
    from circuitbreaker_django.core.traffic import MINUTE, Counts

    backend = SQLiteBackend(location)
    backend.threads = False
    for name in OPEN:
        breaker = CircuitBreaker(name, failure_threshold=3, backend=backend)
        for _ in range(3):
            breaker.record_failure(TimeoutError("after 3 s"))
    for name in BREAKERS:
        backend.declare(registries["default"].declaration(name))
    backend.publish()
    file = backend._here().file
    assert file is not None
    counted = dict.fromkeys(BREAKERS, Counts(120, 2, 1, 0, 3))
    with file.writing(1) as writer:
        for ago in range(60):
            keep_traffic(writer, counted, 0, backend.clock() - ago * MINUTE)
        file.commit(ring=False)
    backend.close()


def polls() -> list[float]:
    """Milliseconds of each, without the session and the user, which are the project's."""
    from django.contrib import admin
    from django.contrib.auth.models import User
    from django.test import RequestFactory

    from circuitbreaker_django.admin import BreakerAdmin
    from circuitbreaker_django.dashboard.keys import Key
    from circuitbreaker_django.models import Breaker

    request = RequestFactory().get(
        "/", {"rows": ",".join(Key("default", name).id for name in BREAKERS[:100])}
    )
    request.user = User(username="anna", is_staff=True, is_superuser=True)
    page = BreakerAdmin(Breaker, admin.site)
    times = []
    for _ in range(POLLS):
        start = time.perf_counter()
        answer = page.poll_view(request)
        times.append(1000 * (time.perf_counter() - start))
        assert answer.status_code == 200
    return times


urlpatterns: list[object] = []

if __name__ == "__main__":
    main()
