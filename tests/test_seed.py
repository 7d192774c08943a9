"""The seven behaviours that this project began from."""

from __future__ import annotations

import inspect
import threading

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.backends.memory import MemoryBackend
from tests.clock import Clock

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Down(Exception):
    pass


def fail() -> None:
    raise Down


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker(
        "payments",
        failure_threshold=3,
        failure_window=60.0,
        recovery_timeout=30.0,
        backend=MemoryBackend(clock=clock),
    )


def fail_times(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        with pytest.raises(Down):
            breaker.call(fail)


def test_closed_to_open_and_reject(breaker):
    fail_times(breaker, 2)
    assert breaker.state is CLOSED

    fail_times(breaker, 1)
    assert breaker.state is OPEN

    called: list[int] = []
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(called.append, 1)
    assert called == []
    assert caught.value.name == "payments"
    assert caught.value.state is OPEN
    assert caught.value.retry_after == 30.0


def test_failure_window_resets(breaker, clock):
    fail_times(breaker, 2)
    clock.advance(60)
    fail_times(breaker, 2)
    assert breaker.state is CLOSED
    fail_times(breaker, 1)
    assert breaker.state is OPEN


def test_half_open_success_closes(breaker, clock):
    fail_times(breaker, 3)
    clock.advance(30)
    assert breaker.state is HALF_OPEN
    assert breaker.call(lambda: "paid") == "paid"
    assert breaker.state is CLOSED


def test_half_open_failure_reopens(breaker, clock):
    fail_times(breaker, 3)
    clock.advance(30)
    fail_times(breaker, 1)
    assert breaker.state is OPEN
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(fail)
    assert caught.value.retry_after == 30.0


def test_exceptions_filtering():
    breaker = CircuitBreaker("payments", failure_threshold=1, exceptions=(ConnectionError,))
    with pytest.raises(Down):
        breaker.call(fail)
    assert breaker.state is CLOSED

    def refuse() -> None:
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        breaker.call(refuse)
    assert breaker.state is OPEN


async def test_decorator_interface(breaker, clock):
    @breaker
    def pay(amount: int, *, currency: str = "EUR") -> str:
        """Pay."""
        return f"{amount} {currency}"

    @breaker
    async def pay_later(amount: int) -> int:
        raise Down

    assert pay(3, currency="CHF") == "3 CHF"
    assert (pay.__name__, pay.__doc__) == ("pay", "Pay.")
    assert list(inspect.signature(pay).parameters) == ["amount", "currency"]
    assert inspect.iscoroutinefunction(pay_later)

    for _ in range(3):
        with pytest.raises(Down):
            await pay_later(3)
    with pytest.raises(CircuitOpenError):
        pay(3)


def test_thread_safety(breaker, clock):
    start = threading.Barrier(16)
    rejected = []

    def worker() -> None:
        start.wait()
        for _ in range(50):
            try:
                breaker.call(fail)
            except Down:
                pass
            except CircuitOpenError as error:
                rejected.append(error)

    threads = [threading.Thread(target=worker) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    let_through = 16 * 50 - len(rejected)
    assert 3 <= let_through <= 3 + 15  # those in flight when it opened
    assert len(set(map(id, rejected))) == len(rejected)
    assert breaker.state is OPEN
