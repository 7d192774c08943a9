"""Who may see and do what in the dashboard, and what it says."""

from __future__ import annotations

import re

import django
import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.db import OperationalError, connection
from django.template.response import TemplateResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.html import escape

from circuitbreaker_django import CircuitState
from circuitbreaker_django.admin import BreakerAdmin
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.store import Declaration, OrderUnsure
from circuitbreaker_django.dashboard import readings
from circuitbreaker_django.dashboard.keys import Key
from circuitbreaker_django.models import Breaker
from circuitbreaker_django.operations.room import AppliedUnseen, ControlRoom

pytestmark = pytest.mark.django_db

PAYMENTS = Key("default", "payments")
LIST = "/admin/circuitbreaker_django/breaker/"
POLL = f"{LIST}poll/"
ACT = f"{LIST}act/"
DETAIL = f"{LIST}default_3Apayments/change/"
POLL_ONE = f"{LIST}default_3Apayments/poll.json"
HISTORY = f"{LIST}default_3Apayments/history.json"

USERS = ("anonymous", "visitor", "staff", "view", "trip", "reset", "change_mode", "superuser")
ACTIONS = {
    "hold": "trip",
    "trip": "trip",
    "reset": "reset",
    "disable": "change_mode",
    "metrics_only": "change_mode",
    "enable": "change_mode",
}


def make_user(kind):
    if kind == "anonymous":
        return AnonymousUser()
    if kind == "superuser":
        return User.objects.create_superuser("anna")
    user = User.objects.create_user(kind, is_staff=kind != "visitor")
    if kind not in ("visitor", "staff"):
        user.user_permissions.add(Permission.objects.get(codename=f"{kind}_breaker"))
    return user


@pytest.fixture
def login(client):
    def login_as(kind):
        user = make_user(kind)
        if user.is_authenticated:
            client.force_login(user)
        return client

    return login_as


@pytest.fixture
def anna(login):
    return login("superuser")


def selected(worker, key=PAYMENTS):
    """What a page that is loaded now sends for a circuit."""
    seen = worker.backend.overview()
    epoch = seen.circuits[key.name].epoch if key.name in seen.circuits else seen.floor
    return f"{epoch} {key.pk}"


def order(worker, action, **data):
    filled = {"selected": selected(worker), "confirmed": "1", "reason": "", **data}
    return {"action": action, **filled}


# -- who may what -----------------------------------------------------------------------------


def outcome(kind, method, view, action=None):
    """What a user of that kind is to get."""
    if kind in ("anonymous", "visitor"):
        return 302  # to the login page
    if kind == "staff":
        return 403
    if method != ("POST" if view == "act" else "GET"):
        return 405
    if view == "act":
        if kind != "superuser" and kind != ACTIONS[action]:
            return 403
        return 302  # done, and back to the list
    return 200


VIEWS = {
    "list": LIST,
    "detail": DETAIL,
    "poll": POLL,
    "poll_one": POLL_ONE,
    "history": HISTORY,
    "act": ACT,
}
TABLE = [
    (kind, method, view, action)
    for kind in USERS
    for method in ("GET", "POST")
    for view in VIEWS
    for action in (ACTIONS if (method, view) == ("POST", "act") else (None,))
]


@pytest.mark.parametrize(("kind", "method", "view", "action"), TABLE)
def test_every_view_lets_in_whom_it_is_for(login, worker, kind, method, view, action):
    client = login(kind)
    data = {} if action is None else order(worker, action, duration="300")
    answer = client.generic(method, VIEWS[view]) if not data else client.post(ACT, data)
    assert answer.status_code == outcome(kind, method, view, action)
    goes_to_login = answer.headers.get("Location", "").startswith("/admin/login/")
    assert goes_to_login is (kind in ("anonymous", "visitor"))
    done = action is not None and kind in (ACTIONS[action], "superuser")
    assert len(worker.backend.events()) == (done and action != "enable")
    assert LogEntry.objects.count() == done


