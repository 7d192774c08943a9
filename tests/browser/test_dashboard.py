"""What an operator sees and does, in a real browser, on a site with two real workers."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime

import pytest

from tests.browser.site import LIST, until

pytestmark = pytest.mark.browser


def row(page, name):
    return page.locator("tr[data-row]", has=page.get_by_role("link", name=name, exact=True))


def is_shown(page, name, look, timeout=20_000):
    page.wait_for_function(
        """([name, look]) => [...document.querySelectorAll("tr[data-row]")].some((row) =>
            row.querySelector("th a").textContent === name && row.dataset.look === look)""",
        arg=[name, look],
        timeout=timeout,
    )


def confirm(page, reason="", **options):
    if reason:
        page.get_by_label("Reason").fill(reason)
    if "duration" in options:
        page.get_by_label(options["duration"], exact=True).check()
    page.get_by_role("button", name="for every process").click()


def use(page, name, button):
    row(page, name).get_by_role("button", name=f"{button}: {name}").click()


def lives(page):
    """Whether what is there now stays: a mark that a reload would wipe out."""
    page.evaluate("window.mark = 1")
    return lambda: page.evaluate("window.mark") == 1


# -- live -------------------------------------------------------------------------------------


def test_a_dependency_is_seen_to_fail_and_recover_without_a_reload(site, page):
    still_the_same = lives(page)
    is_shown(page, "payments", "closed")
    site.break_down("payments")
    while site.call("payments")[0] != "rejected":
        pass
    is_shown(page, "payments", "open")
    cell = row(page, "payments").locator("[data-cell=retry]")
    assert re.fullmatch(r"next trial (in \d s|now)", cell.text_content())
    assert "3 failures within 60 s" in row(page, "payments").text_content()
    assert "ConnectionError: the provider is down" in row(page, "payments").text_content()
    assert page.locator("[data-count=open]").text_content() == "1"
    assert page.title().startswith("(1) ")
    is_shown(page, "payments", "half_open")
    site.repair("payments")
    until(lambda: site.call("payments")[0] == "ok")
    site.call("payments")
    is_shown(page, "payments", "closed")
    assert still_the_same()
    assert not page.title().startswith("(")


def watch_announcements(page):
    page.evaluate(
        """() => {
            window.said = [];
            new MutationObserver(() => {
                window.said.push(document.querySelector("[data-said]").textContent);
            }).observe(document.querySelector("[data-said]"), {childList: true});
        }"""
    )
    return lambda: page.evaluate("window.said")


def test_a_change_is_announced_once(site, page):
    said = watch_announcements(page)
    site.manage("breaker", "trip", "stock", "--hold", "--reason", "a drill")
    is_shown(page, "stock", "held")
    page.wait_for_timeout(5000)  # two polls more
    assert said() == ["stock is now: Held open. a drill"]


def test_each_change_is_seen(site, page):
    for action, look in (("trip", "open"), ("reset", "closed"), ("trip", "open")):
        site.manage("breaker", action, "stock")
        is_shown(page, "stock", look)
        shape = row(page, "stock").locator(".cb-state use")
        assert shape.get_attribute("href") == f"#cb-{look}"
        row(page, "stock").and_(page.locator(".cb-new")).wait_for()
        row(page, "stock").and_(page.locator(":not(.cb-new)")).wait_for()


def test_focus_stays_where_it_is(site, page):
    button = row(page, "stock").get_by_role("button", name="Reset: stock")
    button.focus()
    site.manage("breaker", "trip", "stock", "--hold")
    is_shown(page, "stock", "held")
    assert button.evaluate("button => button === document.activeElement")


def test_the_countdown_counts(site, page):
    site.manage("breaker", "trip", "stock", "--for", "90s")
    is_shown(page, "stock", "held")
    cell = row(page, "stock").locator("[data-cell=retry]")
    seen = set()

    def three_numbers():
        seen.add(cell.text_content())
        page.wait_for_timeout(300)
        return len(seen) >= 3

    until(three_numbers, 10)
    assert all(re.fullmatch(r"next trial in \d\d s", text) for text in seen)


def count_polls(page):
    polls = []
    page.on("request", lambda request: polls.append(1) if "/poll/" in request.url else None)
    return polls


def test_an_empty_list_lives_too(site, visit):
    page = visit(path="?state=open")
    assert page.get_by_text("No circuit breaker fits what was asked for.").is_visible()
    site.manage("breaker", "trip", "stock", "--hold")
    page.get_by_text("The list is no longer empty.").wait_for()
    assert page.locator("[data-count=open]").text_content() == "1"
    page.get_by_role("link", name="Load the page again").click()
    is_shown(page, "stock", "held")


def test_it_can_be_stopped_and_resumed(site, page):
    page.get_by_role("button", name="Stop updates").click()
    page.wait_for_timeout(500)
    polls = count_polls(page)
    site.manage("breaker", "trip", "stock")
    page.wait_for_timeout(5000)
    assert polls == []
    assert page.get_by_text("Updates are stopped.").is_visible()
    page.get_by_role("button", name="Resume updates").click()
    is_shown(page, "stock", "open")


HIDE = """hidden => {
    Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_it_asks_no_more_often_when_the_tab_comes_and_goes(site, page):
    polls = count_polls(page)
    for number in range(60):
        page.evaluate(HIDE, number % 2 == 0)
        page.wait_for_timeout(50)
    assert 1 <= len(polls) <= 3


def test_it_asks_one_question_at_a_time(site, page):
    polls, held = count_polls(page), []
    page.route("**/poll/**", lambda route: held.append(route))  # and never answers
    until(lambda: page.wait_for_timeout(100) or polls, 5)
    toggle = page.locator("[data-toggle]")
    for _ in range(6):
        toggle.click()
    page.wait_for_timeout(3000)
    assert len(polls) == 1
    for route in held:
        route.abort()


def test_it_pauses_while_nobody_looks(site, page):
    page.evaluate(HIDE, True)
    page.wait_for_timeout(500)
    polls = count_polls(page)
    page.wait_for_timeout(5000)
    assert polls == []
    page.evaluate(HIDE, False)
    until(lambda: page.wait_for_timeout(100) or polls, 5)


def test_without_an_answer_it_says_so_and_tries_less_often(page):
    polls = count_polls(page)
    page.route("**/poll/**", lambda route: route.abort())
    page.get_by_text("No answer; the next try is in").wait_for()
    del polls[:]
    page.wait_for_timeout(9000)  # after 4 s, and 8 s later
    assert len(polls) <= 2
    assert re.search(r"Updated \d+ s ago", page.locator("[data-age]").text_content())
    page.unroute("**/poll/**")
    page.wait_for_function(
        "() => document.querySelector('[data-live]').dataset.state === 'live'", timeout=20_000
    )


def test_a_session_that_has_ended_is_told(site, visit):
    page = visit("ben")
    page.context.clear_cookies()
    page.locator("[data-age]", has_text="Your session has ended").wait_for()
    assert row(page, "payments").is_visible()  # what was known stays
    page.get_by_role("link", name="Load the page again").click()
    page.wait_for_url("**/admin/login/**")


def test_a_store_that_is_lost_is_told_and_found_again(site, page):
    is_shown(page, "stock", "closed")
    site.manage("breaker", "trip", "mail", "--for", "90s")
    is_shown(page, "mail", "held")
    said = watch_announcements(page)
    database = site.home / "circuits.v1.sqlite3"
    for path in site.home.glob("circuits.v1*"):
        path.rename(path.with_name(f"away-{path.name}"))
    database.mkdir()
    try:
        banner = page.locator(".cb-banner", has_text="has not been reachable since")
        banner.wait_for()
        assert "You see what was known at" in banner.text_content()
        page.locator("[data-live][data-state=lost]").wait_for()
        cell = row(page, "mail").locator("[data-cell=retry]")
        before = int(re.sub(r"\D", "", cell.text_content()))
        page.wait_for_timeout(5000)  # two polls
        assert before - 9 < int(re.sub(r"\D", "", cell.text_content())) <= before - 4
        page.wait_for_timeout(6000)  # polls of both workers
        is_shown(page, "mail", "held")
        assert len(said()) == 1
        assert age(page) > 10
        assert row(page, "stock").is_visible()
        use(page, "stock", "Hold open")
        confirm(page)
        assert page.get_by_text("Hold open: stock. Nothing was done:").is_visible()
        assert page.get_by_label("30 minutes").is_checked()
        page.goto(site.url + LIST)
        assert banner.is_visible()
    finally:
        database.rmdir()
        for path in site.home.glob("away-*"):
            path.unlink()
    banner.wait_for(state="detached")
    is_shown(page, "stock", "closed")


def age(page):
    """In seconds, as the page tells it."""
    [told] = re.findall(r"Updated (\d+) s ago\.", page.locator("[data-age]").text_content())
    return int(told)


def test_the_page_is_as_old_as_the_oldest_row_of_a_lost_store(page):
    """By the server's clock: this one is two hours ahead of the browser's."""
    since = time.monotonic()

    def lose(route):
        answer = route.fetch()
        data = answer.json()
        served = parsedate_to_datetime(answer.headers["date"]) + timedelta(hours=2)
        gone = time.monotonic() - since
        for told in data["rows"]:
            told |= {"lost": True, "at": served.timestamp() - 100 - gone, "look": "open"}
            told |= {"retry_in": 90 - gone, "cells": {"retry": "next trial in 90 s"}}
        data["rows"][-1]["at"] -= 100
        headers = {**answer.headers, "date": format_datetime(served, usegmt=True)}
        route.fulfill(json=data, headers=headers)

    page.route("**/poll/**", lose)
    page.locator("[data-live][data-state=lost]").wait_for()
    assert 200 <= age(page) <= 210
    cell = row(page, "mail").locator("[data-cell=retry]")
    before = int(re.sub(r"\D", "", cell.text_content())), age(page)
    page.wait_for_timeout(5000)  # two polls
    after = int(re.sub(r"\D", "", cell.text_content())), age(page)
    assert -7 <= after[0] - before[0] <= -4
    assert 4 <= after[1] - before[1] <= 7
    page.unroute("**/poll/**")
    page.locator("[data-live][data-state=live]").wait_for()
    assert age(page) <= 2


# -- orders -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("button", "duration", "look", "mode", "answer"),
    [
        ("Trip", None, "open", "auto", "rejected"),
        ("Hold open", "5 minutes", "held", "forced_open", "rejected"),
        ("Hold open", "Until it is reset", "held", "forced_open", "rejected"),
        ("Disable", "1 hour", "disabled", "disabled", "ok"),
        ("Metrics only", "Until it is enabled", "metrics_only", "metrics_only", "ok"),
    ],
)
def test_every_worker_obeys(site, page, button, duration, look, mode, answer):
    row(page, "search").get_by_role("checkbox").check()
    page.get_by_label("With those selected").select_option(label=f"{button}…")
    page.get_by_role("button", name="Continue").click()
    confirm(page, "a drill", **({} if duration is None else {"duration": duration}))
    page.wait_for_url("**" + LIST)
    assert page.locator(".messagelist .success").is_visible()
    assert site.answers_of_all("search") == {answer}
    is_shown(page, "search", look)
    status = site.status("search")
    assert (status["mode"], status["updated_by"], status["reason"]) == (mode, "anna", "a drill")
    assert (status["mode_until"] is not None) is (duration in ("5 minutes", "1 hour"))
    assert log(site)[0] == ["anna", "default:search", f"{button}: a drill"]
    row(page, "search").get_by_role("link").click()
    history = page.locator(".cb-history tbody tr").first.text_content()
    assert "a drill" in history
    assert "anna" in history
    page.get_by_role("button", name="Reset…").click()
    confirm(page)
    page.wait_for_url("**/change/")
    assert page.locator(".cb-large .cb-state").text_content() == "Closed"
    assert site.answers_of_all("search") == {"ok"}


