"""The reference pages say what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from circuitbreaker_django import checks, conf

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_the_page_run_and_its_settings_are_valid(page, settings):
    values: dict[str, Any] = {"__name__": page.stem}
    for example in examples(page):
        exec(compile(example, page, "exec"), values)
        if conf.SETTING in values:
            settings.CIRCUIT_BREAKERS = values.pop(conf.SETTING)
            assert list(conf.problems("default")) == []


def test_every_page_is_linked_from_the_readme():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if f"(docs/{page.name})" not in readme] == []


def test_no_link_between_pages_is_broken():
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^):#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
