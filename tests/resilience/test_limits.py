"""Limits: exactly as many as may be, in memory and in a real Redis, also one that goes away in the middle."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from txpatterns.errors import ConfigurationError, NotBegun, RateLimited
from txpatterns.hooks import Hooks, on
from txpatterns.resilience.breaker import State
from txpatterns.resilience.limits import MemoryBuckets, RateLimit
from txpatterns.resilience.limits_redis import RedisBuckets
from txpatterns.resilience.moments import Limited
from txpatterns.resilience.rates import Rate
from txpatterns.testing.clock import ManualClock

PATIENCE = timedelta(seconds=120)
"""For a machine that has much else to do: a Redis that is slow is not away."""
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


class Told(Hooks):
    def __init__(self):
        self.limits = []

    @on(Limited)
    def limited(self, moment):
        self.limits.append(moment.limit)


@pytest.fixture
def clock():
    return ManualClock()


def limit_of(clock, **options):
    return RateLimit("calls", buckets=MemoryBuckets(clock=clock), **options)


def allowed(limit, key="a", times=100):
    return sum(limit.take(key).is_allowed for _ in range(times))


def test_a_burst_and_then_the_rate(clock):
    """H328: a bucket that is asked all the time gives as much as one that is asked seldom: 50 a minute are 50."""
    limit = limit_of(clock, calls=50, per=MINUTE, burst=10)
    assert allowed(limit) == 10
    made = 0
    for _ in range(86):
        clock.advance(SECOND * 0.7)
        made += limit.take("a").is_allowed
    assert made == 50


@given(
    calls=st.integers(1, 1000),
    seconds=st.integers(1, 3600),
    burst=st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 100), st.integers(1, 5)), max_size=60),
)
def test_it_is_a_bucket_of_tokens(calls, seconds, burst, steps):
    """H328: against the plain description of one, with any cost and at any times."""
    clock, tokens, rate = ManualClock(), float(burst), calls / seconds
    limit = limit_of(clock, calls=calls, per=timedelta(seconds=seconds), burst=burst)
    for wait, cost in steps:
        clock.advance(timedelta(seconds=wait))
        tokens = min(burst, tokens + timedelta(seconds=wait).total_seconds() * rate)
        if cost > burst or abs(tokens - round(tokens)) < 1e-3:
            continue
        taken = limit.take("a", cost)
        assert taken.is_allowed == (tokens >= cost)
        tokens -= cost if taken.is_allowed else 0
        assert taken.remaining == int(tokens + 1e-3)


def test_what_is_refused_takes_nothing_and_says_when(clock):
    """H328: at that moment the call may be made, and not a moment sooner."""
    limit = limit_of(clock, calls=10, per=MINUTE, burst=5)
    assert allowed(limit) == 5
    clock.advance(SECOND)
    refused = limit.take("a", 2)
    assert (refused.is_allowed, refused.retry_after, refused.reset_after) == (False, 11 * SECOND, 29 * SECOND)
    clock.advance(11 * SECOND - timedelta(milliseconds=1))
    assert not limit.take("a", 2).is_allowed
    clock.advance(timedelta(milliseconds=1))
    assert limit.take("a", 2).is_allowed


def test_the_headers_of_an_answer(clock):
    """H328: in whole seconds, never sooner than it may be tried again."""
    limit = limit_of(clock, calls=10, per=MINUTE, burst=2)
    assert limit.take("a").headers() == {
        "RateLimit": '"calls";r=1;t=6',
        "RateLimit-Policy": '"calls";q=2;w=12',
        "RateLimit-Limit": "2",
        "RateLimit-Remaining": "1",
        "RateLimit-Reset": "6",
    }
    limit.take("a")
    clock.advance(SECOND * 5.5)
    assert limit.take("a").headers()["Retry-After"] == "1"


@pytest.mark.parametrize(("name", "told"), [('a"b\\c', '"a\\"b\\\\c"'), ("caf\u00e9\r\nX: y", '"caf???X: y"')])
def test_any_name_makes_a_header(clock, name, told):
    """H328: what HTTP has no room for cannot end a header or begin another one."""
    limit = RateLimit(name, calls=1, per=MINUTE, buckets=MemoryBuckets(clock=clock))
    assert limit.take("a").headers()["RateLimit"] == f"{told};r=0;t=60"


def test_one_that_is_refused_was_not_begun(clock):
    """P4, H328: in a saga it burns no attempt, and comes again when it may be."""
    told = Told()
    limit = RateLimit("login", calls=1, per=MINUTE, buckets=MemoryBuckets(clock=clock), hooks=told)
    limit.take("a").check()
    with pytest.raises(RateLimited) as refused:
        limit.take("a").check()
    assert isinstance(refused.value, NotBegun)
    assert (refused.value.after, told.limits) == (MINUTE, ["login"])


def test_a_flood_of_keys_frees_nobody(clock):
    """H328: a bucket that is not full is not forgotten, and memory has a bound; those that are full go."""
    buckets = MemoryBuckets(most=2000, clock=clock)
    limit = RateLimit("login", calls=1, per=MINUTE, buckets=buckets)
    assert limit.take("victim").is_allowed
    let_in = sum(limit.take(f"made up {number}").is_allowed for number in range(10_000))
    assert let_in == 2000
    assert not limit.take("victim").is_allowed
    clock.advance(MINUTE)
    assert limit.take("somebody").is_allowed
    assert len(buckets._full_at) == 1


def test_threads_together_get_what_one_would(clock):
    """H328: of a thousand calls at the same moment exactly the burst."""
    limit = limit_of(clock, calls=1, per=HOUR, burst=37)
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda _: limit.take("a"), range(1000)))
    assert sum(each.is_allowed for each in taken) == 37


@pytest.mark.parametrize("given", [{"calls": 0}, {"burst": 0}, {"per": timedelta(0)}, {"calls": 1.5}])
def test_numbers_that_mean_nothing_are_refused(given):
    """H328."""
    with pytest.raises(ConfigurationError):
        RateLimit("calls", **{"calls": 1, "per": MINUTE, **given})


def test_a_call_that_can_never_be_made_is_refused(clock):
    """H328: not limited for ever without a word."""
    with pytest.raises(ConfigurationError, match="never"):
        limit_of(clock, calls=5, per=MINUTE).take("a", 6)


# In a real Redis.


async def test_redis_gives_exactly_the_burst_to_all_together(redis_url):
    """H328: threads, tasks and two objects as of two processes; also where a bucket is full again within a second."""
    async with RedisBuckets(redis_url, timeout=PATIENCE) as one, RedisBuckets(redis_url, timeout=PATIENCE) as other:
        limits = [RateLimit("calls", calls=1, per=HOUR, burst=37, buckets=each) for each in (one, other)]
        plain = asyncio.to_thread(lambda: [limits[n % 2].take("a") for n in range(100)])
        tasks = [limits[n % 2].atake("a") for n in range(200)]
        by_threads, *by_tasks = await asyncio.gather(plain, *tasks)
        assert sum(each.is_allowed for each in [*by_threads, *by_tasks]) == 37
        fast = RateLimit("fast", calls=1000, per=SECOND, burst=10, buckets=one)
        assert sum([(await fast.atake("a")).is_allowed for _ in range(10)]) == 10
        slow = RateLimit("slow", calls=7, per=HOUR, burst=10, buckets=one)
        assert sum([(await slow.atake("a")).is_allowed for _ in range(200)]) == 10


async def test_redis_decides_as_memory_does(redis_url):
    """H328: the script and the function are the same decision."""
    dice = random.Random(1)
    async with RedisBuckets(redis_url, timeout=PATIENCE) as buckets:
        for number in range(40):
            rate = Rate(dice.randrange(1, 50), HOUR, dice.randrange(1, 20))
            memory = MemoryBuckets(clock=ManualClock())
            for _ in range(20):
                cost = dice.randrange(1, rate.burst + 1)
                there = await buckets.taking("calls", str(number), rate, cost).awaited()
                here = memory.take("calls", str(number), rate, cost)
                assert (there.is_allowed, there.remaining) == (here.is_allowed, here.remaining)
                assert abs(there.retry_after - here.retry_after) < 10 * SECOND


async def test_a_bucket_in_redis_goes_when_it_is_full(redis_url):
    """H328: nothing is left behind, and nobody's key can be read there."""
    async with RedisBuckets(redis_url, timeout=PATIENCE) as buckets:
        await RateLimit("login", calls=1, per=HOUR, buckets=buckets).atake("ada@example.org")
        with redis.Redis.from_url(redis_url) as client:
            (name,) = client.keys("*")
            assert b"ada" not in name
            assert 3_599_000 < client.pttl(name) <= 3_600_001


