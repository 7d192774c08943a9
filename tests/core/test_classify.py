from __future__ import annotations

import asyncio
import functools
import logging
import sys
import threading
from abc import ABCMeta
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import inf, nan
from typing import Any

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.core.classify import (
    Classifier,
    NotInstalled,
    resolve,
    resolve_callable,
)
from circuitbreaker_django.core.states import Outcome
from tests.core.calls import Down

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes an importable module and forgets it afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def module(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)

    yield module
    for name in names:
        sys.modules.pop(name, None)


def test_classes_and_their_subclasses_are_failures_and_all_else_is_neutral():
    classifier = Classifier((ConnectionError, Down))
    assert classifier.classify(ConnectionRefusedError()) is Outcome.FAILURE
    assert classifier.classify(Down()) is Outcome.FAILURE
    assert classifier.classify(ValueError()) is Outcome.IGNORED


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(),
        GeneratorExit(),
        CircuitOpenError("inner", CircuitState.OPEN, 1.0),
    ],
)
@pytest.mark.parametrize("specs", [BaseException, (Exception,), (asyncio.CancelledError,)])
def test_cancellation_the_end_of_the_process_and_rejections_are_always_neutral(error, specs):
    assert Classifier(specs).classify(error) is Outcome.IGNORED


def test_no_exceptions_at_all_count_nothing():
    assert Classifier(()).classify(ValueError()) is Outcome.IGNORED


@pytest.mark.parametrize(
    "specs", [ValueError, [ValueError], "ValueError", ["builtins.ValueError"]], ids=repr
)
def test_one_class_or_path_and_any_iterable_will_do(specs):
    classifier = Classifier(specs)
    assert classifier.classify(UnicodeError()) is Outcome.FAILURE
    assert classifier.exceptions.paths() == ("builtins.ValueError",)


@pytest.mark.parametrize("option", ["exceptions", "ignore_exceptions"])
def test_an_iterator_is_refused_since_the_first_look_would_use_it_up(option):
    specs: Any = {option: iter([ValueError, "KeyError"])}
    with pytest.raises(TypeError, match=f"^{option} must be a tuple or a list, not a list_iter"):
        Classifier(**specs)


@pytest.mark.parametrize(
    "specs",
    [5, None, (5,), (int,), int, (ValueError(),), ValueError(), "", "a b", "a..b", ".a", (b"x",)],
)
@pytest.mark.parametrize("option", ["exceptions", "ignore_exceptions"])
def test_what_is_neither_a_class_nor_a_path_is_a_type_error(option, specs):
    with pytest.raises(TypeError, match=f"^{option} must be exception classes or dotted paths"):
        CircuitBreaker(**{option: specs})


def test_a_path_is_resolved_at_the_first_exception_and_once(module):
    module("lazy_library", "import threading\nclass Oops(Exception): pass\n")
    breaker = CircuitBreaker(exceptions=["lazy_library.Oops"])
    assert "lazy_library" not in sys.modules
    with pytest.raises(Down):
        breaker.call(_raise, Down())
    oops = sys.modules.pop("lazy_library").Oops
    assert breaker.classifier.classify(oops()) is Outcome.FAILURE
    assert "lazy_library" not in sys.modules


def _raise(error: BaseException) -> None:
    raise error


def test_cancellation_resolves_nothing(module):
    module("untouched_library", "class Oops(Exception): pass\n")
    Classifier("untouched_library.Oops").classify(asyncio.CancelledError())
    assert "untouched_library" not in sys.modules


def test_a_library_that_is_not_installed_is_passed_over_in_silence(caplog):
    classifier = Classifier(["no_such_library.errors.Oops", "ValueError"])
    assert classifier.classify(ValueError()) is Outcome.FAILURE
    assert classifier.classify(KeyError()) is Outcome.IGNORED
    assert caplog.records == []


