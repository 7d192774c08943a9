from __future__ import annotations

import copy
import pickle

import pytest

from circuitbreaker_django import (
    CircuitBackendError,
    CircuitBreakerError,
    CircuitConflictError,
    CircuitOpenError,
    CircuitState,
    UnknownBreakerError,
)


def test_every_error_is_of_one_family():
    for kind in (
        CircuitOpenError,
        CircuitBackendError,
        CircuitConflictError,
        UnknownBreakerError,
    ):
        assert issubclass(kind, CircuitBreakerError)
    assert issubclass(CircuitConflictError, CircuitBackendError)
    assert issubclass(UnknownBreakerError, KeyError)


@pytest.mark.parametrize(
    ("name", "state", "retry_after", "text"),
    [
        ("payments", CircuitState.OPEN, 29.9999, "circuit 'payments' is open; retry after 30 s"),
        ("payments", CircuitState.OPEN, 1800.0, "circuit 'payments' is open; retry after 1800 s"),
        ("payments", CircuitState.OPEN, 0.04, "circuit 'payments' is open; retry after 0.04 s"),
        ("pay", CircuitState.HALF_OPEN, 1.0, "circuit 'pay' is half-open; retry after 1 s"),
        ("pay", CircuitState.CLOSED, 1.0, "circuit 'pay' is recovering; retry after 1 s"),
        (None, CircuitState.OPEN, 2.5, "this circuit is open; retry after 2.5 s"),
        ("payments", CircuitState.OPEN, None, "circuit 'payments' is held open"),
        ("a\nb", CircuitState.OPEN, None, r"circuit 'a\nb' is held open"),
    ],
)
def test_a_rejection_says_which_circuit_and_how_long(name, state, retry_after, text):
    assert str(CircuitOpenError(name, state, retry_after)) == text


@pytest.mark.parametrize("duplicate", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_rejection_survives_a_task_queue(duplicate):
    error = CircuitOpenError("pay", CircuitState.OPEN, 3.0)
    error.add_note("while paying")
    twin = duplicate(error)
    assert type(twin) is CircuitOpenError
    assert (twin.name, twin.state, twin.retry_after) == ("pay", CircuitState.OPEN, 3.0)
    assert twin.__notes__ == ["while paying"]


def test_an_unknown_name_is_told_as_a_sentence():
    assert str(UnknownBreakerError("no breaker 'pay'")) == "no breaker 'pay'"
    assert str(UnknownBreakerError()) == ""