async def test_redis_that_goes_away_in_the_middle(own_redis):
    """P7, H327: each process counts for itself meanwhile, nobody waits for long, and it is shared again afterwards."""
    clock, told = ManualClock(), Told()
    async with RedisBuckets(own_redis.url, clock=clock, timeout=PATIENCE) as buckets:
        limit = RateLimit("calls", calls=1, per=HOUR, burst=5, buckets=buckets, hooks=told)
        assert [(await limit.atake("a")).is_allowed for _ in range(7)].count(True) == 5
        own_redis.kill()
        assert [(await limit.atake("a")).is_allowed for _ in range(7)].count(True) == 5
        assert [limit.take("b").is_allowed for _ in range(7)].count(True) == 5
        assert buckets.breaker.state is State.OPEN
        own_redis.start()
        clock.advance(timedelta(seconds=5))
        assert not (await limit.atake("a")).is_allowed
        assert buckets.breaker.state is State.CLOSED
        assert limit.take("b").is_allowed
    assert len(told.limits) == 7


async def test_redis_that_hangs_is_asked_once(own_redis):
    """P7, H327: three callers wait for the time-out, and the others do not wait at all."""
    asked = count()
    async with RedisBuckets(own_redis.url, clock=ManualClock()) as buckets:
        limit = RateLimit("calls", calls=100, per=HOUR, buckets=buckets)
        await limit.atake("a")
        client = buckets.clients.here()
        ask = client.eval
        client.eval = lambda *given: (next(asked), ask(*given))[1]
        own_redis.pause()
        taken = [await limit.atake("a") for _ in range(50)]
        own_redis.resume()
    assert all(each.is_allowed for each in taken)
    assert next(asked) == 3
