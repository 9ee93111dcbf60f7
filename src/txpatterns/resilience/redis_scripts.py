"""Scripts that run in Redis, and what is done without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from txpatterns.clock import Clock
from txpatterns.errors import CircuitOpen
from txpatterns.hooks import HookList, Hooks
from txpatterns.resilience.breaker import CircuitBreaker
from txpatterns.resilience.questions import Question
from txpatterns.resilience.redis_clients import AWAY, RedisClients

T = TypeVar("T")


class RedisScripts:
    """One Redis behind a breaker: after three questions in vain it is not asked for five seconds.

    One object serves all threads and event loops; leave it (``with``, ``async with``) to close its connections.
    ``timeout`` is how long one question may take.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: timedelta = timedelta(milliseconds=250),
        clock: Clock | None = None,
        hooks: HookList | Hooks | Sequence[Hooks] | None = None,
    ) -> None:
        self.clients = RedisClients(url, timeout)
        self.breaker = CircuitBreaker(
            f"redis {type(self).__name__}",
            failures=3,
            open_for=timedelta(seconds=5),
            counts=lambda error: isinstance(error, AWAY),
            clock=clock,
            hooks=hooks,
        )

    def ask(
        self, script: str, keys: Sequence[str], given: Sequence[str], then: Callable[[Any], T], without: Callable[[], T]
    ) -> Question[T]:
        """Run a script; ``then`` makes something of its answer, and ``without`` does where there is none."""
        return _Script(self, (script, len(keys), *keys, *given), then, without)

    def close(self) -> None:
        """Close the connections of threads."""
        self.clients.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.clients.close_here()
        self.close()


class _Script(Question[T]):
    def __init__(
        self, redis: RedisScripts, given: tuple[Any, ...], then: Callable[[Any], T], without: Callable[[], T]
    ) -> None:
        self._redis = redis
        self._given = given
        self._then = then
        self._without = without

    def plain(self) -> T:
        try:
            with self._redis.breaker.passing():
                found: Any = self._redis.clients.plain().eval(*self._given)
        except (CircuitOpen, *AWAY):
            return self._without()
        return self._then(found)

    async def awaited(self) -> T:
        try:
            with self._redis.breaker.passing():
                found: Any = await self._redis.clients.here().eval(*self._given)
        except (CircuitOpen, *AWAY):
            return self._without()
        return self._then(found)