def log(site):
    code = (
        "import django, json; django.setup()\n"
        "from django.contrib.admin.models import LogEntry\n"
        "print(json.dumps([[str(e.user), e.object_id, e.change_message]"
        " for e in LogEntry.objects.order_by('-pk')[:3]]))"
    )
    return json.loads(site.run("-c", code))


def test_several_at_once(site, page):
    for name in ("stock", "mail"):
        row(page, name).get_by_role("checkbox").check()
    page.get_by_role("button", name="Continue").click()
    confirm(page)
    is_shown(page, "stock", "held")
    is_shown(page, "mail", "held")
    assert site.answers_of_all("mail") == {"rejected"}
    assert sorted(entry[1] for entry in log(site)[:2]) == ["default:mail", "default:stock"]


def test_all_are_selected_at_once(page):
    boxes = page.locator("[name=selected]")
    page.get_by_label("Select all on this page").check()
    assert all(boxes.nth(place).is_checked() for place in range(boxes.count()))
    page.get_by_label("Select all on this page").uncheck()
    assert not any(boxes.nth(place).is_checked() for place in range(boxes.count()))


def test_a_typed_duration(site, page):
    use(page, "stock", "Hold open")
    confirm(page, duration="Another time:")
    assert page.get_by_text("Give a time with its unit").is_visible()
    page.get_by_label("Another time", exact=True).fill("1h30m")
    confirm(page)
    is_shown(page, "stock", "held")
    assert 5390 < site.status("stock")["retry_after"] <= 5400


