"""Makes the pictures of ``docs/images``: ``make screenshots``."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.backends import sqlite_traffic
from circuitbreaker_django.backends.base import monotonic
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.core.policy import MICROS
from circuitbreaker_django.core.traffic import MINUTE, Counts
from tests.browser.conftest import CHROMIUM
from tests.browser.site import LIST, ROOT, Site

IMAGES = ROOT / "docs" / "images"
MINUTES = 60
BREAKERS: dict[str, Any] = {
    "payments": {"failure_threshold": 5, "recovery_timeout": 30, "recovery_backoff": 2.0},
    "search": {"failure_rate_threshold": 0.5, "slow_call_duration": 2.0},
    **{name: {} for name in ("geocoder", "invoices", "mail", "recommendations", "stock", "tax")},
}


LOOKS: dict[str, Any] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1360, "height": 760}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1360, "height": 760}},
    "mobile": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


class ShopWithPast:
    """A store in which something has happened within the last hour."""

    def __init__(self, location: Path) -> None:
        self.ago = 60.0
        self.backend = SQLiteBackend(location, clock=self.clock)
        self.backend.threads = False
        self.payments = CircuitBreaker(
            "payments", **{**BREAKERS["payments"], "recovery_timeout": 120}, backend=self.backend
        )

    def clock(self) -> int:
        return monotonic() - round(self.ago * 60 * MICROS)

    def fail(self, ago: float, times: int) -> None:
        self.ago = ago
        for _ in range(times):
            with contextlib.suppress(ConnectionError):
                self.payments.call(_time_out)

    def succeed(self, ago: float) -> None:
        self.ago = ago
        self.payments.call(lambda: None)

    def live_through(self) -> None:
        """Two failures of the provider, and one of which it has not recovered."""
        # The clock runs since the machine was started, and stores know no time before.
        assert self.clock() > 0, "these pictures need a machine that was started an hour ago"
        self.succeed(60)
        self.fail(44, 5)
        assert self.payments.state == "open"
        self.fail(41.5, 1)
        self.succeed(36)
        self.fail(12, 5)
        assert self.payments.state == "open"
        self.succeed(9)
        assert self.payments.state == "closed"
        self.ago = 0
        self.keep_traffic()
        self.backend.close()

    def keep_traffic(self) -> None:
        process = self.backend._here()
        assert process.file is not None
        with process.file.writing(1) as writer:
            for ago in range(MINUTES):
                now = self.clock() - ago * MINUTE
                sqlite_traffic.keep_traffic(writer, dict(_traffic(MINUTES - ago)), 0, now)
            process.file.commit(ring=False)


def _traffic(minute: int) -> Any:
    wave = 20 + 8 * ((minute * 7) % 5) + minute // 3
    down = 16 <= minute < 24 or 48 <= minute < 51
    begins = minute in (16, 48)
    payments = Counts(wave, 5 if begins else 0, 1 + minute % 3, 0, 0)
    yield "payments", Counts(2, 1, 0, 0, wave) if down and not begins else payments
    for number, name in enumerate(["search", "stock", "mail", "invoices", "tax"], start=2):
        calls = number * 30 + (minute * number * 11) % 37
        yield name, Counts(calls, calls // 60, calls // 40 if name == "search" else 0)


def _time_out() -> None:
    raise ConnectionError("provider did not answer within 3 s")


def begin(site: Site) -> None:
    """What is going on now."""
    site.answers_of_all("stock")  # so both workers are there to hear of it
    site.manage(
        *("breaker", "trip", "geocoder", "--for", "2h"),
        *("--reason", "provider maintenance", "--actor", "ben"),
    )
    site.manage(
        *("breaker", "metrics-only", "tax"),
        *("--reason", "trying out new limits", "--actor", "anna"),
    )
    site.break_down("payments")
    for _ in range(12):
        site.call("payments")


def take(page: Page, site: Site, name: str) -> None:
    page.goto(site.url + LIST)
    page.locator("[data-live][data-state=live]").wait_for()
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / f"dashboard-list-{name}.png", full_page=True)
    page.get_by_role("link", name="payments", exact=True).click()
    page.locator("[data-live][data-state=live]").wait_for()
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / f"dashboard-detail-{name}.png", full_page=True)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        location = home / "circuits.sqlite3"
        ShopWithPast(location).live_through()
        site = Site(home, {"default": {"LOCATION": str(location), "BREAKERS": BREAKERS}})
        stack.callback(site.stop)
        begin(site)
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        stack.callback(browser.close)
        for name, options in LOOKS.items():
            page = browser.new_context(**options, reduced_motion="reduce").new_page()
            page.goto(site.url + LIST)
            page.fill("#id_username", "anna")
            page.fill("#id_password", "secret")
            page.click("[type=submit]")
            take(page, site, name)


if __name__ == "__main__":
    main()
