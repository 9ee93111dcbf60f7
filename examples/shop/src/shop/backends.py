"""A breaker in front of each of the other services: who is away is not asked, and nobody waits for them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from shop.problems import NoAnswer, Problem
from txpatterns.errors import CircuitOpen
from txpatterns.hooks import HookList
from txpatterns.resilience import CircuitBreaker, is_outage

T = TypeVar("T")

FAILURES = 5
"""So many calls in a row without an answer, and the service is taken to be away."""
ABSENT = ("unavailable", "timeout")


def is_away(error: BaseException) -> bool:
    """Whether an error says that a service did not answer; whatever it answers, it is there."""
    return isinstance(error, NoAnswer) if isinstance(error, Problem) else is_outage(error)


class Guarded:
    """Has the methods of a protocol, and makes each call through a breaker.

    Args:
        api: What answers, here or in another process.
        breaker: What all in this process share who ask that service.
        within: Seconds that an answer may take; none: as long as the call itself may.

    Raises, from every method:
        CircuitOpen: the service is taken to be away. The call was not made, so a saga's step has not begun.
        Problem: as the call itself does, or ``timeout``.
    """

    def __init__(self, api: Any, breaker: CircuitBreaker, within: float | None = None) -> None:
        self._api = api
        self._breaker = breaker
        self._within = within

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._api, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            with self._breaker.passing():
                limit = asyncio.timeout(self._within)
                try:
                    async with limit:
                        return await method(*args, **kwargs)
                except TimeoutError as error:
                    if not limit.expired():
                        raise
                    raise NoAnswer("timeout", f"{self._breaker.name} did not answer in time.") from error

        return call


class Explained(Guarded):
    """The same for who shows errors to people: a service that is taken to be away is a problem, ``unavailable``.

    It says in ``retry_after`` how many seconds that lasts.
    """

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        guarded = super().__getattr__(name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return await guarded(*args, **kwargs)
            except CircuitOpen as error:
                seconds = max(1, math.ceil(error.after.total_seconds()))
                detail = f"{self._breaker.name} does not answer, so it was not asked."
                raise Problem("unavailable", detail, retry_after=seconds) from error

        return call


@dataclass(slots=True)
class Breakers:
    """The breakers of this process, by the service's name."""

    open_for: timedelta
    """How long a service is not asked that is taken to be away; then one call is let through."""
    all: dict[str, CircuitBreaker] = field(default_factory=dict)

    def of(self, name: str, hooks: HookList) -> CircuitBreaker:
        """Give the breaker of a service; whoever asks first is the one whose listeners are told."""
        if name not in self.all:
            self.all[name] = CircuitBreaker(
                name, failures=FAILURES, open_for=self.open_for, counts=is_away, hooks=hooks
            )
        return self.all[name]

    def also(self, breaker: CircuitBreaker) -> None:
        """Show one more, which somebody else has made."""
        self.all[breaker.name] = breaker


async def if_there(asked: Awaitable[T]) -> T | None:
    """Give an answer, or None where who is asked does not give one now: for what a page can do without."""
    try:
        return await asked
    except Problem as problem:
        if problem.kind.slug not in ABSENT:
            raise
        return None