@pytest.mark.parametrize(
    "path",
    [
        "wrong_library.Missing",
        "wrong_library.number",
        "wrong_library.int",
        "wrong_library.deeper.Oops",
        "NoSuchBuiltin",
    ],
)
def test_a_wrong_name_is_one_error_in_the_log_and_the_rest_still_counts(module, caplog, path):
    module("wrong_library", "number = 5\n")
    classifier = Classifier([path, ValueError])
    assert classifier.classify(ValueError()) is Outcome.FAILURE
    assert classifier.classify(ValueError()) is Outcome.FAILURE
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    told, _, why = record.getMessage().partition(" is passed over: ")
    assert told == f"exceptions: {path!r}"
    assert why not in ("", "None")


@pytest.mark.parametrize("source", ["import no_such_dependency", "1 / 0", "raise ValueError"])
def test_a_library_that_cannot_be_imported_never_hurts_the_call(module, caplog, source):
    module("broken_library", source)
    classifier = Classifier(["broken_library.Oops", ValueError])
    assert classifier.classify(ValueError()) is Outcome.FAILURE
    assert len(caplog.records) == 1


def test_of_two_threads_that_resolve_at_once_one_tells_of_the_problem(monkeypatch, caplog):
    both = threading.Barrier(2)

    def resolve(path: str) -> type[BaseException]:
        both.wait()
        raise ImportError(path)

    monkeypatch.setattr("circuitbreaker_django.core.classify.resolve", resolve)
    classifier = Classifier(["x.Y", ValueError])
    outcomes = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(classifier.classify(ValueError())))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [Outcome.FAILURE] * 2
    assert len(caplog.records) == 1


def test_resolve_tells_what_is_missing():
    assert resolve("ConnectionError") is ConnectionError
    assert resolve("concurrent.futures.TimeoutError") is TimeoutError
    with pytest.raises(NotInstalled, match="no_such_library is not installed"):
        resolve("no_such_library.errors.Oops")
    with pytest.raises(ModuleNotFoundError):
        resolve("json.no_such_module.Oops")
    with pytest.raises(ImportError, match="json has no exception class 'loads'"):
        resolve("json.loads")


# -- the more specific wins ---------------------------------------------------------------------


class Base(Exception):
    pass


class Middle(Base):
    pass


class Leaf(Middle):
    pass


class Other(Exception):
    pass


class Both(Middle, Other):
    pass


class Declared(Exception, metaclass=ABCMeta):
    pass


Declared.register(Leaf)


@pytest.mark.parametrize(
    ("exceptions", "ignore", "error", "failure"),
    [
        ([Base], [Middle], Base(), True),
        ([Base], [Middle], Middle(), False),
        ([Base], [Middle], Leaf(), False),
        ([Middle], [Base], Middle(), True),
        ([Middle], [Base], Leaf(), True),
        ([Middle], [Base], Base(), False),
        ([Base, Leaf], [Middle], Leaf(), True),
        ([Base, Leaf], [Middle], Middle(), False),
        ([Exception], [Exception], Base(), False),
        ([Middle], ["tests.core.test_classify.Middle"], Leaf(), False),
        ([Exception], ["tests.core.test_classify.Base"], Leaf(), False),
        (["tests.core.test_classify.Middle"], [Base], Leaf(), True),
        # Of several bases the one that comes first in the MRO is nearer.
        ([Middle], [Other], Both(), True),
        ([Other], [Middle], Both(), False),
        # What only an ABC declares is the farthest, farther than Exception or object.
        ([Declared], [], Leaf(), True),
        ([Declared], [Exception], Leaf(), False),
        ([Exception], [Declared], Leaf(), True),
        ([Declared], [Declared], Leaf(), False),
        ([], [Base], Leaf(), False),
    ],
)
def test_the_class_that_is_nearest_decides_and_on_a_tie_it_is_ignored(
    exceptions, ignore, error, failure
):
    classifier = Classifier(exceptions, ignore)
    assert classifier.classify(error) is (Outcome.FAILURE if failure else Outcome.IGNORED)


def test_by_default_nothing_is_ignored():
    assert Classifier().classify(Leaf()) is Outcome.FAILURE


