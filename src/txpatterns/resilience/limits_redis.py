"""Buckets in Redis, which all processes share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from hashlib import blake2b
from types import TracebackType
from typing import Any, Self

from txpatterns.clock import Clock
from txpatterns.errors import CircuitOpen
from txpatterns.hooks import HookList, Hooks
from txpatterns.resilience.breaker import CircuitBreaker
from txpatterns.resilience.limits import MemoryBuckets
from txpatterns.resilience.rates import ROUNDING, Rate, Taken
from txpatterns.resilience.redis_clients import AWAY, RedisClients

_TAKE = f"""
local interval, most, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = (time[1] - 1767225600) * 1000000 + time[2]
local missing = math.min(math.max(tonumber(redis.call('GET', KEYS[1]) or now) - now, 0), most)
local wanted = missing + cost * interval
if wanted > most + {ROUNDING} then
    return {{0, string.format('%.17g', missing)}}
end
redis.call('SET', KEYS[1], string.format('%.17g', now + wanted), 'PX', math.ceil(wanted / 1000) + 1)
return {{1, string.format('%.17g', wanted)}}
"""
"""What ``Rate.admit`` decides, where the bucket is. Time is Redis's own, so that clocks need not agree."""


class RedisBuckets:
    """Buckets in one Redis, for all processes: ``RateLimit(..., buckets=RedisBuckets("redis://..."))``.

    While Redis is away each process counts for itself, so that limits still hold, for each process alone. After three
    questions in vain it is not asked for five seconds; ``timeout`` is how long one may take. Keys are stored as a
    digest.

    One object serves all threads and event loops; leave it (``with``, ``async with``) to close its connections.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: timedelta = timedelta(milliseconds=250),
        clock: Clock | None = None,
        hooks: HookList | Hooks | Sequence[Hooks] | None = None,
    ) -> None:
        self._clients = RedisClients(url, timeout)
        self._alone = MemoryBuckets(clock=clock)
        self.breaker = CircuitBreaker(
            "redis limits",
            failures=3,
            open_for=timedelta(seconds=5),
            counts=lambda error: isinstance(error, AWAY),
            clock=clock,
            hooks=hooks,
        )
        """In front of Redis, so that not each call waits for it in vain."""

    def take(self, name: str, key: str, rate: Rate, cost: int) -> Taken:
        """Take tokens out of the bucket of a key; the thread waits for Redis."""
        try:
            with self.breaker:
                found: Any = self._clients.plain().eval(_TAKE, 1, *_given(name, key, rate, cost))
        except (CircuitOpen, *AWAY):
            return self._alone.take(name, key, rate, cost)
        return _taken(found, name, rate, cost)

    async def atake(self, name: str, key: str, rate: Rate, cost: int) -> Taken:
        """Do the same, in an event loop."""
        try:
            with self.breaker:
                found: Any = await self._clients.here().eval(_TAKE, 1, *_given(name, key, rate, cost))
        except (CircuitOpen, *AWAY):
            return self._alone.take(name, key, rate, cost)
        return _taken(found, name, rate, cost)

    def close(self) -> None:
        """Close the connections of threads."""
        self._clients.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._clients.aclose()


def _given(name: str, key: str, rate: Rate, cost: int) -> tuple[str, str, str, str]:
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"txp:limit:{name}:{digest}", repr(rate.interval), repr(rate.most), str(cost)


def _taken(found: Any, name: str, rate: Rate, cost: int) -> Taken:
    is_allowed, missing = found
    return Taken.of(name, rate, float(missing), cost, is_allowed=bool(is_allowed))