@pytest.mark.parametrize("kind", ["staff", "view", "trip", "reset", "change_mode"])
def test_the_index_shows_it_to_those_who_may_see_it(login, kind):
    body = login(kind).get("/admin/").content.decode()
    assert (LIST in body) is (kind != "staff")


@pytest.mark.parametrize(
    ("kind", "offered"),
    [
        ("view", set()),
        ("trip", {"hold", "trip"}),
        ("reset", {"reset"}),
        ("change_mode", {"disable", "metrics_only", "enable"}),
        ("superuser", set(ACTIONS)),
    ],
)
def test_actions_are_offered_to_those_who_may(login, worker, kind, offered):
    client = login(kind)
    listed = client.get(LIST).content.decode()
    detail = client.get(DETAIL).content.decode()
    for action in ACTIONS:
        assert (f'<option value="{action}">' in listed) is (action in offered)
        assert (f'value="{action} ' in detail) is (action in offered)


@pytest.mark.parametrize(
    "there",
    [{"BACKEND": "circuitbreaker_django.backends.memory.MemoryBackend"}, {"ENABLED": False}],
)
def test_what_nobody_would_follow_is_not_offered(anna, worker, settings, breaker_settings, there):
    assert 'name="selected"' in anna.get(LIST).content.decode()
    assert 'name="one"' in anna.get(DETAIL).content.decode()
    if "BACKEND" in there:
        breaker_settings = {"BREAKERS": {"payments": {}}}
    settings.CIRCUIT_BREAKERS = {"default": {**breaker_settings, **there}}
    for page in (LIST, DETAIL):
        body = anna.get(page).content.decode()
        assert "payments" in body
        assert 'name="selected"' not in body
        assert 'name="one"' not in body


def test_orders_need_the_token_of_a_form(worker, client):
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(make_user("superuser"))
    assert strict.post(ACT, order(worker, "trip")).status_code == 403
    assert worker.payments.state is CircuitState.CLOSED


def test_every_form_has_its_token(worker):
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(make_user("superuser"))

    def send(page, data):
        body = page.content.decode()
        form = re.search(rf'<form method="post" action="{ACT}".*?</form>', body, re.DOTALL)
        assert form
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form[0])
        assert token
        return strict.post(ACT, {"csrfmiddlewaretoken": token[1], **data})

    for url in (LIST, DETAIL):
        question = send(strict.get(url), {"one": f"trip {selected(worker)}"})
        assert send(question, order(worker, "trip")).status_code == 302
    assert worker.payments.state is CircuitState.OPEN


def test_pages_are_not_cached(anna, worker):
    for url in (LIST, POLL, DETAIL, POLL_ONE, HISTORY):
        assert "no-store" in anna.get(url).headers["Cache-Control"]


def test_the_names_of_the_urls_are_the_admins(anna):
    assert reverse("admin:circuitbreaker_django_breaker_changelist") == LIST
    assert reverse("admin:circuitbreaker_django_breaker_change", args=["x"]) == f"{LIST}x/change/"


# -- orders -----------------------------------------------------------------------------------


def test_an_order_asks_first(anna, worker):
    answer = anna.post(ACT, {"action": "hold", "selected": selected(worker)})
    assert answer.status_code == 200
    body = answer.content.decode()
    assert "Hold open: payments?" in body
    assert 'name="duration" value="1800"' in body
    assert worker.payments.state is CircuitState.CLOSED


def test_the_question_tells_namesakes_apart(anna, worker, settings, breaker_settings):
    settings.CIRCUIT_BREAKERS = {
        "default": breaker_settings,
        "other": {
            "LOCATION": f"{breaker_settings['LOCATION']}.other",
            "BREAKERS": {"payments": {}},
        },
    }
    both = [selected(worker), "1 other:payments"]
    body = anna.post(ACT, {"action": "hold", "selected": both}).content.decode()
    for alias in ("default", "other"):
        assert f"<bdi>payments</bdi> <small><bdi>{alias}</bdi></small>" in body


