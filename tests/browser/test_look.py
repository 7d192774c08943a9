"""The dashboard for every eye, hand and machine."""

from __future__ import annotations

import re

import django
import pytest

from tests.browser.conftest import ODD
from tests.browser.site import LIST

pytestmark = pytest.mark.browser

DETAIL = "default_3Asearch/change/"
PHONE = {"width": 390, "height": 844}


@pytest.fixture
def busy(site):
    """A site on which something is going on."""
    site.break_down("search")
    for _ in range(8):
        site.call("search")
    site.manage("breaker", "trip", "stock", "--for", "2h", "--reason", "maintenance")
    site.manage("breaker", "metrics-only", "mail")
    return site


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("view", ["list", "detail", "confirmation"])
def test_axe_finds_no_violation(busy, visit, theme, width, view):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(
        path=DETAIL if view == "detail" else "",
        color_scheme=theme,
        viewport={"width": width, "height": 900},
        reduced_motion="reduce",
    )
    if view == "confirmation":
        page.get_by_role("button", name="Hold open: stock").click()
    else:
        page.locator("[data-live][data-state=live]").wait_for()
    # Of Django's own parts of the page it has some to tell, which are not ours.
    found = Axe().run(page, context="#content").response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


@pytest.mark.parametrize("path", ["", DETAIL])
@pytest.mark.parametrize("width", [320, 390, 768, 1024])
def test_nothing_is_cut_off_on_a_narrow_page(busy, visit, path, width):
    page = visit(path=path, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("path", ["", DETAIL])
def test_nothing_moves_for_who_asked_for_that(busy, visit, path):
    page = visit(path=path, reduced_motion="reduce")
    moving = "[...document.querySelectorAll('#content *')].flatMap((e) => e.getAnimations()).length"
    assert page.evaluate(moving) == 0


def test_with_forced_colours_a_state_still_has_a_border(busy, visit):
    page = visit(forced_colors="active")
    for state in page.locator(".cb-state").all():
        assert state.evaluate("state => getComputedStyle(state).borderStyle") == "solid"


@pytest.mark.parametrize(
    ("path", "links"), [("?state=open", ".cb-counts a"), (DETAIL, ".cb-spans a")]
)
def test_with_forced_colours_what_is_chosen_has_a_border_of_its_own(busy, visit, path, links):
    page = visit(path=path, forced_colors="active")
    border = "link => getComputedStyle(link).border"
    [chosen] = page.locator(f"{links}[aria-current]").all()
    for other in page.locator(f"{links}:not([aria-current])").all():
        assert chosen.evaluate(border) != other.evaluate(border)


@pytest.mark.parametrize("path", ["", "?state=open", DETAIL])
def test_whatever_a_finger_is_for_is_high_enough(busy, visit, path):
    page = visit(path=path, viewport=PHONE)
    targets = page.locator("#content :is(a, button, select, input):visible")
    heights = "all => all.map((one) => [one.outerHTML, one.getBoundingClientRect().height])"
    assert [one for one in targets.evaluate_all(heights) if one[1] < 24] == []


def test_on_a_phone_a_button_is_beside_its_field(busy, visit):
    page = visit(viewport=PHONE)
    page.locator("[data-live][data-state=live]").wait_for()  # which moves what is below
    for field, button in (("#cb-q", "Search"), ("#cb-action", "Continue")):
        beside = page.locator(field).bounding_box()
        box = page.get_by_role("button", name=button, exact=True).bounding_box()
        assert box["x"] > beside["x"]
        assert abs(box["y"] - beside["y"]) < 5


def test_on_a_phone_the_history_has_labels(busy, visit):
    page = visit(path=DETAIL, viewport=PHONE)
    cells = page.locator(".cb-history tbody tr:first-child td[data-label]").all()
    label = "cell => getComputedStyle(cell, '::before').content.replaceAll(/[\" ]/g, '')"
    assert [(cell.evaluate(label), cell.text_content()) for cell in cells] == [
        ("Why", "5 failures within 60 s"),
        ("Counted", "5 failures"),
        ("Lasterror", "ConnectionError: the provider is down"),
        ("none", ""),
    ]


def test_the_page_of_a_breaker_has_a_way_up(busy, visit):
    page = visit(path=DETAIL)
    page.locator(".breadcrumbs").get_by_role("link", name="Circuit breakers", exact=True).click()
    page.wait_for_url("**" + LIST)


RIGHT_TO_LEFT = {"locale": "he", "extra_http_headers": {"Accept-Language": "he"}}


def runs_from_left_to_right(text):
    """Whether each character is on the right of the one before, if both are on one line."""
    return text.evaluate(
        """element => {
            const range = document.createRange();
            const boxes = [...element.firstChild.data].map((_, at) => {
                range.setStart(element.firstChild, at);
                range.setEnd(element.firstChild, at + 1);
                return range.getBoundingClientRect();
            });
            return boxes.every((box, at) => !at || box.width === 0 || box.y !== boxes[at - 1].y
                || box.x > boxes[at - 1].x);
        }"""
    )


def test_from_right_to_left(busy, visit):
    page = visit(**RIGHT_TO_LEFT)
    assert page.evaluate("document.documentElement.dir") == "rtl"
    name = page.locator(".cb-name").first.bounding_box()
    state = page.locator(".cb-state").first.bounding_box()
    assert name["x"] > state["x"]
    assert page.evaluate("document.querySelector('#content').scrollWidth") <= 1280
    facts = page.locator("tr", has_text="maintenance").locator(".cb-facts")
    ago, since = (facts.locator(f"[data-cell={cell}]") for cell in ("age", "since"))
    assert ago.bounding_box()["x"] > since.bounding_box()["x"]
    border = "fact => getComputedStyle(fact).borderWidth"
    assert since.evaluate(border) == "0px 1px 0px 0px"  # between the two
    page.goto(page.locator(".cb-name a").first.evaluate("link => link.href"))
    begin, now = page.locator(".cb-axis > :is(:first-child, :last-child)").all()
    assert begin.bounding_box()["x"] > now.bounding_box()["x"]
    for drawing in page.locator(".cb-chart, .cb-strip").all():  # so what is old is on the right
        mirrored = "drawing => new DOMMatrix(getComputedStyle(drawing).transform).a"
        assert drawing.evaluate(mirrored) == -1
    before, after = page.locator(".cb-fromto").first.locator(".cb-state").all()
    assert before.bounding_box()["x"] > after.bounding_box()["x"]


@pytest.mark.parametrize(
    ("view", "texts"),
    [
        ("list", ["[data-age]", "[data-cell=failures]", ".cb-bar label", ".cb-do button"]),
        ("detail", [".cb-policy li > span:first-child", ".cb-policy code", ".cb-history bdi"]),
        ("confirmation", ["h1", ".cb-banner", ".cb-durations bdi", ".cb-effect", "small[id]"]),
    ],
)
def test_from_right_to_left_a_text_that_is_not_translated_runs_as_it_is_written(
    busy, visit, view, texts
):
    page = visit(path=DETAIL if view == "detail" else "", **RIGHT_TO_LEFT)
    page.locator("[data-live][data-state=live]").wait_for()
    if view == "confirmation":
        page.locator("[data-toggle]").click()
        busy.manage("breaker", "reset", "stock")  # so that the page has something to warn of
        page.get_by_role("button", name="Hold open: stock").click()
    for selector in texts:
        found = page.locator(f"{selector}:not(:empty)").all()
        assert found
        for text in found:
            assert runs_from_left_to_right(text), text.text_content()


def test_the_page_keeps_the_strictest_policy_of_its_django(page):
    """Whatever breaks a policy fails each test that sees it."""
    policy = page.reload().headers["content-security-policy"]
    if django.VERSION >= (6, 1):
        assert re.search(r"default-src 'none'.*script-src 'nonce-[^']+';", policy)
    else:
        assert policy == "default-src 'self'"


def test_a_theme_that_is_chosen_by_hand(busy, visit):
    page = visit(color_scheme="light")
    page.evaluate("localStorage.theme = 'dark'")
    page.goto(page.url)
    colour = "getComputedStyle(document.querySelector('.cb-state[data-look=closed]')).color"
    assert page.evaluate(colour) == "rgb(127, 214, 160)"


def is_all_text(page):
    page.locator("[data-live][data-state=live]").wait_for()
    page.wait_for_timeout(2500)  # a poll, too
    made = "#content :is(img, script:not([src], #cb-words), b:not([class], [data-count]))"
    assert page.locator(made).and_(page.locator(":not([data-cell], [data-notice])")).count() == 0
    assert page.evaluate("typeof broken") == "undefined"


@pytest.mark.parametrize(
    "text",
    [
        "<script>broken = 1</script>",
        "\"'><img src=x onerror='broken = 1'>",
        "</script><b>bold</b>&amp;",
        "\u202eright to left\u2066",
        "x" * 10_000,
    ],
    ids=["script", "quotes", "end", "right-to-left", "long"],
)
def test_whatever_people_and_errors_say_is_text(site, visit, text):
    site.manage("breaker", "trip", "stock", "--hold", "--reason", text, "--actor", text)
    site.break_down("payments", text)
    while site.call("payments")[0] != "rejected":
        pass
    shown = text.encode("unicode_escape").decode()[:100]  # what cannot be printed is escaped
    for path, cells in (
        ("", ["reason", "error"]),
        ("default_3Astock/change/", ["reason"]),
        ("default_3Apayments/change/", ["error"]),
    ):
        page = visit(path=path)
        is_all_text(page)
        for cell in cells:
            told = page.locator(f"[data-cell={cell}]").filter(has_text=shown)
            assert told.count() == 1
        assert page.evaluate("document.querySelector('#content').scrollWidth") <= 1280


@pytest.mark.parametrize("name", ODD, ids=["script", "quotes", "other", "long"])
def test_whatever_a_breaker_is_called_is_text(site, page, name):
    is_all_text(page)
    page.get_by_role("button", name=f"Hold open: {name}", exact=True).click()
    assert page.locator(".cb-chosen bdi").first.text_content() == name
    page.get_by_role("button", name="for every process").click()
    page.wait_for_url("**" + LIST)
    assert name[:100] in page.locator(".messagelist .success").text_content()
    page.get_by_role("link", name=name, exact=True).click()
    assert page.locator("h1 bdi").text_content() == name
    assert page.title().startswith(name)
    is_all_text(page)
    assert page.locator(".cb-large .cb-state").text_content() == "Held open"
    assert site.status(name)["mode"] == "forced_open"