def test_a_wrong_path_to_ignore_is_passed_over_and_told_by_its_name(caplog):
    classifier = Classifier(ignore_exceptions=["json.Nothing", "no_such_library.Oops", KeyError])
    assert classifier.classify(ValueError()) is Outcome.FAILURE
    assert classifier.classify(KeyError()) is Outcome.IGNORED
    [record] = caplog.records
    assert record.getMessage().startswith("ignore_exceptions: 'json.Nothing' is passed over: ")


# -- the predicates -----------------------------------------------------------------------------


class Truthless:
    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")


def is_late(error: object) -> bool:
    return "late" in str(error)


def is_broken(about: object) -> float:
    raise RuntimeError("the predicate's own")


async def is_async(about: object) -> bool:
    return True


class Asynchronous:
    async def __call__(self, about: object) -> bool:
        return True


HERE = "tests.core.test_classify"


@pytest.mark.parametrize("predicate", [is_late, f"{HERE}.is_late"], ids=["callable", "path"])
def test_the_failure_predicate_has_the_last_word_on_what_counts_by_class(predicate):
    classifier = Classifier([Base], [Middle], failure_predicate=predicate)
    assert classifier.classify(Base("late")) is Outcome.FAILURE
    assert classifier.classify(Base("early")) is Outcome.IGNORED
    assert classifier.classify(Middle("late")) is Outcome.IGNORED
    assert classifier.classify(ValueError("late")) is Outcome.IGNORED


@pytest.mark.parametrize("said", [1, "yes", [0]])
def test_any_true_value_of_a_predicate_will_do(said):
    classifier = Classifier(failure_predicate=lambda error: said, result_predicate=lambda r: said)
    assert classifier.classify(Down()) is Outcome.FAILURE
    assert classifier.judge(None) is Outcome.FAILURE


@pytest.mark.parametrize("said", [0, "", None, []])
def test_any_false_value_of_a_predicate_will_do(said):
    classifier = Classifier(failure_predicate=lambda error: said, result_predicate=lambda r: said)
    assert classifier.classify(Down()) is Outcome.IGNORED
    assert classifier.judge(None) is Outcome.SUCCESS


def test_the_failure_predicate_is_not_asked_of_what_never_counts():
    asked: list[object] = []
    classifier = Classifier([Exception], [KeyError], failure_predicate=asked.append)
    for error in (
        KeyError(),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        CircuitOpenError("inner", CircuitState.OPEN, 1.0),
    ):
        assert classifier.classify(error) is Outcome.IGNORED
    assert asked == []


def test_results_are_judged_where_a_predicate_is_given():
    classifier = Classifier(result_predicate=is_late)
    assert classifier.judges_results
    assert classifier.judge("late") is Outcome.FAILURE
    assert classifier.judge("early") is Outcome.SUCCESS


def test_without_a_predicate_every_result_is_a_success():
    assert not Classifier().judges_results
    assert Classifier().judge("late") is Outcome.SUCCESS


def test_the_result_predicate_may_be_a_path(module):
    module("lazy_predicates", "def is_none(result): return result is None")
    classifier = Classifier(result_predicate="lazy_predicates.is_none")
    assert classifier.judges_results
    assert "lazy_predicates" not in sys.modules
    assert classifier.judge(None) is Outcome.FAILURE
    assert classifier.judge(0) is Outcome.SUCCESS


@pytest.mark.parametrize(
    "predicate",
    [is_broken, f"{HERE}.is_broken", lambda about: Truthless(), lambda: True],
    ids=["callable", "path", "no truth", "other arguments"],
)
def test_what_a_predicate_raises_is_told_once_and_the_call_is_ignored(predicate, caplog):
    classifier = Classifier(failure_predicate=predicate, result_predicate=predicate)
    for _ in range(3):
        assert classifier.classify(Down()) is Outcome.IGNORED
    [record] = caplog.records
    assert record.exc_info
    assert record.getMessage().startswith(f"failure_predicate: {HERE}.")
    for _ in range(3):
        assert classifier.judge(None) is Outcome.IGNORED
    assert len(caplog.records) == 2
    assert caplog.records[1].getMessage().startswith(f"result_predicate: {HERE}.")


