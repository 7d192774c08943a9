"""The reference pages say what the code does."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, checks, conf

DOCS = Path(__file__).parents[1] / "docs"
# Where the built package is tested there are no docs beside the tests.
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="docs/ is not here")


@pytest.fixture
def generate():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "checks.md"])
def test_the_page_is_as_docs_generate_py_writes_it(generate, name):
    assert (DOCS / name).read_text(encoding="utf-8") == generate.PAGES[name]()


def test_every_setting_is_documented():
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    for keys in (conf.RegistrySettings, conf.PolicySettings):
        for key in get_type_hints(keys):
            assert f"| `{key}` |" in page


def test_every_check_is_documented():
    page = (DOCS / "checks.md").read_text(encoding="utf-8")
    for number, text in checks.IDS.items():
        assert f"| `circuitbreaker_django.{number}` | {text} |" in page


def examples(page: Path) -> list[str]:
    """The Python of a page, each with as many empty lines before it as the page has."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return ["\n" * text[: match.start(1)].count("\n") + match.group(1) for match in found]


PAGES = [page for page in sorted(DOCS.glob("*.md")) if examples(page)]


@pytest.mark.usefixtures("receivers_as_before")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_the_page_run_and_its_settings_are_valid(page, settings):
    values: dict[str, Any] = {"__name__": page.stem}
    for example in examples(page):
        exec(compile(example, page, "exec"), values)
        if conf.SETTING in values:
            settings.CIRCUIT_BREAKERS = values.pop(conf.SETTING)
            assert list(conf.problems("default")) == []


@pytest.fixture
def chat():
    """The address of a chat, and what it was told."""

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self):
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    told: SimpleQueue[Any] = SimpleQueue()
    with HTTPServer(("127.0.0.1", 0), Chat) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", told
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("receivers_as_before")
def test_the_recipes_for_events_do_what_they_say(settings, chat, monkeypatch):
    mails: list[tuple[str, str]] = []
    monkeypatch.setattr("django.core.mail.mail_admins", lambda *mail: mails.append(mail))
    settings.CHAT_WEBHOOK, told = chat
    crumbs: list[dict[str, Any]] = []
    sentry = SimpleNamespace(add_breadcrumb=lambda **crumb: crumbs.append(crumb))
    monkeypatch.setitem(sys.modules, "sentry_sdk", sentry)
    page = DOCS / "events.md"
    values: dict[str, Any] = {"__name__": "events"}
    for example in examples(page):
        exec(compile(example, page, "exec"), values)
    breaker = CircuitBreaker("payments", failure_threshold=1)
    breaker.record_failure(TimeoutError())
    breaker.reset()
    for _ in range(2):
        breaker.trip(hold=True)
        with pytest.raises(CircuitOpenError):
            breaker.call(print)
    breaker.metrics_only()
    breaker.record_failure()  # opens it on paper, which is nothing to mail
    assert mails == [
        ("Circuit payments is open", "1 failure within 60 s; last error: TimeoutError"),
        ("Circuit payments is open", "hold; last error: none"),
    ]
    texts = {
        "Circuit payments is open (auto): 1 failure within 60 s",
        "Circuit payments is closed (auto): reset",
        "Circuit payments is open (forced_open): hold",
    }
    while texts:  # in any order, for each is sent by a thread of its own
        texts.discard(told.get(timeout=10)["text"])
    assert values["rejected"] == {"payments": 2}
    assert [crumb["message"] for crumb in crumbs][:2] == [
        "circuit payments is open: 1 failure within 60 s",
        "circuit payments is closed: reset",
    ]


def test_every_page_is_linked_from_the_readme():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if f"(docs/{page.name})" not in readme] == []


def test_no_link_between_pages_is_broken():
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^):#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