def test_of_two_operators_the_second_is_told_and_asked_again(site, visit):
    anna, ben = visit("anna"), visit("ben")
    for one in (anna, ben):
        use(one, "stock", "Hold open")
    confirm(anna, "provider maintenance")
    confirm(ben, "mine")
    assert ben.get_by_text("Something has changed since you looked").is_visible()
    assert ben.get_by_text("provider maintenance").is_visible()
    assert ben.get_by_label("Reason").input_value() == "mine"
    assert site.status("stock")["updated_by"] == "anna"
    confirm(ben)
    ben.wait_for_url("**" + LIST)
    assert site.status("stock")["updated_by"] == "ben"


def test_a_stale_page_is_told_before_it_asks(site, page):
    page.get_by_role("button", name="Stop updates").click()
    page.wait_for_timeout(500)
    site.manage("breaker", "trip", "stock", "--hold", "--reason", "from elsewhere")
    use(page, "stock", "Reset")
    assert page.get_by_text("Something has changed since you looked").is_visible()
    assert page.get_by_text("from elsewhere").is_visible()


def test_a_viewer_is_offered_nothing(visit):
    page = visit("viewer")
    assert page.get_by_role("button", name="Hold open").count() == 0
    assert page.get_by_role("checkbox").count() == 0


def test_all_of_it_works_without_a_script(site, visit):
    page = visit(java_script_enabled=False)
    assert not page.locator("[data-live]").is_visible()
    page.get_by_label("Part of a name").fill("sto")
    page.get_by_role("button", name="Search", exact=True).click()
    assert page.locator("tr[data-row]").count() == 1
    use(page, "stock", "Hold open")
    confirm(page, "by hand")
    assert page.url.endswith("?q=sto")
    assert row(page, "stock").locator(".cb-state").text_content() == "Held open"
    row(page, "stock").get_by_role("link").click()
    page.get_by_role("button", name="Reset…").click()
    confirm(page)
    assert site.answers_of_all("stock") == {"ok"}


