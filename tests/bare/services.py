from __future__ import annotations

from circuitbreaker_django import circuit_protected


@circuit_protected("payments", failure_threshold=1, recovery_timeout=300)
def pay() -> None:
    raise ConnectionError("payments are down")
