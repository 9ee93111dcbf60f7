"""The cache: a crowd loads once, whoever has written reads what was written, and it is harmless when Redis is away."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from pydantic import BaseModel, Field, TypeAdapter

from txpatterns.errors import ConfigurationError
from txpatterns.hooks import Hooks, on
from txpatterns.resilience.cache import Cache
from txpatterns.resilience.entries import MemoryEntries
from txpatterns.resilience.entries_redis import RedisEntries
from txpatterns.resilience.moments import CacheHit, CacheMissed, LoadShared
from txpatterns.resilience.questions import Loading
from txpatterns.testing.clock import ManualClock

TTL, JITTER = timedelta(minutes=15), timedelta(minutes=5)
PATIENCE = timedelta(seconds=120)
"""For a machine that has much else to do: a Redis that is slow is not away."""


class Product(BaseModel):
    sku: str
    price: int
    version: int


class Told(Hooks):
    def __init__(self):
        self.counts = Counter()

    @on(CacheHit)
    def hit(self, _):
        self.counts["hit"] += 1

    @on(CacheMissed)
    def missed(self, _):
        self.counts["missed"] += 1

    @on(LoadShared)
    def shared(self, _):
        self.counts["shared"] += 1


class Store:
    """Where products come from: with a row's version, and a gate between reading and answering."""

    def __init__(self):
        self.version, self.loads = 1, 0
        self.began, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()

    def write(self):
        self.version += 1
        return self.version

    def read(self):
        self.loads += 1
        return Product(sku="A1", price=10 * self.version, version=self.version)

    async def load(self):
        found = self.read()
        self.began.set()
        await asyncio.sleep(0)
        await self.go.wait()
        return found


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def clock():
    return ManualClock()


def cache_of(entries, hooks=None, name="product"):
    return Cache(name, Product, version=lambda product: product.version, entries=entries, hooks=hooks)


async def price(cache, store, **given):
    return (await cache.aget("A1", store.load, **given)).price


async def test_a_crowd_loads_once(told):
    """H343: of 200 who want a cold key at the same moment one loads; afterwards all hit."""
    cache, store = cache_of(MemoryEntries(), told), Store()
    assert await asyncio.gather(*(price(cache, store) for _ in range(200))) == [10] * 200
    assert await price(cache, store) == 10
    assert (store.loads, told.counts) == (1, {"missed": 1, "shared": 199, "hit": 1})


def test_a_crowd_of_threads_loads_once(told):
    """H343: those who wait are threads, and each has an object of its own."""
    cache, store, others = cache_of(MemoryEntries(), told), Store(), threading.Event()

    def load():
        others.wait(timeout=120)
        return store.read()

    def get(number):
        if number == 19:
            others.set()
        return cache.get("A1", load)

    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(get, range(20)))
    assert store.loads == 1
    assert len({id(product) for product in found}) == 20


async def test_threads_and_tasks_share_a_load():
    """H343: a thread waits for a task; a thread with an event loop loads alone rather than let it stand still."""
    cache, store = cache_of(MemoryEntries()), Store()
    store.go.clear()
    leads = asyncio.create_task(price(cache, store))
    await store.began.wait()
    follows = asyncio.create_task(asyncio.to_thread(cache.get, "A1", store.read))
    assert cache.get("A1", store.read).price == 10
    assert store.loads == 2
    store.go.set()
    assert (await leads, (await follows).price) == (10, 10)
    assert store.loads == 2


def test_a_load_may_ask_for_its_own_key():
    """H343: it does not wait for itself."""
    cache, store = cache_of(MemoryEntries()), Store()
    assert cache.get("A1", lambda: cache.get("A1", store.read)).price == 10


async def test_when_the_one_who_loads_is_cancelled_another_one_does():
    """H343: the others are not cancelled with it, nor does one of them who is cancelled cancel anybody."""
    cache, store = cache_of(MemoryEntries()), Store()
    store.go.clear()
    first, *others = (asyncio.create_task(price(cache, store)) for _ in range(5))
    await store.began.wait()
    await asyncio.sleep(0)
    first.cancel()
    others[1].cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    store.go.set()
    ends = await asyncio.gather(first, *others, return_exceptions=True)
    assert [end for end in ends if isinstance(end, int)] == [10] * 3
    assert store.loads == 2


