"""The dashboard in a project with django-unfold."""

from __future__ import annotations

import pytest

from tests.browser.site import LIST, Site

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def unfolded(tmp_path_factory):
    pytest.importorskip("unfold", reason="django-unfold needs Python 3.12", exc_type=ImportError)
    home = tmp_path_factory.mktemp("unfold")
    registry = {"LOCATION": str(home / "circuits.sqlite3"), "BREAKERS": {"stock": {}}}
    site = Site(home, {"default": registry}, "tests.browser.unfold.settings")
    site.answers_of_all("stock")
    yield site
    site.stop()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_seen_and_steered(unfolded, chromium, theme):
    problems = []
    unfolded.reset(["stock"])
    page = chromium.new_context(color_scheme=theme).new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(unfolded.url + LIST)
    page.fill("[name=username]", "anna")
    page.fill("[name=password]", "secret")
    page.click("[type=submit]")
    page.locator("[data-live][data-state=live]").wait_for()
    page.get_by_role("button", name="Hold open: stock").click()
    page.get_by_role("button", name="for every process").click()
    page.get_by_role("link", name="stock", exact=True).click()
    assert page.locator(".cb-large .cb-state").text_content() == "Held open"
    assert unfolded.answers_of_all("stock") == {"rejected"}
    assert problems == []
    page.context.close()
