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


def examples(name: str) -> list[str]:
    text = (DOCS / name).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_examples_of_callables_run():
    [code] = examples("callables.md")
    exec(code, {})


@pytest.mark.parametrize("number", range(3))
def test_the_settings_of_policies_are_valid(settings, number):
    values: dict[str, Any] = {}
    exec(examples("policies.md")[number], values)
    settings.CIRCUIT_BREAKERS = values["CIRCUIT_BREAKERS"]
    assert list(conf.problems("default")) == []
    assert len(examples("policies.md")) == 3
