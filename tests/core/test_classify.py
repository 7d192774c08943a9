from __future__ import annotations

import asyncio
import logging
import sys
import threading

import pytest

from circuitbreaker_django import CircuitBreaker, CircuitOpenError, CircuitState
from circuitbreaker_django.core.classify import ExceptionSpec, ExceptionTypes, NotInstalled, resolve
from circuitbreaker_django.core.states import Outcome
from tests.core.calls import Down


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
    types = ExceptionTypes((ConnectionError, Down))
    assert types.classify(ConnectionRefusedError()) is Outcome.FAILURE
    assert types.classify(Down()) is Outcome.FAILURE
    assert types.classify(ValueError()) is Outcome.IGNORED


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
    assert ExceptionTypes(specs).classify(error) is Outcome.IGNORED


def test_no_exceptions_at_all_count_nothing():
    assert ExceptionTypes(()).classify(ValueError()) is Outcome.IGNORED


@pytest.mark.parametrize(
    "specs", [ValueError, [ValueError], "ValueError", ["builtins.ValueError"]], ids=repr
)
def test_one_class_or_path_and_any_iterable_will_do(specs):
    types = ExceptionTypes(specs)
    assert types.classify(UnicodeError()) is Outcome.FAILURE
    assert types.paths() == ("builtins.ValueError",)


def test_an_iterator_is_read_once():
    specs: list[ExceptionSpec] = [ValueError, "KeyError"]
    types = ExceptionTypes(iter(specs))
    assert types.paths() == ("builtins.ValueError", "builtins.KeyError")


@pytest.mark.parametrize(
    "specs",
    [5, None, (5,), (int,), int, (ValueError(),), ValueError(), "", "a b", "a..b", ".a", (b"x",)],
)
def test_what_is_neither_a_class_nor_a_path_is_a_type_error(specs):
    with pytest.raises(TypeError, match=r"^exceptions must be exception classes or dotted paths"):
        CircuitBreaker(exceptions=specs)


def test_two_that_name_the_same_are_equal():
    named, given = ExceptionTypes("builtins.ValueError"), ExceptionTypes(ValueError)
    assert named == given == ExceptionTypes("ValueError")
    assert hash(named) == hash(given)
    assert named != ExceptionTypes(KeyError)
    assert named != "builtins.ValueError"


def test_a_path_is_resolved_at_the_first_exception_and_once(module):
    module("lazy_library", "import threading\nclass Oops(Exception): pass\n")
    breaker = CircuitBreaker(exceptions=["lazy_library.Oops"])
    assert "lazy_library" not in sys.modules
    with pytest.raises(Down):
        breaker.call(_raise, Down())
    oops = sys.modules.pop("lazy_library").Oops
    assert breaker.exceptions.classify(oops()) is Outcome.FAILURE
    assert "lazy_library" not in sys.modules


def _raise(error: BaseException) -> None:
    raise error


def test_cancellation_resolves_nothing(module):
    module("untouched_library", "class Oops(Exception): pass\n")
    ExceptionTypes("untouched_library.Oops").classify(asyncio.CancelledError())
    assert "untouched_library" not in sys.modules


def test_a_library_that_is_not_installed_is_passed_over_in_silence(caplog):
    types = ExceptionTypes(["no_such_library.errors.Oops", "ValueError"])
    assert types.classify(ValueError()) is Outcome.FAILURE
    assert types.classify(KeyError()) is Outcome.IGNORED
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
    types = ExceptionTypes([path, ValueError])
    assert types.classify(ValueError()) is Outcome.FAILURE
    assert types.classify(ValueError()) is Outcome.FAILURE
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"exceptions: {path!r} is passed over: ")


@pytest.mark.parametrize("source", ["import no_such_dependency", "1 / 0", "raise ValueError"])
def test_a_library_that_cannot_be_imported_never_hurts_the_call(module, caplog, source):
    module("broken_library", source)
    types = ExceptionTypes(["broken_library.Oops", ValueError])
    assert types.classify(ValueError()) is Outcome.FAILURE
    assert len(caplog.records) == 1


def test_of_two_threads_that_resolve_at_once_one_tells_of_the_problem(monkeypatch, caplog):
    both = threading.Barrier(2)

    def resolve(path: str) -> type[BaseException]:
        both.wait()
        raise ImportError(path)

    monkeypatch.setattr("circuitbreaker_django.core.classify.resolve", resolve)
    types = ExceptionTypes(["x.Y", ValueError])
    outcomes = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(types.classify(ValueError())))
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