def test_a_confirmed_order_reaches_workers_the_history_and_the_log(anna, worker):
    answer = anna.post(ACT, order(worker, "hold", duration="1800", reason="a drill"), follow=True)
    assert answer.redirect_chain == [(LIST, 302)]
    assert "Held open: payments. It reaches 1 live process." in answer.content.decode()
    assert worker.payments.state is CircuitState.OPEN
    [(name, event)] = worker.backend.events()
    assert (name, event.actor, event.reason) == ("payments", "anna", "a drill")
    [entry] = LogEntry.objects.all()
    assert entry.user.get_username() == "anna"
    assert entry.object_id == PAYMENTS.pk
    assert entry.get_change_message() == "Hold open: a drill"
    assert entry.get_admin_url() == DETAIL


def test_what_a_trip_does_not_do_is_said_before_and_after(anna, worker):
    worker.payments.disable()
    said = "A trip ends no hold and no mode"
    question = anna.post(ACT, {"action": "trip", "selected": selected(worker)})
    assert said in question.content.decode()
    answer = anna.post(ACT, order(worker, "trip"), follow=True)
    [message] = answer.context["messages"]
    assert (message.level_tag, str(message).partition(" It reaches")[0]) == (
        "warning",
        "Disabled: payments.",
    )
    assert said in str(message)


def test_of_two_registries_the_names_are_told_apart(anna, worker, settings, breaker_settings):
    other = {"LOCATION": f"{breaker_settings['LOCATION']}.other", "BREAKERS": {"payments": {}}}
    settings.CIRCUIT_BREAKERS = {"default": breaker_settings, "other": other}
    both = [selected(worker), "1 other:payments"]
    answer = anna.post(ACT, order(worker, "trip", selected=both))
    texts = [str(message) for message in answer.context["messages"]]
    assert texts[0].startswith("Open: payments (default).")
    assert texts[1].startswith("Trip: payments (other). Nothing was done: no live process")


def test_a_stale_page_is_told_and_asked_again(anna, worker):
    stale = selected(worker)
    [row] = anna.get(f"{POLL}?rows={PAYMENTS.id}").json()["rows"]
    assert stale == f"{row['epoch']} {row['pk']}"
    worker.payments.trip(reason="somebody else", actor="ben")
    answer = anna.post(ACT, order(worker, "reset", selected=stale, reason="mine"))
    body = answer.content.decode()
    assert "Something has changed since you looked, so nothing was done to" in body
    assert "somebody else" in body
    assert 'value="mine"' in body
    assert worker.payments.state is CircuitState.OPEN
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("action", list(ACTIONS))
def test_an_action_does_what_it_says(anna, worker, action):
    worker.payments.trip(hold=True)
    looks = {
        "hold": "held",
        "trip": "held",  # a trip ends no hold
        "reset": "closed",
        "disable": "disabled",
        "metrics_only": "metrics_only",
        "enable": "half_open",  # after a hold one trial decides
    }
    assert anna.post(ACT, order(worker, action, duration="forever")).status_code == 302
    assert one_row(anna)["look"] == looks[action]


def one_row(client, key=PAYMENTS):
    [row] = client.get(POLL, {"rows": key.id}).json()["rows"]
    return row


def test_one_button_is_an_order_too(anna, worker):
    answer = anna.post(ACT, {"one": f"reset {selected(worker)}", "back": "breaker"})
    body = answer.content.decode()
    assert "Reset: payments?" in body
    assert f'<a href="{DETAIL}" class="cb-quiet">' in body
    answer = anna.post(ACT, order(worker, "reset", back="breaker"))
    assert answer.headers["Location"] == DETAIL


def test_an_order_leads_back_to_the_list_as_it_was(anna, worker):
    answer = anna.post(ACT, order(worker, "reset", back="q=pay&state=closed"))
    assert answer.headers["Location"] == f"{LIST}?q=pay&state=closed"
    answer = anna.post(ACT, order(worker, "reset", back="//evil.example/"))
    assert answer.headers["Location"] == f"{LIST}?%2F%2Fevil.example%2F="