def test_the_keyboard_is_enough(site, page):
    def tab_to(name):
        for _ in range(80):
            page.keyboard.press("Tab")
            focused = page.evaluate(
                "(e => e.getAttribute('aria-label') || e.textContent || e.id)"
                "(document.activeElement)"
            )
            if focused.strip() == name:
                return
        pytest.fail(f"no Tab leads to {name!r}")

    tab_to("Hold open: stock")
    page.keyboard.press("Enter")
    page.wait_for_url("**/act/")
    tab_to("id_reason")
    page.keyboard.type("by keyboard")
    tab_to("Hold open, for every process")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**" + LIST)
    assert site.status("stock")["reason"] == "by keyboard"


def test_the_page_of_one_breaker_lives_too(site, visit):
    page = visit(path="default_3Asearch/change/")
    still_the_same = lives(page)
    site.break_down("search")
    while site.call("search")[0] != "rejected":
        time.sleep(0.01)
    page.locator(".cb-now .cb-state[data-look=open]").wait_for()
    assert page.get_by_text("the history below is older").is_visible()
    page.wait_for_function(
        "() => document.querySelector('[data-path=bar_rejected]')?.getAttribute('d')",
        timeout=20_000,
    )
    assert still_the_same()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as JSON").click()
    lines = json.loads(download.value.path().read_text())
    assert lines[0]["name"] == "search"