async def test_what_a_load_raises_is_raised_by_all_who_wait_and_not_kept():
    """H343: the next one loads anew."""
    cache, store = cache_of(MemoryEntries()), Store()
    loads = []

    async def load():
        loads.append(1)
        await asyncio.sleep(0)
        if len(loads) == 1:
            raise LookupError("A1")
        return store.read()

    ends = await asyncio.gather(*(cache.aget("A1", load) for _ in range(5)), return_exceptions=True)
    assert [type(end) for end in ends] == [LookupError] * 5
    assert (await cache.aget("A1", load)).price == 10


async def test_who_has_written_reads_it_also_while_an_older_one_is_loaded():
    """H329: neither waits for that load, nor finds what it brings when it ends behind the write."""
    cache, store = cache_of(MemoryEntries()), Store()
    store.go.clear()
    old = asyncio.create_task(price(cache, store))
    await store.began.wait()
    await cache.awrote("A1", store.write())
    store.go.set()
    assert await price(cache, store) == 20
    assert await old == 10
    assert await price(cache, store) == 20


async def test_a_version_may_be_asked_for():
    """H329: by who was told of it, but does not share the entries with the one who wrote."""
    cache, store = cache_of(MemoryEntries()), Store()
    assert await price(cache, store) == 10
    version = store.write()
    assert await price(cache, store) == 10
    assert await price(cache, store, at_least=version) == 20
    assert await price(cache, store) == 20


async def test_a_load_that_began_too_early_is_not_joined_by_who_needs_more():
    """H329: told of a version, nobody is content with an older one that somebody else is loading."""
    cache, store = cache_of(MemoryEntries()), Store()
    store.go.clear()
    old = asyncio.create_task(price(cache, store))
    await store.began.wait()
    new = [asyncio.create_task(price(cache, store, at_least=store.write())) for _ in range(3)]
    await asyncio.sleep(0)
    store.go.set()
    assert (await old, await asyncio.gather(*new)) == (10, [40] * 3)
    assert store.loads == 2


async def test_without_versions_a_write_makes_what_is_known_old():
    """H329: what was being loaded then is given to nobody who comes later."""
    cache, store = Cache("product", Product), Store()
    store.go.clear()
    old = asyncio.create_task(price(cache, store))
    await store.began.wait()
    store.write()
    await cache.awrote("A1")
    store.go.set()
    assert (await price(cache, store), await old, await price(cache, store)) == (20, 10, 20)


def following(flow, answer):
    """Give the next question of a flow; None behind the last."""
    try:
        return flow.send(answer)
    except StopIteration:
        return None


class ReadYourWrites(RuleBasedStateMachine):
    """Reads, writes, slow loads and evictions, in any order: no read is older than the last write before it."""

    def __init__(self):
        super().__init__()
        self.clock, self.store = ManualClock(), Store()
        self.cache = cache_of(MemoryEntries(most=2, clock=self.clock))
        self.slow = []

    @rule()
    def write(self):
        self.cache.wrote("A1", self.store.write())

    @rule()
    def read(self):
        assert self.cache.get("A1", self.store.read).version == self.store.version

    @rule()
    def a_slow_load_begins(self):
        flow = self.cache._getting("A1", self.store.read, 0)
        question = next(flow)
        while question is not None and not isinstance(question, Loading):
            question = following(flow, question.plain())
        if question is not None:
            self.slow.append((flow, question.plain()))

    @precondition(lambda self: self.slow)
    @rule(which=st.integers(0, 9))
    def a_slow_load_ends(self, which):
        flow, answer = self.slow.pop(which % len(self.slow))
        while (question := following(flow, answer)) is not None:
            answer = question.plain()

    @rule(seconds=st.sampled_from([1, 600, 1300]))
    def time_passes(self, seconds):
        self.clock.advance(timedelta(seconds=seconds))

    @rule()
    def others_push_it_out(self):
        for key in ("B1", "C1"):
            self.cache.get(key, lambda: Product(sku="B1", price=1, version=1))

    def teardown(self):
        for flow, _ in self.slow:
            flow.close()


TestReadYourWrites = ReadYourWrites.TestCase
TestReadYourWrites.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestReadYourWrites.__doc__ = "H329: against the plain rule, with no sleep anywhere."


async def test_the_times_are_spread(clock):
    """H343: fifteen minutes and up to five more, evenly, so that what was loaded together is not missed together."""
    kept = []

    class Entries(MemoryEntries):
        def putting(self, key, data, version, ttl):
            kept.append(ttl)
            return super().putting(key, data, version, ttl)

    cache, store = cache_of(Entries(clock=clock)), Store()
    cache.random.seed(1)
    for number in range(1000):
        await cache.aget(str(number), store.load)
    assert all(TTL <= ttl <= TTL + JITTER for ttl in kept)
    buckets = Counter(int((ttl - TTL) / JITTER * 10) for ttl in kept)
    assert sum((buckets[n] - 100) ** 2 / 100 for n in range(10)) < 21.7  # chi-square, nine degrees, one in a hundred
    clock.advance(TTL + JITTER)
    loads = store.loads
    await cache.aget("1", store.load)
    assert store.loads == loads + 1