def test_an_order_that_leads_nowhere_is_refused_before_it_is_carried_out(anna, worker):
    too_many = "&" * 1001  # fields, for Django
    assert anna.post(ACT, order(worker, "trip", back=too_many)).status_code == 400
    assert worker.payments.state is CircuitState.CLOSED


def test_without_a_selection_nothing_is_asked(anna, worker):
    answer = anna.post(ACT, {"action": "trip", "back": "q=pay"}, follow=True)
    assert answer.redirect_chain == [(f"{LIST}?q=pay", 302)]
    assert "Select circuit breakers first." in answer.content.decode()


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"action": "explode"},
        {"action": "trip", "selected": "payments"},
        {"action": "trip", "selected": "x default:payments"},
        {"action": "trip", "selected": "1 payments"},
        {"one": ""},
        {"one": "trip"},
        {"one": "explode 1 default:payments"},
    ],
)
def test_what_no_page_of_ours_sends_is_refused(anna, worker, data):
    assert anna.post(ACT, data).status_code == 400


def test_a_form_that_is_wrong_is_shown_again(anna, worker):
    data = order(worker, "hold", duration="other", other="soon", reason="mine")
    body = anna.post(ACT, data).content.decode()
    assert "Give a time with its unit" in body
    assert 'value="mine"' in body
    assert worker.payments.state is CircuitState.CLOSED


def test_what_describes_a_field_is_there(anna, worker):
    data = order(worker, "hold", duration="other", other="soon", reason="x" * 501)
    body = anna.post(ACT, data).content.decode()
    ids = " ".join(re.findall(r'aria-describedby="(id_[^"]+)"', body)).split()
    assert set(ids) == {
        f"id_{name}_{what}" for name in ("other", "reason") for what in ("helptext", "error")
    }
    for one in ids:
        assert body.count(f' id="{one}"') == 1


def test_names_that_are_not_known_are_told(anna, worker):
    gone = Key("default", "gone")
    body = anna.post(ACT, {"action": "trip", "selected": f"1 {gone.pk}"}).content.decode()
    assert "No longer known: <bdi>gone</bdi>" in body
    assert 'name="confirmed"' not in body
    body = anna.post(ACT, order(worker, "trip", selected=f"1 {gone.pk}")).content.decode()
    assert "Trip: gone. Nothing was done: no breaker &#x27;gone&#x27; is known" in body


def test_a_long_list_of_names_is_shortened(anna, worker, settings, breaker_settings):
    names = [f"b{number}" for number in range(7)]
    breaker_settings["BREAKERS"] = {name: {} for name in names}
    settings.CIRCUIT_BREAKERS = {"default": breaker_settings}
    chosen = [selected(worker, Key("default", name)) for name in names]
    answer = anna.post(ACT, order(worker, "trip", selected=chosen), follow=True)
    assert "Open: b0, b1, b2, b3, b4 and 2 more." in answer.content.decode()
    assert LogEntry.objects.count() == 7


def test_nobody_is_steered_where_circuits_are_of_each_process(anna, settings):
    backend = "circuitbreaker_django.backends.memory.MemoryBackend"
    settings.CIRCUIT_BREAKERS = {"default": {"BACKEND": backend, "BREAKERS": {"payments": {}}}}
    data = {"action": "trip", "selected": f"1 {PAYMENTS.pk}", "confirmed": "1"}
    body = anna.post(ACT, data).content.decode()
    assert "Nothing was done: registry &#x27;default&#x27; keeps separate circuits" in body
    assert not LogEntry.objects.exists()


def test_who_writes_another_log_is_asked(anna, worker, monkeypatch):
    logged = []

    def log_change(self, request, breaker, message):
        logged.append((request.user.get_username(), breaker.pk, message))

    monkeypatch.setattr(BreakerAdmin, "log_change", log_change)
    anna.post(ACT, order(worker, "trip", reason="a drill"))
    assert logged == [("anna", PAYMENTS.pk, "Trip: a drill")]
    assert not LogEntry.objects.exists()


