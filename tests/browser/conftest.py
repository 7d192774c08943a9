"""A live site under two gunicorn workers, and Chromium."""

from __future__ import annotations

import contextlib
import os
import shutil

import pytest

from tests.browser.site import LIST, Site

CHROMIUM = os.environ.get("TEST_CHROMIUM") or shutil.which("chromium")
#: Names that a page or its URLs might take for something else.
ODD = [
    "</script><script>broken = 1</script>",
    "\"'><img src=x onerror='broken = 1'>",
    "שלום/../&#%;_3A?q={{ 1 }}",
    "x" * 200,
]
REGISTRIES = {
    "BREAKERS": {
        # Its own for each thing that the tests do.
        "payments": {"failure_threshold": 3, "recovery_timeout": 3, "success_threshold": 2},
        "search": {"recovery_timeout": 300},
        "stock": {"recovery_timeout": 300},
        "mail": {"recovery_timeout": 300},
        **{name: {} for name in ODD},
    }
}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    home = tmp_path_factory.mktemp("site")
    location = str(home / "circuits.sqlite3")
    site = Site(home, {"default": {"LOCATION": location, **REGISTRIES}})
    site.answers_of_all("mail")  # so that there is a store, and both workers use it
    yield site
    site.stop()


@pytest.fixture(autouse=True)
def at_rest(site):
    """Every circuit is closed, and every service is well."""
    for broken in site.home.glob("*.broken"):
        broken.unlink()
    site.reset(REGISTRIES["BREAKERS"])


@pytest.fixture(scope="session")
def chromium():
    """The system's; a missing one is an error, not a reason to skip."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "there is no chromium: apt install chromium, or set TEST_CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def cookies(site, chromium):
    """Of a user's session; each logs in once."""
    known = {}

    def of(user):
        if user not in known:
            context = chromium.new_context()
            page = context.new_page()
            page.goto(site.url + LIST)
            page.fill("#id_username", user)
            page.fill("#id_password", "secret")
            page.click("[type=submit]")
            page.wait_for_url("**" + LIST)
            known[user] = context.storage_state()
            context.close()
        return known[user]

    return of


@pytest.fixture
def visit(site, chromium, cookies):
    """Opens a page of the dashboard; nothing that it does may break a policy or the script."""
    problems = []
    with contextlib.ExitStack() as stack:

        def visit_as(user="anna", path="", **options):
            context = chromium.new_context(
                storage_state=cookies(user),
                **{"viewport": {"width": 1280, "height": 800}, **options},
            )
            stack.callback(context.close)
            page = context.new_page()
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda line: problems.append(line.text) if bad(line) else None)
            page.goto(site.url + LIST + path)
            return page

        yield visit_as
    assert problems == []


def bad(line):
    return "Content Security Policy" in line.text or "CSP" in line.text


@pytest.fixture
def page(visit):
    return visit()
