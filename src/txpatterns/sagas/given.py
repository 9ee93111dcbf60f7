"""What a saga is given is checked where it is given: a time, a class or a function that does not fit is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

from txpatterns.errors import SagaDefinitionError
from txpatterns.execution.calls import is_coroutine_function
from txpatterns.retries import LONGEST_WAIT
from txpatterns.sagas.values import hints_of, name_of, says_awaitable

T = TypeVar("T")

_NOTHING = timedelta(0)


def instance(kind: type[T], given: T, what: str) -> T:
    """Give back what is of a class.

    Raises:
        SagaDefinitionError: it is not.
    """
    if not isinstance(given, kind):
        fix = "Write: timedelta(seconds=30), say." if kind is timedelta else f"Give a {kind.__name__}."
        raise SagaDefinitionError(f"{what} is given {given!r}, which is no {kind.__name__}.", fix=fix)
    return given


def some_time(time: timedelta, what: str) -> timedelta:
    """Give back a time that can be waited for: more than nothing, and at most a hundred years.

    Raises:
        SagaDefinitionError: it is none.
    """
    if not _NOTHING < instance(timedelta, time, what) <= LONGEST_WAIT:
        raise SagaDefinitionError(
            f"{what} must be more than nothing, and at most a hundred years.", fix="Write: timedelta(seconds=30), say."
        )
    return time


def check_takes(function: Callable[..., Any] | None, first: str, count: int) -> None:
    """Check that a function can be called with what leads it and ``count`` arguments; None passes.

    Raises:
        SagaDefinitionError: it cannot.
    """
    if isinstance(function, Hashable):
        _check_takes(function, first, count)


@lru_cache(maxsize=4096)
def _check_takes(function: Any, first: str, count: int) -> None:
    if function is None:
        return
    if inspect.iscoroutine(function):
        name = function.__name__
        raise SagaDefinitionError(
            f"{name} has been called already.", fix=f"Give the function, and its arguments behind it: {name}, ..."
        )
    if not callable(function):
        raise SagaDefinitionError(f"{function!r} cannot be called.", fix="Give a function.")
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in another language, which does not tell
        return
    try:
        signature.bind(*[None] * (1 + count))
    except TypeError as error:
        raise SagaDefinitionError(
            f"{name_of(function)} cannot be called with its {first} and {_arguments(count)}: {error}.",
            fix=f"It takes a {first}, and then what is given behind the action.",
        ) from error


def check_awaited(function: Callable[..., Any]) -> None:
    """Check that what calls somebody else can be awaited, as far as it says so.

    Raises:
        SagaDefinitionError: it cannot.
    """
    if not is_coroutine_function(function) and "return" in hints_of(function) and not says_awaitable(function):
        raise SagaDefinitionError(
            f"{name_of(function)} is no async def, and a call is awaited.",
            fix="Write it as async def; what blocks goes into a thread: await asyncio.to_thread(...).",
        )


def _arguments(count: int) -> str:
    return f"{count} argument{'' if count == 1 else 's'}"