def test_what_was_applied_is_logged_even_if_nobody_can_look(anna, worker, monkeypatch):
    def order_and_lose(self, *args, **kwargs):
        raise AppliedUnseen("it was applied, but then: gone")

    monkeypatch.setattr(ControlRoom, "order", order_and_lose)
    answer = anna.post(ACT, order(worker, "trip"), follow=True)
    assert "Trip: payments. It was applied, but then" in answer.content.decode()
    assert LogEntry.objects.count() == 1


def test_what_was_applied_is_told_even_if_the_database_fails(anna, worker, caplog):
    def read_only(execute, sql, params, many, context):
        if "django_admin_log" in sql:
            raise OperationalError("attempt to write a readonly database")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(read_only):
        answer = anna.post(ACT, order(worker, "trip"))
    assert answer.status_code == 302
    assert worker.payments.state is CircuitState.OPEN
    body = anna.get(LIST).content.decode()
    assert "Open: payments. It reaches 1 live process." in body
    assert "The order stands in the history, but the admin&#x27;s log could not be written." in body
    assert "the admin's log could not be written" in caplog.text
    assert LogEntry.objects.count() == 0


@pytest.mark.parametrize("arrives", [True, False])
def test_what_may_have_been_applied_is_not_claimed_nor_denied(anna, worker, monkeypatch, arrives):
    apply = SQLiteBackend.order

    def silence(self, orders):
        if arrives:
            apply(self, orders)
        raise OrderUnsure("it may have been applied, or not: silence")

    data = order(worker, "trip", reason="mine")
    monkeypatch.setattr(SQLiteBackend, "order", silence)
    body = anna.post(ACT, data).content.decode()
    assert ("<b>changed</b>" in body) is arrives
    assert "nothing was done" not in body
    assert "Trip: payments. The store has not confirmed it: it may have been applied" in body
    assert "Nothing was done" not in body
    assert 'value="mine"' in body
    assert not LogEntry.objects.exists()


# -- pages ------------------------------------------------------------------------------------


def test_the_list_is_searched_filtered_and_counted(anna, worker):
    worker.payments.trip()
    for query, shown in (
        ("", {"payments", "search"}),
        ("?q=PAY", {"payments"}),
        ("?state=open", {"payments"}),
        ("?state=closed", {"search"}),
        ("?registry=default", {"payments", "search"}),
        ("?registry=other", set()),
    ):
        answer = anna.get(LIST + query)
        assert {row["name"] for row in answer.context["rows"]} == shown
        assert answer.context["counts"]["open"] == 1


def test_a_list_of_nothing_says_so(anna, settings, location):
    body = anna.get(f"{LIST}?q=nobody").content.decode()
    assert "No circuit breaker fits" in body
    assert "<div data-rows data-order=" in body  # so the script sees that there is one now
    assert "The list is no longer empty." in body
    settings.CIRCUIT_BREAKERS = {"default": {"LOCATION": str(location)}}
    assert "No circuit breakers are known yet." in anna.get(LIST).content.decode()


@pytest.fixture
def thousand(settings, breaker_settings):
    breaker_settings["BREAKERS"] = {f"b{number:04}": {} for number in range(1000)}
    settings.CIRCUIT_BREAKERS = {"default": breaker_settings}


@pytest.mark.usefixtures("thousand")
def test_a_thousand_breakers_come_in_pages_of_a_hundred(anna, worker):
    worker.payments.trip()
    first = anna.get(LIST)
    assert len(first.context["rows"]) == 100
    assert first.context["rows"][0]["name"] == "payments"
    assert '<a href="?p=11">11</a>' in first.content.decode()
    last = anna.get(f"{LIST}?p=11")
    assert [row["name"] for row in last.context["rows"]] == ["b0999"]
    assert len(anna.get(f"{LIST}?p=nonsense").context["rows"]) == 100