async def test_what_is_kept_is_written_as_it_is_read():
    """H329: by a field's alias, and what is loaded comes as what is known would."""

    class Priced(BaseModel):
        price: int = Field(alias="amount")
        tags: tuple[str, ...] = ()

    async def load():
        return Priced(amount=10, tags=["new"])

    cache = Cache("priced", Priced)
    assert await cache.aget("A1", load) == await cache.aget("A1", load) == Priced(amount=10, tags=("new",))


async def test_what_an_older_release_has_kept_is_loaded_anew():
    """H329: what cannot be read is missed, and does not raise."""
    entries, store = MemoryEntries(), Store()
    await Cache("product", TypeAdapter(list[int]), entries=entries).aget("A1", lambda: asyncio.sleep(0, [1, 2]))
    assert await price(cache_of(entries), store) == 10


@pytest.mark.parametrize("version", [-1, 2**53, 1.5])
def test_what_is_no_version_is_refused(version):
    """H329."""
    with pytest.raises(ConfigurationError):
        cache_of(MemoryEntries()).wrote("A1", version)


# In a real Redis.


async def test_redis_is_shared_and_gives_nobody_what_is_old(redis_url):
    """H329: between two processes; a value that was loaded before the write is not kept behind it."""
    async with RedisEntries(redis_url, timeout=PATIENCE) as one, RedisEntries(redis_url, timeout=PATIENCE) as other:
        here, there, store = cache_of(one), cache_of(other), Store()
        assert (await price(here, store), await price(there, store), store.loads) == (10, 10, 1)
        await here.awrote("A1", store.write())
        assert (await price(there, store), await price(here, store), store.loads) == (20, 20, 2)
        slow = Store()
        slow.version = store.version
        slow.go.clear()
        await there.awrote("A1", store.write())
        late = asyncio.create_task(price(there, slow))
        await slow.began.wait()
        slow.go.set()
        assert await late == 20
        assert await price(here, store) == 30
        assert await asyncio.to_thread(there.get, "A1", store.read) == await here.aget("A1", store.load)


async def test_two_processes_load_a_cold_key_at_most_twice(redis_url):
    """H343."""
    async with RedisEntries(redis_url, timeout=PATIENCE) as one, RedisEntries(redis_url, timeout=PATIENCE) as other:
        caches, store = [cache_of(one), cache_of(other)], Store()
        assert await asyncio.gather(*(price(caches[n % 2], store) for n in range(200))) == [10] * 200
        assert store.loads <= 2
        with redis.Redis.from_url(redis_url) as client:
            assert TTL / timedelta(milliseconds=1) - 5000 < client.pttl("txp:cache:product:A1") <= 1_200_000


async def test_redis_that_goes_away_in_the_middle(own_redis, clock, told):
    """H327, H329: everything is loaded meanwhile, and what was written then is known when it is back."""
    async with (
        RedisEntries(own_redis.url, clock=clock, timeout=PATIENCE) as one,
        RedisEntries(own_redis.url, timeout=PATIENCE) as other,
    ):
        here, there, store = cache_of(one, told, "away"), cache_of(other, name="away"), Store()
        assert (await price(here, store), await price(there, store)) == (10, 10)
        own_redis.kill()
        await here.awrote("A1", store.write())
        assert [await price(here, store) for _ in range(5)] == [20] * 5
        own_redis.start()
        for number in range(20):  # an answer may still come too late for the one that tries
            clock.advance(timedelta(seconds=5))
            await here.aget(f"another {number}", store.load)
            if await price(there, store) == 20:
                break
        assert (await price(there, store), await price(here, store)) == (20, 20)
    assert told.counts["hit"] >= 1


async def test_redis_that_hangs_makes_nobody_wait_for_long(own_redis):
    """H327: three wait for the time-out, and then it is not asked."""
    async with RedisEntries(own_redis.url, clock=ManualClock()) as entries:
        cache, store = cache_of(entries, name="hangs"), Store()
        await price(cache, store)
        own_redis.pause()
        assert [await price(cache, store) for _ in range(30)] == [10] * 30
        assert str(entries.breaker.state) == "open"
        own_redis.resume()
