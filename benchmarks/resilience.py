"""What a guard costs a call that passes it, beside the bare call and the plain libraries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import pybreaker
from pydantic import BaseModel

from benchmarks.harness import Case, Table, compare
from txpatterns.errors import CircuitOpen
from txpatterns.resilience.breaker import CircuitBreaker
from txpatterns.resilience.bulkhead import Bulkhead
from txpatterns.resilience.cache import Cache
from txpatterns.resilience.limits import MemoryBuckets, RateLimit

CALLS = 20_000
CROWD = 1_000


class Product(BaseModel):
    sku: str
    price: int
    version: int


async def breakers(rounds: int) -> Table:
    """Nanoseconds of one call in a block, closed and open, beside pybreaker's own block."""
    ours, plain = CircuitBreaker("bank"), pybreaker.CircuitBreaker()
    away, plain_away = CircuitBreaker("away"), pybreaker.CircuitBreaker()
    away.open(timedelta(days=1))
    plain_away.open()
    places = Bulkhead("bank", at_once=10)

    def bare() -> None:
        return

    def by_us() -> None:
        with ours:
            bare()

    def by_pybreaker() -> None:
        with plain.calling():
            bare()

    def bulkhead() -> None:
        with places:
            bare()

    def refused() -> None:
        with suppress(CircuitOpen), away:
            bare()

    def refused_by_pybreaker() -> None:
        with suppress(pybreaker.CircuitBreakerError), plain_away.calling():
            bare()

    cases = [
        Case("the bare call", _each(bare)),
        Case("pybreaker, closed", _each(by_pybreaker), "the bare call"),
        Case("CircuitBreaker, closed", _each(by_us), "pybreaker, closed", 1.0),
        Case("Bulkhead with a free place", _each(bulkhead), "pybreaker, closed"),
        Case("pybreaker, open", _each(refused_by_pybreaker)),
        Case("CircuitBreaker, open", _each(refused), "pybreaker, open"),
    ]
    return await compare("A call behind a breaker", "ns", cases, rounds, lower_is_better=True)


async def limits(rounds: int) -> Table:
    """Nanoseconds of one call that a limit in memory is asked for."""
    one = RateLimit("one", calls=10**9, per=timedelta(seconds=1), buckets=MemoryBuckets())
    many = RateLimit("many", calls=10**9, per=timedelta(seconds=1), buckets=MemoryBuckets())
    spent = RateLimit("spent", calls=1, per=timedelta(days=1), buckets=MemoryBuckets())
    keys, counts = iter(range(10**12)), dict[str, int]()

    def counted() -> None:
        counts["key"] = counts.get("key", 0) + 1

    base = "counting a call in a dict"
    cases = [
        Case(base, _each(counted)),
        Case("RateLimit, one key", _each(lambda: one.take("key")), base),
        Case("RateLimit, a new key each time", _each(lambda: many.take(str(next(keys)))), base),
        Case("RateLimit, refused", _each(lambda: spent.take("key")), base),
    ]
    return await compare("A call under a limit, in memory", "ns", cases, rounds, lower_is_better=True)


async def caches(rounds: int) -> Table:
    """Microseconds of a hit; and of each of a crowd that misses at the same moment, beside each loading for itself."""
    cache = Cache("product", Product, version=lambda product: product.version)
    product = Product(sku="A1", price=10, version=1)
    written = product.model_dump_json()

    async def load() -> Product:
        await asyncio.sleep(0.001)
        return product

    async def hit() -> None:
        await cache.aget("A1", load)

    async def read() -> None:
        Product.model_validate_json(written)

    async def crowd(get: Callable[[], Awaitable[object]]) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(get() for _ in range(CROWD)))
        return (time.perf_counter() - began) / CROWD * 1e6

    async def missed_together() -> float:
        await cache.awrote("A1", None)
        return await crowd(hit)

    base = "making the object of its JSON"
    cases = [
        Case(base, _each_awaited(read)),
        Case("a hit", _each_awaited(hit), base),
        Case(f"each of {CROWD:,} loads for itself, 1 ms", lambda: crowd(load)),
        Case(f"{CROWD:,} miss at once, and one loads", missed_together, f"each of {CROWD:,} loads for itself, 1 ms"),
    ]
    return await compare("A value from a cache, in memory", "us", cases, rounds, lower_is_better=True)


def _each(call: Callable[[], object]) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        began = time.perf_counter_ns()
        for _ in range(CALLS):
            call()
        return (time.perf_counter_ns() - began) / CALLS

    return run


def _each_awaited(call: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        began = time.perf_counter_ns()
        for _ in range(CALLS):
            await call()
        return (time.perf_counter_ns() - began) / CALLS / 1000

    return run
