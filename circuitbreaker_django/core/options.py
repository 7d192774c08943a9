"""The options of a breaker: the one place that says what there are and what they mean."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, get_type_hints

from circuitbreaker_django.core.classify import Classifier, ExceptionSpec, RetryAfter
from circuitbreaker_django.core.policy import POLICY_FIELDS, Numbers, Policy


class BreakerOptions(Numbers, total=False):
    """One breaker: type, default and meaning of each option."""

    exceptions: Annotated[
        ExceptionSpec | Iterable[ExceptionSpec],
        "(Exception,)",
        "Classes, or dotted paths such as `'requests.RequestException'`, that count as failures. "
        "Every other exception counts as nothing.",
    ]
    ignore_exceptions: Annotated[
        ExceptionSpec | Iterable[ExceptionSpec],
        "()",
        "Classes or dotted paths that count as nothing. Of an error's classes in both lists the "
        "more specific one decides.",
    ]
    failure_predicate: Annotated[
        Callable[[Any], object] | str | None,
        "None",
        "A callable, or its dotted path, that is given an exception that counts by its class. If "
        "it returns something false, the exception counts as nothing.",
    ]
    result_predicate: Annotated[
        Callable[[Any], object] | str | None,
        "None",
        "A callable, or its dotted path, that is given what a call returned. If it returns "
        "something true, the call has failed.",
    ]
    retry_after: Annotated[
        Callable[[Any], RetryAfter | None] | str | None,
        "None",
        "A callable, or its dotted path, that is given the exception or the result that is a "
        "failure. It returns how long to leave the dependency alone: seconds, a `timedelta`, the "
        "text of a `Retry-After` header, or `None`. The wait stays between `recovery_timeout` and "
        "`recovery_timeout_max`.",
    ]


#: What each option means, by name.
TEXTS: Final[dict[str, str]] = {
    key: hint.__metadata__[1]
    for key, hint in get_type_hints(BreakerOptions, include_extras=True).items()
}


def make(options: Mapping[str, Any]) -> tuple[Policy, Classifier]:
    """Policy and classifier of one breaker.

    Raises:
        TypeError, ValueError: an unknown option or a bad value; the message names it.
    """
    for key in options:
        if key not in TEXTS:
            raise TypeError(f"{key!r} is no option of a breaker{nearest(key, TEXTS)}")
    numbers = {key: value for key, value in options.items() if key in POLICY_FIELDS}
    others = {key: value for key, value in options.items() if key not in POLICY_FIELDS}
    return Policy(**numbers), Classifier(**others)


def make_policy(options: Mapping[str, Any]) -> Policy:
    """Only the policy; what was made once of the same numbers is not made again.

    Raises:
        TypeError, ValueError: a bad value.
    """
    # The types too, for 1, 1.0 and True are equal, and not all of them are a count.
    numbers = [(key, value, type(value)) for key, value in options.items() if key in POLICY_FIELDS]
    return _policy_of(tuple(numbers))


@functools.lru_cache(maxsize=1024)
def _policy_of(numbers: tuple[tuple[str, Any, type], ...]) -> Policy:
    return Policy(**{key: value for key, value, _ in numbers})


def as_data(policy: Policy, classifier: Classifier) -> dict[str, Any]:
    """The options in force as plain values, for a store and for people."""
    numbers = {key: getattr(policy, key) for key in POLICY_FIELDS}
    return {**numbers, **classifier.as_data()}


def nearest(name: object, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
