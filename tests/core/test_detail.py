from __future__ import annotations

import pytest

from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.core.detail import MAX_MESSAGE, Detail
from tests.core.calls import Down, fail, ok


def scrub(error: Exception) -> str:
    return f"scrubbed {error.args[0]}"


def test_a_message_is_what_the_exception_says():
    assert Detail().of(Down("refused")) == "refused"
    assert Detail().of(Down()) == ""


def test_messages_are_kept_out_when_asked():
    assert Detail(False).of(Down("secret")) == ""


@pytest.mark.parametrize("spec", [scrub, f"{__name__}.scrub"])
def test_a_callable_says_what_is_kept(spec):
    assert Detail(spec).of(Down("secret")) == "scrubbed secret"


def test_a_long_message_is_cut():
    message = Detail().of(Down("x" * 10_000))
    assert len(message) == MAX_MESSAGE
    assert message.endswith("x…")
    assert Detail().of(Down("x" * MAX_MESSAGE)) == "x" * MAX_MESSAGE


@pytest.mark.parametrize("evil", ["a\r\nb", "\x1b[2J", "\u202egnp", "\ud800", "\x00"])
def test_what_does_not_print_is_escaped(evil):
    for detail in (Detail(), Detail(lambda error: str(error))):
        message = detail.of(Down(evil * 200))
        assert message.isprintable()
        assert len(message) == MAX_MESSAGE


class Text(str):
    def __getitem__(self, key):
        raise AssertionError("asked of the text itself")

    def isprintable(self):
        raise AssertionError("asked of the text itself")


class Hostile(Exception):
    def __init__(self, says):
        self.says = says

    def __str__(self):
        return self.says()


def test_an_exception_that_cannot_be_told_has_no_message(caplog):
    for says in (lambda: 1 / 0, lambda: None):
        assert Detail().of(Hostile(says)) == ""
    assert not caplog.records


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_that_arrives_while_a_message_is_made_is_not_lost(interruption):
    def says():
        raise interruption

    error = Hostile(says)
    with pytest.raises(interruption) as caught:
        CircuitBreaker().call(fail, error)
    assert caught.value.__context__ is error


def test_a_text_that_is_no_plain_one_is_made_one():
    message = Detail().of(Hostile(lambda: Text("evil")))
    assert (type(message), message) == (str, "evil")


@pytest.mark.parametrize(
    ("spec", "told"), [(lambda error: 1 / 0, 1), (lambda error: None, 0), ("no.such.module", 1)]
)
def test_a_callable_that_fails_tells_nothing_of_what_it_was_to_hide(spec, told, caplog):
    detail = Detail(spec)
    for _ in range(3):
        assert detail.of(Down("secret")) == ""
    assert len(caplog.records) == told
    assert "secret" not in caplog.messages


@pytest.mark.parametrize("spec", [None, 3, 1.0, []])
def test_nothing_else_is_taken(spec):
    with pytest.raises(TypeError, match=r"^ERROR_DETAIL must be .*a sync callable"):
        Detail(spec)


def test_class_and_message_of_the_last_error_are_kept_apart():
    breaker = CircuitBreaker("payments", failure_threshold=2)
    for message in ("refused", "timed out"):
        with pytest.raises(Down):
            breaker.call(fail, Down(message))
    circuit = breaker.backend.overview().circuits["payments"]
    assert (circuit.last_error, circuit.last_message) == ("Down", "timed out")
    assert 0 < circuit.last_error_at <= circuit.since
    event = breaker.backend.events()[0][1]
    assert (event.last_error, event.last_message) == ("Down", "timed out")


def test_the_caller_gets_his_own_exception_whatever_it_says():
    breaker = CircuitBreaker(failure_threshold=1)
    error = Hostile(lambda: 1 / 0)
    with pytest.raises(Hostile) as caught:
        breaker.call(fail, error)
    assert caught.value is error
    assert breaker.backend.events()[0][1].last_error == "Hostile"


def test_no_message_is_made_of_what_is_no_failure():
    breaker = CircuitBreaker(ignore_exceptions=[Hostile])
    asked = []
    with pytest.raises(Hostile):
        breaker.call(fail, Hostile(lambda: asked.append(1)))
    assert breaker.call(ok) == "ok"
    assert not asked
