"""What other breakers document, or do, played on this one.

Each case is a behaviour of a peer, with numbers: calls in their order, and what the circuit is
afterwards. Where this package decides differently, the case says what it does instead, and
``docs/coming-from.md`` says why, under the heading that the case names.

The calls: ``S`` succeeds, ``L`` succeeds after 2 seconds, ``F`` fails, ``I`` raises what is to be
ignored, ``O`` raises what nobody has said anything about; ``+30`` is half a minute without calls;
``(`` begins a call, ``)S`` and ``)F`` end the one that runs for longest; ``trip``, ``hold``,
``reset``, ``disable`` and ``metrics`` are an operator's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.core.states import Outcome
from tests.clock import Clock
from tests.core.calls import Down

DOCS = Path(__file__).parents[1] / "docs"


class NotFound(Exception):
    """What is to be ignored."""


@dataclass
class Case:
    """One behaviour.

    Attributes:
        peer: whose.
        says: what it is.
        options: the same numbers under this package's names.
        calls: what happens.
        then: the state of the peer, and how many of the calls were rejected.
        here: those of this package, where they differ.
        why: the heading that says why.
    """

    peer: str
    says: str
    options: dict[str, Any]
    calls: str
    then: tuple[str, int]
    here: tuple[str, int] | None = None
    why: str = ""
    exceptions: tuple[type[Exception], ...] = field(default=(Down,))


R4J, POLLY, PYBREAKER, FABFUEL = "resilience4j", "Polly", "pybreaker", "circuitbreaker"


def rate(share: float, minimum: int, **options: Any) -> dict[str, Any]:
    return {"failure_rate_threshold": share, "minimum_calls": minimum, **options}


HALF = rate(0.5, 4)
ONE = {"failure_threshold": 1, "recovery_timeout": 60}
SLOW = {"slow_call_duration": 2, "minimum_calls": 4}
ROW = {"consecutive_failures": 5, "recovery_timeout": 60}

CASES = [
    Case(R4J, "a rate that is reached opens", HALF, "S S F F", ("open", 0)),
    Case(R4J, "a rate below the threshold does not", HALF, "S S S F", ("closed", 0)),
    Case(
        R4J,
        "9 failures of a minimum of 10 do not open",
        rate(0.5, 10),
        "F F F F F F F F F",
        ("closed", 0),
    ),
    Case(R4J, "the tenth does", rate(0.5, 10), "F F F F F F F F F F", ("open", 0)),
    Case(R4J, "a success may complete the minimum", HALF, "F F S S", ("open", 0)),
    Case(R4J, "all calls slow open, by default", SLOW, "L L L L", ("open", 0)),
    Case(R4J, "one fast call is enough to stay closed then", SLOW, "L L L S", ("closed", 0)),
    Case(
        R4J,
        "half of the calls slow open at a slow call rate of 50 %",
        {**SLOW, "slow_call_rate_threshold": 0.5},
        "S L S L",
        ("open", 0),
    ),
    Case(
        R4J,
        "a call that takes as long as the duration, and no longer, is not slow",
        {**SLOW, "slow_call_duration": 2},
        "L L L L",
        ("closed", 0),
        here=("open", 0),
        why="When a call is slow",
    ),
    Case(R4J, "ignored exceptions are no calls", HALF, "I I I F F F", ("closed", 0)),
    Case(
        R4J,
        "exceptions that are neither recorded nor ignored are successes",
        HALF,
        "O O F F",
        ("open", 0),
        here=("closed", 0),
        why="Three outcomes, not two",
    ),
    Case(
        R4J,
        "a window of time forgets what is older",
        rate(0.5, 4, failure_window=10),
        "F F F +10 F",
        ("closed", 0),
    ),
    Case(
        R4J,
        "a window of the last 4 calls forgets the first",
        HALF,
        "S S S S F F",
        ("open", 0),
        here=("closed", 0),
        why="A window is of time",
    ),
    Case(R4J, "open rejects", ONE, "F S S", ("open", 2)),
    Case(R4J, "after the wait a trial is let through", ONE, "F +60 (", ("half_open", 0)),
    Case(
        R4J,
        "without a call the state stays open after the wait",
        ONE,
        "F +60",
        ("open", 0),
        here=("half_open", 0),
        why="Half-open needs no traffic",
    ),
    Case(
        R4J,
        "as many calls as are permitted run in half-open, and no more",
        {**ONE, "half_open_max_calls": 3, "success_threshold": 3},
        "F +60 ( ( ( (",
        ("half_open", 1),
    ),
    Case(
        R4J,
        "half-open is decided by the rate of all permitted calls",
        {**ONE, "half_open_max_calls": 4, "success_threshold": 3},
        "F +60 ( ( ( ( )S )F )S )S",
        ("closed", 0),
        here=("open", 0),
        why="One failed trial is enough",
    ),
    Case(
        R4J,
        "trials that all succeed close it",
        {**ONE, "half_open_max_calls": 3, "success_threshold": 3},
        "F +60 ( ( ( )S )S )S",
        ("closed", 0),
    ),
    Case(
        R4J,
        "a result of a call from before the opening counts as a trial",
        ONE,
        "( F +60 ( )F",
        ("open", 0),
        here=("half_open", 0),
        why="Late results",
    ),
    Case(
        R4J,
        "a trial that never ends keeps its permit",
        {**ONE, "trial_timeout": 10},
        "F +60 ( +3600 (",
        ("half_open", 1),
        here=("half_open", 0),
        why="Trials have a lease",
    ),
    Case(
        R4J,
        "each opening in a row waits longer, up to a limit",
        {**ONE, "recovery_timeout": 10, "recovery_backoff": 2, "recovery_timeout_max": 20},
        "F +10 F +10 S +10 F +19 S",
        ("open", 2),
    ),
    Case(R4J, "forced open rejects for ever", ONE, "hold +1000000 S", ("open", 1)),
    Case(R4J, "disabled lets all pass and counts nothing", ONE, "disable F F", ("closed", 0)),
    Case(R4J, "metrics only lets all pass", ONE, "metrics F F", ("closed", 0)),
    Case(R4J, "reset closes and forgets", HALF, "F F F reset F", ("closed", 0)),
    Case(POLLY, "a third of three calls failed: closed", rate(0.5, 2), "S S F", ("closed", 0)),
    Case(POLLY, "half of two calls failed: broken", rate(0.5, 2), "S F S", ("open", 1)),
    Case(
        POLLY,
        "less than the minimum throughput does not break",
        rate(0.1, 100),
        " ".join("F" * 99),
        ("closed", 0),
    ),
    Case(
        POLLY,
        "what is older than the sampling duration does not count",
        rate(0.5, 2, failure_window=2),
        "F +2 F",
        ("closed", 0),
    ),
    Case(
        POLLY,
        "only a failure breaks: a success that completes the minimum does not",
        HALF,
        "F F F S",
        ("closed", 0),
        here=("open", 0),
        why="A success may open it",
    ),
    Case(POLLY, "a broken circuit blocks for the break duration", ONE, "F +59 S", ("open", 1)),
    Case(POLLY, "then one probe runs, and no second", ONE, "F +60 ( (", ("half_open", 1)),
    Case(POLLY, "a probe that succeeds closes", ONE, "F +60 S S", ("closed", 0)),
    Case(POLLY, "a probe that fails breaks for as long again", ONE, "F +60 F +59 S", ("open", 1)),
    Case(
        POLLY,
        "what is not handled closes as a probe",
        ONE,
        "F +60 O",
        ("closed", 0),
        here=("half_open", 0),
        why="Three outcomes, not two",
    ),
    Case(
        POLLY,
        "what is not handled counts as a success",
        rate(0.5, 4),
        "O O F F",
        ("open", 0),
        here=("closed", 0),
        why="Three outcomes, not two",
    ),
    Case(
        POLLY,
        "a probe that never ends blocks",
        {**ONE, "trial_timeout": 10},
        "F +60 ( +3600 S",
        ("half_open", 1),
        here=("closed", 0),
        why="Trials have a lease",
    ),
    Case(POLLY, "isolated blocks until it is closed by hand", ONE, "hold +3600 S", ("open", 1)),
    Case(POLLY, "closing by hand lets calls pass at once", ONE, "hold reset S", ("closed", 0)),
    Case(PYBREAKER, "5 failures in a row open", ROW, "F F F F F S", ("open", 1)),
    Case(PYBREAKER, "a success begins the row anew", ROW, "F F F F S F F F F", ("closed", 0)),
    Case(
        PYBREAKER,
        "an excluded exception begins the row anew",
        ROW,
        "F F F F I F",
        ("closed", 0),
        here=("open", 0),
        why="Three outcomes, not two",
    ),
    Case(
        PYBREAKER,
        "failures that are not in a row do not open",
        {"failure_threshold": 5},
        "F F S F F S F",
        ("closed", 0),
        here=("open", 0),
        why="`failure_threshold` is no row",
    ),
    Case(
        PYBREAKER,
        "as many successes as are asked for close",
        {**ROW, "success_threshold": 2},
        "F F F F F +60 S S",
        ("closed", 0),
    ),
    Case(
        PYBREAKER,
        "without a call the state stays open after the timeout",
        ROW,
        "F F F F F +60",
        ("open", 0),
        here=("half_open", 0),
        why="Half-open needs no traffic",
    ),
    Case(FABFUEL, "5 failures in a row open", ROW, "F F F F F S", ("open", 1)),
    Case(
        FABFUEL,
        "an exception that is not expected begins the row anew",
        ROW,
        "F F F F O F",
        ("closed", 0),
        here=("open", 0),
        why="Three outcomes, not two",
    ),
    Case(
        FABFUEL,
        "all calls pass in half-open",
        ONE,
        "F +60 ( ( (",
        ("half_open", 0),
        here=("half_open", 2),
        why="One trial at a time",
    ),
    Case(
        FABFUEL,
        "after the recovery timeout it is half-open, with no call",
        ONE,
        "F +60",
        ("half_open", 0),
    ),
]


class Play:
    """The calls of a case, and how many of them were rejected."""

    def __init__(self, case: Case) -> None:
        self.clock = Clock()
        self.breaker = CircuitBreaker(
            "payments",
            backend=MemoryBackend(clock=self.clock),
            exceptions=case.exceptions,
            ignore_exceptions=NotFound,
            **case.options,
        )
        self.running: list[Any] = []
        self.rejected = 0

    def work(self, letter: str) -> None:
        if letter == "L":
            self.clock.advance(2)
        raised = {"F": Down, "I": NotFound, "O": ValueError}.get(letter)
        if raised is not None:
            raise raised

    def step(self, word: str) -> None:
        breaker = self.breaker
        if word.startswith("+"):
            self.clock.advance(float(word))
        elif word == "(":
            admission = breaker.enter()
            if isinstance(admission, CircuitOpenError):
                self.rejected += 1
            else:
                self.running.append(admission)
        elif word.startswith(")"):
            failed = word == ")F"
            outcome, error = (Outcome.FAILURE, Down()) if failed else (Outcome.SUCCESS, None)
            breaker.leave(self.running.pop(0), outcome, error)
        elif word == "hold":
            breaker.trip(hold=True)
        elif word == "metrics":
            breaker.metrics_only()
        elif len(word) > 1:
            getattr(breaker, word)()
        else:
            try:
                breaker.call(self.work, word)
            except CircuitOpenError:
                self.rejected += 1
            except (Down, NotFound, ValueError):
                pass


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.peer}: {case.says}")
def test_a_behaviour_that_a_peer_documents(case):
    play = Play(case)
    for word in case.calls.split():
        play.step(word)
    assert (play.breaker.state, play.rejected) == (case.here or case.then)
    assert case.here != case.then
    assert bool(case.here) == bool(case.why), "say why it differs"


def test_the_call_that_opens_it_raises_its_own_error():
    # pybreaker raises CircuitBreakerError in its place, by default.
    play = Play(Case(PYBREAKER, "", {"failure_threshold": 1}, "F", ("open", 0)))
    with pytest.raises(Down):
        play.breaker.call(play.work, "F")
    assert play.breaker.state == "open"


def test_a_rejection_says_when_to_come_again():
    # Polly: BrokenCircuitException.RetryAfter.
    play = Play(Case(POLLY, "", ONE, "F", ("open", 0)))
    play.step("F")
    play.step("+20")
    with pytest.raises(CircuitOpenError) as caught:
        play.breaker.call(play.work, "S")
    assert caught.value.retry_after == 40


@pytest.mark.skipif(not DOCS.is_dir(), reason="docs/ is not here")
def test_the_docs_say_why_each_case_that_differs_does():
    page = (DOCS / "coming-from.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^### (.+)$", page, re.MULTILINE))
    assert headings == {case.why for case in CASES if case.why}