@pytest.mark.usefixtures("thousand")
@pytest.mark.parametrize(
    ("url", "asked"),
    [
        (LIST, ["open", "stats"]),
        (f"{POLL}?rows={PAYMENTS.id}", ["open", "stats"]),
        (DETAIL, ["open", "stats", "events"]),
        (POLL_ONE, ["open", "stats", "events"]),
    ],
)
def test_a_thousand_cost_three_trips_to_the_store(anna, worker, monkeypatch, url, asked):
    worker.payments.trip()
    trips = []
    for name in ("open", "stats", "events", "order"):
        original = getattr(SQLiteBackend, name)

        def trip(self, *args, name=name, original=original, **kwargs):
            trips.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(SQLiteBackend, name, trip)
    assert anna.get(url).status_code == 200
    assert trips == asked


@pytest.mark.parametrize("url", [LIST, f"{POLL}?rows=", DETAIL])
def test_queries_do_not_grow_with_breakers(anna, worker, settings, breaker_settings, url):
    def queries():
        anna.get(url)
        with CaptureQueriesContext(connection) as captured:
            anna.get(url)
        return len(captured)

    few = queries()
    breaker_settings["BREAKERS"] = {"payments": {}, **{f"b{n}": {} for n in range(500)}}
    settings.CIRCUIT_BREAKERS = {"default": breaker_settings}
    assert queries() == few
    assert few <= 4


def test_a_poll_tells_of_the_rows_it_was_asked_for(anna, worker):
    worker.payments.trip(reason="a drill", actor="ben")
    data = anna.get(POLL, {"rows": f"{PAYMENTS.id},nonsense"}).json()
    [row] = data["rows"]
    assert (row["name"], row["look"], row["state"]) == ("payments", "open", "Open")
    assert (row["cells"]["reason"], row["cells"]["actor"]) == ("a drill", "opened by ben")
    assert data["counts"] == {"all": 2, "open": 1, "half_open": 0, "closed": 1, "steered": 0}
    assert [banner["level"] for banner in data["banners"]] == ["warning"]


def test_whatever_the_list_is_asked_for_it_polls_the_list(anna, worker):
    page = anna.get(LIST, {"breaker": PAYMENTS.pk, "span": "day"})
    assert "order" in anna.get(page.context["poll_url"]).json()


def test_a_poll_tells_when_the_list_would_be_another(anna, worker):
    order = anna.get(LIST).context["order"]
    assert anna.get(POLL).json()["order"] == order
    worker.search.trip()
    assert anna.get(POLL).json()["order"] != order
    assert (
        anna.get(POLL, {"q": "pay"}).json()["order"] == anna.get(f"{LIST}?q=pay").context["order"]
    )


@pytest.mark.parametrize("span", ["", "hour", "day", "nonsense"])
def test_a_breakers_page_polls_its_figure(anna, worker, span):
    page = anna.get(DETAIL, {"span": span})
    chosen = "day" if span == "day" else "hour"
    assert page.context["poll_url"] == f"{POLL_ONE}?span={chosen}"
    data = anna.get(POLL_ONE, {"span": span}).json()
    [row] = data["rows"]
    assert row["paths"]["strip_closed"]
    assert row["cells"]["sum_calls"]


def test_a_breakers_page_says_it_all(anna, worker):
    worker.payments.trip(hold=True, reason="maintenance", actor="ben")
    body = anna.get(DETAIL).content.decode()
    for text in (
        "Held open",
        "maintenance",
        "held open by ben",
        "Opens when 3 failures fall within 1 min.",
        "failure_threshold = 3",
        "CIRCUIT_BREAKERS[&quot;default&quot;][&quot;BREAKERS&quot;][&quot;payments&quot;]",
        "Tries again after 5 min.",
    ):
        assert text in body
    assert re.search(r'<time datetime="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d">', body)


