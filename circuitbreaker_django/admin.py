"""The dashboard: circuits in Django's admin, seen and steered.

:class:`BreakerAdmin` is registered with the default site. For another site register it there;
for another look unregister :class:`Breaker` and register a subclass.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote, unquote
from django.contrib.auth import get_permission_codename
from django.core.exceptions import PermissionDenied
from django.core.paginator import Page, Paginator
from django.db import DatabaseError, router, transaction
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
    JsonResponse,
    QueryDict,
)
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from circuitbreaker_django.backends.store import OrderUnsure
from circuitbreaker_django.dashboard import rows, words
from circuitbreaker_django.dashboard.keys import Key
from circuitbreaker_django.dashboard.orders import (
    ACTIONS,
    Action,
    Carried,
    OrderForm,
    carry_out,
    named,
    told,
    wanted,
)
from circuitbreaker_django.dashboard.readings import banners, watching
from circuitbreaker_django.dashboard.rows import Entry
from circuitbreaker_django.dashboard.study import study
from circuitbreaker_django.models import Breaker
from circuitbreaker_django.operations.as_data import event_as_data
from circuitbreaker_django.operations.looks import Look
from circuitbreaker_django.project import registries

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractUser

    _ModelAdmin = admin.ModelAdmin[Breaker]
else:
    _ModelAdmin = admin.ModelAdmin

logger = logging.getLogger("circuitbreaker_django")

#: Circuits to a page.
PAGE: Final = 100
#: Lines of history to a page.
HISTORY_PAGE: Final = 50
#: Seconds between two polls of a page.
POLL_EVERY: Final = 2


@admin.register(Breaker)
class BreakerAdmin(_ModelAdmin):
    """Circuit breakers in the admin: a live list, a page for each, and the operators' actions.

    Every view checks permissions by itself: any of the model's permissions lets see, and each
    action needs its own.
    """

    # -- permissions ------------------------------------------------------------------------

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may do anything may see what it is done to."""
        return any(self._may(request, what) for what in ("view", "trip", "reset", "change_mode"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Code and settings make breakers, not the admin."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing is edited; each action has a permission of its own."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Breakers are not deleted."""
        return False

    def actions_of(self, request: HttpRequest) -> list[Action]:
        """What the user may do."""
        return [action for action in ACTIONS.values() if self._may(request, action.permission)]

    def _may(self, request: HttpRequest, what: str) -> bool:
        codename = get_permission_codename(what, self.opts)
        return _user(request).has_perm(f"{self.opts.app_label}.{codename}")

    # -- views ------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        """The dashboard's URLs, and none of those that a table would have."""
        admit = self.admin_site.admin_view
        views: list[tuple[str, Callable[..., HttpResponse], str]] = [
            ("", self.changelist_view, "changelist"),
            ("poll/", self.poll_view, "poll"),
            ("act/", self.act_view, "act"),
            ("<path:object_id>/poll.json", self.poll_one_view, "poll_one"),
            ("<path:object_id>/history.json", self.download_view, "download"),
            ("<path:object_id>/change/", self.change_view, "change"),
        ]
        return [path(route, admit(view), name=self._url_name(name)) for route, view, name in views]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list."""
        if refused := self._refuse(request, "GET"):
            return refused
        with watching() as seen:
            found = rows.entries(seen)
            page = _page(_narrowed(found, request.GET), request.GET, PAGE)
            shown = rows.rows(seen, (entry.key for entry in page))
        for row in shown:
            row["url"] = self._url("change", quote(row["pk"]))
        context = {
            "title": capfirst(self.opts.verbose_name_plural),
            "rows": shown,
            "page": page,
            "pages": page.paginator.get_elided_page_range(page.number),
            "order": _digest(page),
            "counts": rows.counts(found),
            "registries": [reading.alias for reading in seen.readings],
            "banners": banners(seen.readings),
            "asked": request.GET,
            "query": request.GET.urlencode(),
            **self._live(self._url("poll"), request.GET),
        }
        return self._render(request, "change_list.html", context, extra_context)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page of one breaker."""
        if refused := self._refuse(request, "GET"):
            return refused
        found = study(unquote(object_id), request.GET)
        key, status, row = found.key, found.status, found.row
        page = _page(found.history or (), request.GET, HISTORY_PAGE)
        policy = [] if status is None else words.policy_with(status.policy, found.origins)
        context = {
            "title": key.name,
            "row": row,
            "span": found.span,
            "strip": [(look, row["paths"][f"strip_{look}"]) for look in Look],
            "status": status,
            "policy": policy,
            "history": [rows.history_line(*line) for line in page],
            "history_lost": found.history is None,
            "page": page,
            "pages": page.paginator.get_elided_page_range(page.number),
            "banners": found.banners,
            "list_url": self._url("changelist"),
            "download_url": self._url("download", quote(key.pk)),
            **self._live(
                self._url("poll_one", quote(key.pk)), QueryDict(urlencode({"span": found.span}))
            ),
        }
        return self._render(request, "change_form.html", context, extra_context)

    def poll_view(self, request: HttpRequest) -> HttpResponse:
        """What has become of the list's rows, as JSON; ``rows`` are their short words."""
        if refused := self._refuse(request, "GET"):
            return refused
        ids = set(request.GET.get("rows", "").split(",")[: 2 * PAGE])
        with watching() as seen:
            found = rows.entries(seen)
            page = _page(_narrowed(found, request.GET), request.GET, PAGE)
            shown = rows.rows(seen, (entry.key for entry in found if entry.key.id in ids))
        data = {"rows": shown, "counts": rows.counts(found), "order": _digest(page)}
        return JsonResponse({**data, "banners": banners(seen.readings)})

    def poll_one_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """What has become of one breaker, as JSON."""
        if refused := self._refuse(request, "GET"):
            return refused
        found = study(unquote(object_id), request.GET)
        return JsonResponse({"rows": [found.row], "banners": found.banners})

    def download_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The history of one breaker, as JSON."""
        if refused := self._refuse(request, "GET"):
            return refused
        found = study(unquote(object_id), request.GET)
        key = found.key
        if found.history is None:
            text = _("The history cannot be read now.")
            return HttpResponse(text, status=503, content_type="text/plain; charset=utf-8")
        lines = [event_as_data(key.registry, at, key.name, event) for at, event in found.history]
        response = JsonResponse(lines, safe=False, json_dumps_params={"indent": 2})
        response["Content-Disposition"] = f'attachment; filename="history-{key.id}.json"'
        return response

    def act_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a reason and a duration, and then do it."""
        if refused := self._refuse(request, "POST"):
            return refused
        action, epochs = wanted(request.POST)
        if not self._may(request, action.permission):
            raise PermissionDenied
        if not epochs:
            self.message_user(request, _("Select circuit breakers first."), messages.WARNING)
            return self._back(request, ())
        if "confirmed" not in request.POST:
            return self._confirm(request, action, epochs, OrderForm(action))
        form = OrderForm(action, request.POST)
        if not form.is_valid():
            return self._confirm(request, action, epochs, form)
        back = self._back(request, epochs)  # one that is refused is so before anything is done
        done = carry_out(
            action,
            epochs,
            duration=form.cleaned_data["duration"],
            actor=_user(request).get_username(),
            reason=form.cleaned_data["reason"],
        )
        failed = {key: epochs[key] for part in done if not part.applied for key in part.keys}
        for level, text in filter(None, (told(action, part) for part in done)):
            self.message_user(request, text, level)
        self._log(request, action, done, form.cleaned_data["reason"])
        if failed:
            sure = not any(isinstance(part.error, OrderUnsure) for part in done)
            return self._confirm(request, action, failed, form, sure=sure)
        return back

    # -- parts ------------------------------------------------------------------------------

    def _refuse(self, request: HttpRequest, method: str) -> HttpResponse | None:
        """Raise or answer what keeps the user out, if anything does."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == method or (method == "GET" and request.method == "HEAD"):
            return None
        if method == "GET":
            return HttpResponseNotAllowed(["GET", "HEAD"])
        context = {"title": _("Nothing was done"), "list_url": self._url("changelist")}
        page = self._render(request, "nothing.html", context).render()
        return HttpResponseNotAllowed([method], content=page.content)

    def _render(
        self,
        request: HttpRequest,
        template: str,
        context: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
    ) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "act_url": self._url("act"),
            "actions": self.actions_of(request),
            "several": len(registries) > 1,
            **context,
            **(extra or {}),
        }
        return TemplateResponse(
            request, f"admin/{self.opts.app_label}/{self.opts.model_name}/{template}", context
        )

    def _live(self, url: str, asked: QueryDict) -> dict[str, Any]:
        """What the page's script needs; it asks again for what was asked for."""
        return {
            "poll_url": f"{url}?{asked.urlencode()}",
            "poll_every": str(POLL_EVERY),
            "poll_words": words.of_the_script(),
        }

    def _confirm(
        self,
        request: HttpRequest,
        action: Action,
        epochs: Mapping[Key, int],
        form: OrderForm,
        *,
        sure: bool = True,
    ) -> HttpResponse:
        """The page that asks; it says which circuits have changed since the operator looked.

        Where it is not ``sure`` that nothing was done, the order itself may have changed them.
        """
        with watching(key.registry for key in epochs) as seen:
            there = seen.glance().keys() & epochs.keys()
            known = seen.statuses(there)
        lines = [
            {
                **rows.row(key, known[key], seen.of[key.registry]),
                "changed": known[key].epoch != epochs[key],
            }
            for key in epochs
            if key in known
        ]
        context = {
            "title": _("%(action)s: %(names)s?") % {"action": action.label, "names": named(epochs)},
            "action": action,
            "effect": action.effect_on(known.values()),
            "rows": lines,
            "changed": sure and any(line["changed"] for line in lines),
            "gone": [key.name for key in epochs if key not in there],
            "form": form,
            "banners": banners(seen.readings),
            "back": request.POST.get("back", ""),
            "back_url": self._back(request, epochs)["Location"],
        }
        return self._render(request, "confirm.html", context)

    def _back(self, request: HttpRequest, epochs: Iterable[Key]) -> HttpResponse:
        """Where the operator has come from: the list as it was, or the page of one breaker."""
        back = request.POST.get("back", "")
        if back == "breaker" and (key := next(iter(epochs), None)):
            return HttpResponseRedirect(self._url("change", quote(key.pk)))
        query = QueryDict(back).urlencode()
        return HttpResponseRedirect(self._url("changelist") + (query and f"?{query}"))

    def _log(
        self, request: HttpRequest, action: Action, done: Iterable[Carried], reason: str
    ) -> None:
        """Tell the admin's own log of what was applied; that stays so if the database fails."""
        applied = [Breaker(name=key.pk) for part in done if part.applied for key in part.keys]
        text = f"{action.label}: {reason}" if reason else str(action.label)
        if not applied:
            return
        try:
            with transaction.atomic(router.db_for_write(LogEntry)):
                for breaker in applied:
                    self.log_change(request, breaker, text)
        except DatabaseError:
            logger.exception("an order was applied, but the admin's log could not be written")
            text = _("The order stands in the history, but the admin's log could not be written.")
            self.message_user(request, text, messages.ERROR)

    def _url_name(self, name: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{name}"

    def _url(self, name: str, *args: str) -> str:
        return reverse(f"admin:{self._url_name(name)}", args=args, current_app=self.admin_site.name)


def _user(request: HttpRequest) -> AbstractUser:
    return cast("AbstractUser", request.user)  # the site lets nobody else in


def _narrowed(found: Iterable[Entry], asked: QueryDict) -> list[Entry]:
    return rows.narrowed(
        found,
        search=asked.get("q", ""),
        registry=asked.get("registry", ""),
        state=asked.get("state", ""),
    )


def _page(found: Any, asked: QueryDict, size: int) -> Page[Any]:
    return Paginator(found, size).get_page(asked.get("p"))


def _digest(page: Iterable[Entry]) -> str:
    """By this a page knows that it would be another one if it were loaded again."""
    ids = ",".join(entry.key.id for entry in page)
    return hashlib.blake2b(ids.encode(), digest_size=6).hexdigest()
