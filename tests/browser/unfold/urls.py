"""Registered as ``docs/dashboard.md`` says."""

from __future__ import annotations

import re
from pathlib import Path

from tests.browser import urls

PAGE = Path(__file__).parents[3] / "docs" / "dashboard.md"
[example] = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
exec(example)

urlpatterns = urls.urlpatterns
