"""What kind of process this is, as far as breakers are concerned."""

from __future__ import annotations

import os
import sys


def in_test_environment() -> bool:
    """Whether Django's ``setup_test_environment`` is in force."""
    utils = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(getattr(utils, "_TestState", None), "saved_data")


def is_for_tests() -> bool:
    """Whether this process runs tests, or will: ``manage.py test`` loads the project first."""
    return in_test_environment() or sys.argv[1:2] == ["test"]


def is_autoreloader() -> bool:
    """Whether this is ``runserver``'s outer process, which serves nothing."""
    return (
        sys.argv[1:2] == ["runserver"]
        and "--noreload" not in sys.argv
        and os.environ.get("RUN_MAIN") != "true"
    )