def test_an_interrupt_while_a_predicate_runs_is_not_kept_back():
    def interrupted(about: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Classifier(result_predicate=interrupted).judge(None)


@pytest.mark.parametrize(
    "path",
    [
        "no_such_library.is_late",
        "json.no_such_function",
        "json.__name__",
        f"{HERE}.is_async",
        "broken_predicates.is_late",
    ],
)
def test_a_path_that_leads_to_no_callable_is_told_once_and_as_if_not_given(module, caplog, path):
    module("broken_predicates", "1 / 0")
    classifier = Classifier(failure_predicate=path, result_predicate=path, retry_after=path)
    for _ in range(2):
        assert classifier.classify(Down()) is Outcome.FAILURE
        assert classifier.judge(None) is Outcome.SUCCESS
        assert classifier.retry_after(Down()) is None
    messages = [record.getMessage() for record in caplog.records]
    assert not any(message.endswith((": ", ": None")) for message in messages)
    assert [message.partition(" is passed over: ")[0] for message in messages] == [
        f"failure_predicate: {path!r}",
        f"result_predicate: {path!r}",
        f"retry_after: {path!r}",
    ]


def test_of_two_threads_that_look_for_a_predicate_at_once_one_tells_that_there_is_none(
    monkeypatch, caplog
):
    both = threading.Barrier(2)

    def resolve_callable(path: str) -> None:
        both.wait()
        raise ImportError(path)

    monkeypatch.setattr("circuitbreaker_django.core.classify.resolve_callable", resolve_callable)
    classifier = Classifier(result_predicate="x.y")
    threads = [threading.Thread(target=classifier.judge, args=(None,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("option", ["failure_predicate", "result_predicate", "retry_after"])
@pytest.mark.parametrize(
    "value", [5, "", "a b", "a..b", b"x", [is_late], is_async, Asynchronous(), True]
)
def test_what_is_neither_a_sync_callable_nor_a_path_is_a_type_error(option, value):
    with pytest.raises(TypeError, match=f"^{option} must be a sync callable, a dotted path such"):
        CircuitBreaker(**{option: value})


def test_resolve_callable_tells_what_is_missing():
    assert resolve_callable("bool") is bool
    assert resolve_callable("json.loads").__name__ == "loads"
    with pytest.raises(NotInstalled, match="no_such_library is not installed"):
        resolve_callable("no_such_library.is_late")
    with pytest.raises(ImportError, match="json has no sync callable 'nothing'"):
        resolve_callable("json.nothing")


# -- groups -------------------------------------------------------------------------------------


class Batch(ExceptionGroup[Exception]):
    pass


def rejection() -> CircuitOpenError:
    return CircuitOpenError("inner", CircuitState.OPEN, 1.0)


@pytest.mark.parametrize(
    ("errors", "failure"),
    [
        ([ValueError()], False),
        ([Down()], True),
        ([ValueError(), Down()], True),
        ([Down(), ValueError()], True),
        ([ValueError(), ExceptionGroup("", [KeyError(), Down()])], True),
        ([ValueError(), ExceptionGroup("", [KeyError()])], False),
        ([rejection(), rejection()], False),
        ([rejection(), Down()], True),
        ([ExceptionGroup("", [rejection()])], False),
    ],
)
def test_a_group_is_a_failure_if_one_of_its_leaves_is(errors, failure):
    expected = Outcome.FAILURE if failure else Outcome.IGNORED
    for group in (ExceptionGroup, BaseExceptionGroup, Batch):
        assert Classifier([Down]).classify(group("", errors)) is expected


def test_a_group_of_rejections_is_ignored_even_where_every_exception_counts():
    assert Classifier().classify(ExceptionGroup("", [rejection()])) is Outcome.IGNORED


def test_what_is_cancelled_in_a_group_does_not_count_and_what_failed_beside_it_does():
    cancelled = asyncio.CancelledError()
    classifier = Classifier()
    assert classifier.classify(BaseExceptionGroup("", [cancelled])) is Outcome.IGNORED
    assert classifier.classify(BaseExceptionGroup("", [cancelled, Down()])) is Outcome.FAILURE


def test_leaves_are_ignored_one_by_one():
    classifier = Classifier(ignore_exceptions=[ValueError], failure_predicate=is_late)
    assert classifier.classify(ExceptionGroup("", [ValueError("late")])) is Outcome.IGNORED
    assert classifier.classify(ExceptionGroup("", [KeyError("early")])) is Outcome.IGNORED
    errors = [ValueError("late"), KeyError("early"), KeyError("late")]
    assert classifier.classify(ExceptionGroup("", errors)) is Outcome.FAILURE


@pytest.mark.parametrize("named", [ExceptionGroup, BaseExceptionGroup, "builtins.ExceptionGroup"])
def test_a_group_whose_class_is_named_is_classified_as_itself(named):
    group = ExceptionGroup("late", [ValueError()])
    assert Classifier([named]).classify(group) is Outcome.FAILURE
    assert Classifier([named]).classify(ExceptionGroup("", [group])) is Outcome.FAILURE
    assert Classifier([named]).classify(Batch("", [ValueError()])) is Outcome.FAILURE
    assert Classifier(ignore_exceptions=[named]).classify(group) is Outcome.IGNORED
    assert Classifier([named], failure_predicate=is_late).classify(group) is Outcome.FAILURE


def test_a_group_in_a_group_may_be_the_one_that_is_named():
    classifier = Classifier(ignore_exceptions=[Batch])
    batch = Batch("", [Down()])
    assert classifier.classify(batch) is Outcome.IGNORED
    assert classifier.classify(ExceptionGroup("", [batch])) is Outcome.IGNORED
    assert classifier.classify(ExceptionGroup("", [batch, Down()])) is Outcome.FAILURE


def test_a_named_group_that_is_no_exception_never_counts():
    group = BaseExceptionGroup("", [asyncio.CancelledError(), Down()])
    assert Classifier([BaseExceptionGroup]).classify(group) is Outcome.IGNORED


def test_groups_may_nest_deeper_than_calls():
    group: ExceptionGroup[Exception] = ExceptionGroup("", [Down()])
    for _ in range(10 * sys.getrecursionlimit()):
        group = ExceptionGroup("", [group])
    assert Classifier([Down]).classify(group) is Outcome.FAILURE


def test_a_group_that_is_in_many_others_is_looked_into_once():
    asked: list[object] = []
    group: ExceptionGroup[Exception] = ExceptionGroup("", [Down()])
    for _ in range(100):
        group = ExceptionGroup("", [group, group])
    classifier = Classifier(failure_predicate=asked.append)
    assert classifier.classify(group) is Outcome.IGNORED
    assert len(asked) == 1


# -- retry after --------------------------------------------------------------------------------


@pytest.fixture
def noon(monkeypatch):
    monkeypatch.setattr("circuitbreaker_django.core.classify.time", NOW.timestamp)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        (7, 7),
        (1.5, 1.5),
        (1e308, 1e9),
        (10**400, 1e9),
        (timedelta(minutes=2), 120),
        (timedelta(0), 0),
        (timedelta.max, 1e9),
        ("0", 0),
        ("120", 120),
        ("1.5", 1.5),
        (" 120 ", 120),
        ("9" * 60, 1e9),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        ("Sunday, 01-Mar-26 12:01:30 GMT", 90),
        ("Sun Mar  1 12:01:30 2026", 90),
        ("Sun, 01 Mar 2026 13:01:30 +0100", 90),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9),
    ],
    ids=lambda value: repr(value)[:40],
)
@pytest.mark.usefixtures("noon")
def test_how_long_to_wait_may_be_said_in_many_ways(value, seconds, caplog):
    told = Classifier(retry_after=lambda answer: value).retry_after(Down())
    assert told == seconds
    assert told is None or type(told) is float
    assert caplog.records == []


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.001,
        nan,
        inf,
        -inf,
        -(10**400),
        timedelta(seconds=-1),
        True,
        "",
        "soon",
        "-5",
        "nan",
        "inf",
        "1e3",
        "1_000",
        "\N{ARABIC-INDIC DIGIT THREE}",
        "5 s",
        "\x00",
        "9" * 1_000_000,
        "0" * 65,
        "Sun, 99 Foo 2026 25:61:61 GMT",
        "Sun, 01 Mar 99999 12:00:00 GMT",
        "Sun, 01 Mar 2026 12:00:00 +9999",
        b"5",
        NOW,
        [5],
        object(),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest.mark.usefixtures("noon")
def test_what_makes_no_sense_as_a_time_to_wait_is_told_once(value, caplog):
    classifier = Classifier(retry_after=lambda answer: value)
    for _ in range(3):
        assert classifier.retry_after(Down()) is None
    [record] = caplog.records
    assert record.getMessage().startswith(f"retry_after: {HERE}.")
    assert record.exc_info
    assert len(str(record.exc_info[1])) < 200


def test_what_retry_after_raises_is_told_once(caplog):
    classifier = Classifier(retry_after=is_broken)
    for _ in range(3):
        assert classifier.retry_after(Down()) is None
    [record] = caplog.records
    assert record.exc_info


def test_retry_after_is_given_the_answer():
    asked: list[object] = []
    error, classifier = Down(), Classifier(retry_after=asked.append)
    classifier.retry_after(error)
    classifier.retry_after("a result")
    assert asked == [error, "a result"]


def test_without_retry_after_nothing_is_asked():
    assert Classifier().retry_after(Down()) is None


# -- as data ------------------------------------------------------------------------------------


class Limits:
    def is_late(self, about: object) -> bool:
        return is_late(about)


def test_it_can_be_told_as_plain_values():
    assert Classifier().as_data() == {
        "exceptions": ["builtins.Exception"],
        "ignore_exceptions": [],
        "failure_predicate": None,
        "result_predicate": None,
        "retry_after": None,
    }
    classifier = Classifier(
        [Down, "a.Oops"],
        "KeyError",
        failure_predicate=is_late,
        result_predicate=Limits().is_late,
        retry_after=functools.partial(is_late),
    )
    assert classifier.as_data() == {
        "exceptions": ["tests.core.calls.Down", "a.Oops"],
        "ignore_exceptions": ["builtins.KeyError"],
        "failure_predicate": f"{HERE}.is_late",
        "result_predicate": f"{HERE}.Limits.is_late",
        "retry_after": "functools.partial",
    }
    assert Classifier(failure_predicate="a.b").as_data()["failure_predicate"] == "a.b"


@pytest.mark.parametrize(
    ("option", "given", "named"),
    [
        ("exceptions", ValueError, "builtins.ValueError"),
        ("exceptions", ["ValueError"], ValueError),
        ("ignore_exceptions", ValueError, ("ValueError",)),
        ("failure_predicate", is_late, f"{HERE}.is_late"),
        ("result_predicate", bool, "bool"),
        ("retry_after", is_broken, f"{HERE}.is_broken"),
    ],
)
def test_two_that_say_the_same_are_equal(option, given, named):
    one, other = Classifier(**{option: given}), Classifier(**{option: named})
    assert one == other
    assert hash(one) == hash(other)
    assert one != Classifier()
    assert one != named


def test_lambdas_and_methods_are_equal_to_themselves_alone():
    limits = Limits()
    for one, other in [(lambda about: 1, lambda about: 2), (limits.is_late, Limits().is_late)]:
        assert Classifier(failure_predicate=one) == Classifier(failure_predicate=one)
        assert Classifier(failure_predicate=one) != Classifier(failure_predicate=other)
    assert Classifier(retry_after=limits.is_late) == Classifier(retry_after=limits.is_late)


def test_a_group_that_is_in_another_twice_does_not_hide_the_rest():
    twice = ExceptionGroup("inner", [KeyError()])
    group = ExceptionGroup("outer", [Down(), twice, twice])
    assert Classifier(Down).classify(group) is Outcome.FAILURE


def test_classifiers_that_are_equal_have_one_hash_and_others_mostly_another():
    assert hash(Classifier(Down)) == hash(Classifier((Down,)))
    assert hash(Classifier(Down)) != hash(Classifier(ValueError))
