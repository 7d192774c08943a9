"""The dashboard of a site that shares its circuits through a Redis that asks for a password."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from tests.backends.servers import RedisServer, short_folder
from tests.browser.site import LIST, Site, until

pytestmark = pytest.mark.browser

PASSWORD = "open-sesame"


@pytest.fixture
def redis():
    with contextmanager(short_folder)() as folder:
        server = RedisServer(folder)
        server.start()
        with server.client() as client:
            client.config_set("requirepass", PASSWORD)
        yield server
        server.kill()


@pytest.fixture
def shop(redis, tmp_path):
    registry = {
        "BACKEND": "circuitbreaker_django.backends.redis.RedisBackend",
        "LOCATION": redis.tcp_url.replace("//", f"//:{PASSWORD}@"),
        "BREAKERS": {"stock": {}},
    }
    shop = Site(tmp_path, {"default": registry})
    assert shop.answers_of_all("stock") == {"ok"}
    yield shop
    shop.stop()


@pytest.fixture
def page(shop, chromium):
    page = chromium.new_context().new_page()
    page.goto(shop.url + LIST)
    page.fill("#id_username", "anna")
    page.fill("#id_password", "secret")
    page.click("[type=submit]")
    page.locator("[data-live][data-state=live]").wait_for()
    yield page
    page.context.close()


def test_every_worker_obeys_within_a_second(shop, page):
    page.get_by_role("button", name="Hold open: stock").click()
    page.get_by_role("button", name="for every process").click()
    page.locator(".messagelist .success").wait_for()
    until(lambda: shop.answers_of_all("stock") == {"rejected"}, 1)
    status = shop.status("stock")
    assert (status["mode"], status["updated_by"]) == ("forced_open", "anna")
    page.get_by_role("button", name="Reset: stock").click()
    page.get_by_role("button", name="for every process").click()
    page.locator(".messagelist .success").wait_for()
    until(lambda: shop.answers_of_all("stock") == {"ok"}, 1)
    assert shop.status("stock")["state"] == "closed"


def test_the_password_is_never_shown(shop, redis, page):
    told = []
    page.on("response", lambda answer: told.append(answer.text()) if answer.ok else None)
    banner = page.locator(".cb-banner", has_text="has not been reachable since")
    for lost in (False, True):
        if lost:
            redis.kill()
            banner.wait_for()
        for path in ("", "default_3Astock/change/"):
            page.goto(shop.url + LIST + path)
            page.wait_for_timeout(5000)  # two polls, of whichever worker
            assert banner.is_visible() is lost
            told.append(page.content())
    assert any("has not been reachable since" in text for text in told)
    assert not any(PASSWORD in text for text in told)
    assert PASSWORD not in (shop.home / "server.log").read_text()
