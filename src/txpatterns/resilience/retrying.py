"""Making a call again at once, a few times, within seconds: what lasts longer is the work of a message or a saga."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from txpatterns.checks import INSTANT, check_at_least
from txpatterns.errors import MissingExtra
from txpatterns.resilience.guards import is_awaited, refuse_awaitable, refuse_generator
from txpatterns.resilience.outages import is_outage, was_not_made

try:
    import stamina
except ImportError as missing:
    raise MissingExtra("stamina is not installed.", fix="pip install 'txpatterns[resilience]'") from missing

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Retrying:
    """Makes a call again that has failed: ``@Retrying()``, or ``for attempt in Retrying(): with attempt: ...``.

    A decorator of ``def`` and of ``async def``; as a block ``async for`` in coroutines, ``with`` in either. ``on`` says
    which errors are worth another attempt, by default `is_outage`. What was not begun, because a breaker is open or a
    limit reached, is none of them. There are at most ``attempts``, for at most ``within``; each wait is twice as long
    as the one before, from ``first_wait`` to ``longest_wait``, and by chance longer by up to ``jitter``. The last error
    is raised as it is. stamina logs each wait, with the error; never the arguments of the call.

    A call may have had its effect although it failed: do so with what may happen twice only. Its waits are of real
    time; the test kit switches them off.

    Raises:
        ConfigurationError: less than one attempt, or a time that is not more than nothing.
    """

    on: Callable[[Exception], bool] = is_outage
    attempts: int = 3
    within: timedelta = timedelta(seconds=10)
    first_wait: timedelta = timedelta(milliseconds=100)
    longest_wait: timedelta = timedelta(seconds=5)
    jitter: timedelta = timedelta(milliseconds=500)

    def __post_init__(self) -> None:
        check_at_least(1, self, "attempts")
        check_at_least(INSTANT, self, "within", "first_wait", "longest_wait")
        check_at_least(timedelta(0), self, "jitter")

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Make the calls of a function again that have failed.

        Raises:
            ConfigurationError: the function yields, so what it gave so far would be given again.
        """
        refuse_generator(function)
        guarded: Any = self._awaiting(function) if is_awaited(function) else self._plain(function)
        wrapped: Callable[P, R] = functools.wraps(function)(guarded)
        return wrapped

    def __iter__(self) -> Iterator[stamina.Attempt]:
        return iter(stamina.retry_context(on=self._is_worth_it, **self._waits()))

    def __aiter__(self) -> AsyncIterator[stamina.Attempt]:
        return aiter(stamina.retry_context(on=self._is_worth_it, **self._waits()))

    # By the block: stamina's own decorator writes the arguments of the call, whatever is in them, into the log.

    def _awaiting(self, function: Callable[P, Any]) -> Callable[P, Awaitable[Any]]:
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            async for attempt in self:
                with attempt:
                    return await function(*args, **kwargs)
            raise AssertionError("the last attempt has raised")

        return guarded

    def _plain(self, function: Callable[P, Any]) -> Callable[P, Any]:
        def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            for attempt in self:
                with attempt:
                    given = function(*args, **kwargs)
                    refuse_awaitable(function, given)
                    return given
            raise AssertionError("the last attempt has raised")

        return guarded

    def _is_worth_it(self, error: Exception) -> bool:
        return not was_not_made(error) and self.on(error)

    def _waits(self) -> dict[str, Any]:
        return {
            "attempts": self.attempts,
            "timeout": self.within,
            "wait_initial": self.first_wait,
            "wait_max": self.longest_wait,
            "wait_jitter": self.jitter,
        }
