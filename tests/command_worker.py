"""A worker process: does what the lines of its standard input say, and answers each of them.

``call NAME`` and ``fail NAME`` call a protected service; the answer is ``ok``, ``failed`` or
``rejected``. The command never imports this module, so it cannot know what is declared here.
"""

from __future__ import annotations

import sys

import django

from circuitbreaker_django import CircuitOpenError, circuit_protected


def _make(name, **policy):
    @circuit_protected(name, **policy)
    def service(*, well):
        if not well:
            raise ConnectionError("down")

    return service


SERVICES = {
    "payments": _make("payments", failure_threshold=3),
    "search": _make("search"),
    "hidden": _make("hidden", recovery_timeout=300),
}


def main() -> None:
    django.setup()
    for line in sys.stdin:
        verb, name = line.split()
        try:
            SERVICES[name](well=verb == "call")
            answer = "ok"
        except CircuitOpenError:
            answer = "rejected"
        except ConnectionError:
            answer = "failed"
        print(answer, flush=True)


if __name__ == "__main__":
    main()
