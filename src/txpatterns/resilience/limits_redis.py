"""Buckets in Redis, which all processes share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from hashlib import blake2b
from typing import Any

from txpatterns.clock import Clock
from txpatterns.hooks import HookList, Hooks
from txpatterns.resilience.limits import MemoryBuckets
from txpatterns.resilience.questions import Question
from txpatterns.resilience.rates import ROUNDING, Rate, Taken
from txpatterns.resilience.redis_scripts import RedisScripts

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


class RedisBuckets(RedisScripts):
    """Buckets in one Redis, for all processes: ``RateLimit(..., buckets=RedisBuckets("redis://..."))``.

    While Redis is away each process counts for itself, so that limits still hold, for each process alone. After three
    questions in vain it is not asked for five seconds; ``timeout`` is how long one may take. Keys are stored as a
    digest. One object serves all threads and event loops; leave it (``with``, ``async with``) to close its connections.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: timedelta = timedelta(milliseconds=250),
        clock: Clock | None = None,
        hooks: HookList | Hooks | Sequence[Hooks] | None = None,
    ) -> None:
        super().__init__(url, timeout=timeout, clock=clock, hooks=hooks)
        self._alone = MemoryBuckets(clock=clock)

    def taking(self, name: str, key: str, rate: Rate, cost: int) -> Question[Taken]:
        """Take tokens out of the bucket of a key."""
        digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        given = (repr(rate.interval), repr(rate.most), str(cost))
        without = partial(self._alone.take, name, key, rate, cost)
        return self.ask(_TAKE, [f"txp:limit:{name}:{digest}"], given, partial(_taken, name, rate, cost), without)


def _taken(name: str, rate: Rate, cost: int, found: Any) -> Taken:
    is_allowed, missing = found
    return Taken.of(name, rate, float(missing), cost, is_allowed=bool(is_allowed))
