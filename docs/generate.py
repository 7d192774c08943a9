"""Write the reference pages that follow from the code: ``python docs/generate.py``."""

from __future__ import annotations

import sys
import typing
from pathlib import Path

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py; change the code that it reads. -->"


def settings_page() -> str:
    """The reference of ``CIRCUIT_BREAKERS``."""
    from circuitbreaker_django import conf

    return f"""{NOTE}

# Settings

`{conf.SETTING}` is a dictionary of registries by alias, in the shape of `CACHES`. Nothing in it is
required: without it there is the registry `default`, with the defaults below.

```python
{conf.SETTING} = {{
    "default": {{
        "NAMESPACE": "shop",
        "DEFAULTS": {{"failure_threshold": 3}},
        "BREAKERS": {{
            "payments": {{"recovery_timeout": 10, "exceptions": ["requests.RequestException"]}},
        }},
    }},
}}
```

For an editor to check it, annotate it with `dict[str, RegistrySettings]`, from
`circuitbreaker_django.conf`.

## A registry

{_table(conf.RegistrySettings)}

## A breaker

The keys of `DEFAULTS`, of each value of `BREAKERS`, and of `@circuit_protected(...)` and
`breakers.declare(...)`. Key by key the later one counts: the package's default, `DEFAULTS`, what
the code declares, patterns in `BREAKERS` that fit the name, `BREAKERS[name]`.

{_table(conf.PolicySettings)}

A dotted path is imported when it is first needed, such as at the first exception. If the library of
an exception is not installed, it counts as never raised. `CircuitOpenError` and what is no
`Exception`, such as a cancellation, never count. An `ExceptionGroup` is a failure if an exception
in it is one, unless its own class is in one of the lists. What a predicate raises is logged once,
and the call counts as nothing.
"""


def checks_page() -> str:
    """The reference of the system checks."""
    from circuitbreaker_django import checks

    rows = "\n".join(
        f"| `circuitbreaker_django.{number}` | {text} |" for number, text in checks.IDS.items()
    )
    return f"""{NOTE}

# System checks

`python manage.py check` (with `--deploy` also what matters in production only) tells what is wrong
in the settings and in what the code declares. Servers run no checks, so the same errors are raised
as `ImproperlyConfigured` when a registry is used. To silence one, add its id to
`SILENCED_SYSTEM_CHECKS`. The checks open no store.

| Id | What it is told for |
|---|---|
{rows}
"""


PAGES = {"settings.md": settings_page, "checks.md": checks_page}


def _table(keys: type) -> str:
    hints = typing.get_type_hints(keys, include_extras=True)
    rows = [
        f"| `{key}` | {_default(hint.__metadata__[0])} | {hint.__metadata__[1]} |"
        for key, hint in hints.items()
    ]
    return "\n".join(["| Key | Default | What it is |", "|---|---|---|", *rows])


def _default(text: str) -> str:
    return text if "`" in text else f"`{text}`"


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
