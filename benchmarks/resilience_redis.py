"""What guards cost that share what they know through a real Redis, beside a bare round trip to it in the same run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count

from redis.asyncio import Redis

from benchmarks.harness import Case, Table, compare
from benchmarks.resilience import Product
from txpatterns.resilience.breaker import CircuitBreaker
from txpatterns.resilience.cache import Cache
from txpatterns.resilience.entries_redis import RedisEntries
from txpatterns.resilience.limits import RateLimit
from txpatterns.resilience.limits_redis import RedisBuckets
from txpatterns.resilience.shared import SharedBreakers

CALLS = 1_000
CROWD = 100
CROWDS = 10
PATIENCE = timedelta(seconds=30)
"""So long that a busy machine is no outage of Redis: without it everybody would load for themselves."""
PRODUCT = Product(sku="A1", price=10, version=1)


async def guards(url: str, rounds: int) -> Table:
    """Microseconds of one call, one after the other."""
    base, keys = "GET by redis-py", map(str, count())
    async with (
        Redis.from_url(url) as client,
        RedisBuckets(url, timeout=PATIENCE) as buckets,
        RedisEntries(url, timeout=PATIENCE) as entries,
    ):
        await client.flushdb()
        await client.set("known", PRODUCT.model_dump_json())
        limit = RateLimit("calls", calls=10**9, per=timedelta(seconds=1), buckets=buckets)
        cache = Cache("product", Product, entries=entries)
        breaker = CircuitBreaker("bank")
        async with SharedBreakers(url, breaker):

            async def behind_a_breaker() -> None:
                with breaker:
                    await client.get("known")

            cases = [
                Case(base, _each(lambda: client.get("known"))),
                Case("the same behind a breaker that is shared", _each(behind_a_breaker), base),
                Case("RateLimit, a call", _each(lambda: limit.atake("key")), base),
                Case("Cache, a hit", _each(lambda: cache.aget("known", _load)), base),
                Case("Cache, a miss: asked twice, loaded, kept", _each(lambda: cache.aget(next(keys), _load)), base),
                Case(f"Cache, each of {CROWD} that miss at once, and one loads", _crowds(cache), base),
            ]
            return await compare("Guards through Redis", "us", cases, rounds, lower_is_better=True)


async def _load() -> Product:
    return PRODUCT


def _crowds(cache: Cache[Product]) -> Callable[[], Awaitable[float]]:
    names = (f"crowd {n}" for n in count())

    async def run() -> float:
        loads = 0

        async def load() -> Product:
            nonlocal loads
            loads += 1
            return PRODUCT

        began = time.perf_counter()
        for _ in range(CROWDS):
            key = next(names)
            await asyncio.gather(*(cache.aget(key, load) for _ in range(CROWD)))
        taken = time.perf_counter() - began
        assert loads == CROWDS, f"{loads} loads for {CROWDS} crowds"
        return taken / (CROWD * CROWDS) * 1e6

    return run


def _each(call: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        began = time.perf_counter()
        for _ in range(CALLS):
            await call()
        return (time.perf_counter() - began) / CALLS * 1e6

    return run