def test_a_common_breaker_is_told_apart_and_whose_settings_are_shown(
    anna, worker, settings, breaker_settings
):
    breaker_settings["BREAKERS"] = {"payments": {"failure_threshold": 9}, "tenant:*": {}}
    settings.CIRCUIT_BREAKERS = {"default": breaker_settings}
    declared: dict[str, dict[str, object]] = {
        "payments": {"failure_threshold": 3},
        "tenant": {"keyed": True},
    }
    for name, policy in declared.items():
        worker.backend.declare(Declaration(name, policy, "shop.py:1"))
    worker.backend.publish()
    tenant = f"{LIST}default_3Atenant/change/"
    for url in (LIST, tenant):
        assert "common breaker of tenant:*" in anna.get(url).content.decode()
    for url in (LIST, DETAIL):
        body = anna.get(url).content.decode()
        assert "0 of 9 failures" in body
        assert "other processes have failure_threshold = 3" in body
        assert "by which thresholds and waits are shown here" in body


@pytest.mark.parametrize("use_tz", [True, False])
def test_times_are_in_the_current_time_zone(anna, worker, settings, use_tz):
    settings.USE_TZ = use_tz
    settings.TIME_ZONE = "Asia/Kolkata"
    worker.payments.trip()
    for url in (LIST, DETAIL):
        body = anna.get(url).content.decode()
        assert re.search(r'datetime="[\dT:-]+\+05:30">\d\d:\d\d:\d\d IST<', body)


def test_history_comes_in_pages(anna, worker):
    for _ in range(26):
        worker.payments.trip()
        worker.payments.reset()
    page = anna.get(DETAIL)
    assert len(page.context["history"]) == 50
    assert len(anna.get(f"{DETAIL}?p=2").context["history"]) == 2
    worker.search.trip()
    lines = anna.get(HISTORY).json()
    assert len(lines) == 52
    assert {line["name"] for line in lines} == {"payments"}
    assert lines[0]["after"] == "closed"


@pytest.mark.parametrize("pk", ["nonsense", "default_3Anobody", "nowhere_3Apayments"])
@pytest.mark.parametrize("page", ["change/", "poll.json", "history.json"])
def test_what_is_not_known_has_no_page(anna, worker, pk, page):
    assert anna.get(f"{LIST}{pk}/{page}").status_code == 404


def test_registries_that_nobody_has_are_not_remembered(anna, worker):
    for number in range(3):
        pk = f"nowhere{number}:payments"
        assert anna.get(f"{LIST}{pk}/poll.json").status_code == 404
        body = anna.post(ACT, {"action": "trip", "selected": f"1 {pk}"}).content.decode()
        assert "No longer known: <bdi>payments</bdi>" in body
        assert "not been reachable" not in body
        body = anna.post(ACT, order(worker, "trip", selected=f"1 {pk}")).content.decode()
        assert "Trip: payments. Nothing was done:" in body
    assert readings._last == {}


def test_of_a_store_that_is_lost_no_history_is_claimed(anna, worker, location):
    worker.payments.trip()
    assert "Nothing has happened yet." not in anna.get(DETAIL).content.decode()
    for path in location.parent.glob("circuits.v1*"):
        path.unlink()
    location.with_name("circuits.v1.sqlite3").mkdir()
    body = anna.get(DETAIL).content.decode()
    assert "You see what was known at" in body
    assert "The history cannot be read now." in body
    assert "Nothing has happened yet." not in body
    [row] = anna.get(POLL_ONE).json()["rows"]
    assert row["cells"]["states"] == "Unknown 1 h"
    assert anna.get(HISTORY).status_code == 503


def test_head_is_answered(anna, worker):
    assert anna.head(LIST).status_code == 200


def test_pages_to_look_at_take_no_orders(anna, worker):
    answer = anna.post(POLL)
    assert (answer.status_code, answer.headers["Allow"], answer.content) == (405, "GET, HEAD", b"")


def test_an_order_by_get_says_what_to_do(anna):
    answer = anna.get(ACT)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "POST"
    assert LIST in answer.content.decode()


HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x>",
    "{{ 1 }}{% x %}",
    "/../&#%;_3A",
    "x" * 200,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_and_have_pages(anna, settings, breaker_settings, worker, name):
    breaker_settings["BREAKERS"] = {name: {}}
    settings.CIRCUIT_BREAKERS = {"default": breaker_settings}
    key = Key("default", name)
    answer = anna.post(ACT, order(worker, "trip", selected=selected(worker, key), reason=name))
    assert answer.status_code == 302
    listed = anna.get(LIST)
    [url] = [row["url"] for row in listed.context["rows"] if row["name"] == name]
    detail = anna.get(url)
    assert detail.status_code == 200
    for page in (listed, detail):
        assert f"<bdi>{escape(name)}</bdi>" in page.content.decode()
        assert not re.search(r"<(script>alert|img)", page.content.decode())
    assert one_row(anna, key)["name"] == name
    assert LogEntry.objects.get().get_admin_url() == url


@pytest.mark.parametrize("url", [LIST, DETAIL, ACT])
def test_nothing_is_inline(anna, worker, url):
    """So a strict Content-Security-Policy needs no exception."""
    answer = anna.post(ACT, {"one": f"hold {selected(worker)}"}) if url == ACT else anna.get(url)
    body = answer.content.decode()
    assert not re.search(r"\s(on\w+|style)\s*=", re.sub(r">[^<]*<", "><", body))
    assert "<style" not in body
    scripts = re.findall(r"<script([^>]*)>", body)
    assert all("src=" in script or 'type="application/json"' in script for script in scripts)


@pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has no nonces yet")
def test_what_is_loaded_has_the_nonce(anna, worker, settings):
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.middleware.csp.ContentSecurityPolicyMiddleware",
    ]
    processors = "django.template.context_processors.csp"
    [template] = settings.TEMPLATES
    options = {**template["OPTIONS"]}
    options["context_processors"] = [*options["context_processors"], processors]
    settings.TEMPLATES = [{**template, "OPTIONS": options}]
    for url in (LIST, DETAIL):
        body = anna.get(url).content.decode()
        for part in re.findall(r"<(?:link|script)[^>]*circuitbreaker_django/[^>]*>", body):
            assert 'nonce="' in part


def test_another_site_has_its_own_links(worker, client, settings):
    settings.ROOT_URLCONF = "tests.dashboard.two_sites"
    client.force_login(make_user("superuser"))
    body = client.get("/ops/circuitbreaker_django/breaker/").content.decode()
    assert 'href="/admin/' not in body
    assert 'action="/ops/circuitbreaker_django/breaker/act/"' in body
    assert "Operations" in body
    detail = "/ops/circuitbreaker_django/breaker/default_3Apayments/change/"
    assert f'href="{detail}"' in body
    assert 'href="/admin/' not in client.get(detail).content.decode()
    order_form = {"one": f"reset {selected(worker)}", "confirmed": "1", "back": "breaker"}
    answer = client.post("/ops/circuitbreaker_django/breaker/act/", order_form)
    assert answer.headers["Location"] == detail


def test_extra_context_reaches_the_template(anna, worker, rf):
    request = rf.get(LIST)
    request.user = User.objects.get()
    site = BreakerAdmin(Breaker, admin.site)
    extra = {"title": "Ours"}
    for page in (
        site.changelist_view(request, extra),
        site.change_view(request, "default_3Apayments", extra_context=extra),
    ):
        assert isinstance(page, TemplateResponse)
        assert page.context_data is not None
        assert page.context_data["title"] == "Ours"


def test_rows_that_nothing_is_known_of_can_be_seen_and_not_steered(anna, location):
    location.with_name("circuits.v1.sqlite3").mkdir()
    body = anna.get(LIST).content.decode()
    assert body.count("Unknown") == 2
    assert anna.get(DETAIL).status_code == 200
    answer = anna.post(ACT, {"action": "trip", "selected": f"0 {PAYMENTS.pk}"})
    assert 'name="confirmed"' not in answer.content.decode()
    assert "No longer known" not in answer.content.decode()
