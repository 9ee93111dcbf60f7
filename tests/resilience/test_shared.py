"""Breakers of several processes: what one finds out the others need not, and Redis is in nobody's way."""

import asyncio
import json
from contextlib import suppress
from datetime import timedelta

import pytest
import redis

from rig.waiting import until, wait_until
from txpatterns.errors import CircuitOpen, ConfigurationError
from txpatterns.resilience.breaker import CircuitBreaker, State
from txpatterns.resilience.shared import SharedBreakers
from txpatterns.testing.clock import ManualClock

OPEN_FOR = timedelta(seconds=30)


def breaker_of(name="bank", clock=None):
    return CircuitBreaker(name, failures=1, open_for=OPEN_FOR, clock=clock)


def fail(breaker):
    with suppress(ConnectionError), breaker:
        raise ConnectionError


def connected(*shared):
    wait_until(lambda: all(each.is_connected for each in shared), what="Redis")


def test_an_opening_and_a_closing_are_told(redis_url):
    """H176: the others open for the rest of the time, and close when one of them was answered."""
    clock = ManualClock()
    here, there, other = breaker_of(clock=clock), breaker_of(), breaker_of("post")
    with SharedBreakers(redis_url, here) as one, SharedBreakers(redis_url, there, other) as two:
        connected(one, two)
        fail(here)
        wait_until(lambda: there.state is State.OPEN, what="the opening")
        assert timedelta(seconds=20) < there.retry_in <= OPEN_FOR
        assert other.state is State.CLOSED
        clock.advance(OPEN_FOR)
        with here:
            pass
        wait_until(lambda: there.state is State.CLOSED, what="the closing")


async def test_who_starts_later_catches_up(redis_url):
    """H176: and in an event loop it is entered and left as well."""
    here, there = breaker_of("late"), breaker_of("late")
    async with SharedBreakers(redis_url, here) as one:
        await asyncio.to_thread(connected, one)
        fail(here)
        with redis.Redis.from_url(redis_url) as client:
            await until(lambda: asyncio.to_thread(client.exists, "txp:breaker:late"), "the opening")
        async with SharedBreakers(redis_url, there):
            await asyncio.to_thread(wait_until, lambda: there.state is State.OPEN, what="the opening")
            assert there.retry_in <= here.retry_in + timedelta(seconds=1)


def test_redis_that_goes_away_in_the_middle(own_redis):
    """P7, H327: each is on its own meanwhile; what was found out then is told when it is back."""
    here, there = breaker_of("away"), breaker_of("away")
    with SharedBreakers(own_redis.url, here) as one, SharedBreakers(own_redis.url, there) as two:
        connected(one, two)
        own_redis.kill()
        fail(here)
        with pytest.raises(CircuitOpen), here:
            raise AssertionError
        assert there.state is State.CLOSED
        own_redis.start()
        wait_until(lambda: there.state is State.OPEN, what="the opening")


def test_no_call_waits_for_redis(own_redis):
    """H176, H327: pybreaker's own store asks it in each call; here nobody is asked, be it away or stand still."""
    here = breaker_of("still")
    with SharedBreakers(own_redis.url, here) as shared:
        connected(shared)
        own_redis.pause()
        told = []
        here.on_change.append(told.append)
        for _ in range(100):
            here.close()
            fail(here)
        assert len(told) == 100
        own_redis.resume()
    with SharedBreakers("redis://127.0.0.1:1/0", breaker_of("nobody")):
        pass


def test_what_is_not_understood_is_passed_over(redis_url):
    """H327: and nobody is told to stay open for longer than they would."""
    here = breaker_of("strange")
    with SharedBreakers(redis_url, here) as shared, redis.Redis.from_url(redis_url) as client:
        connected(shared)
        for data in (
            b"\xff",
            b"[]",
            b"{}",
            b'{"from": "x", "breaker": [], "seconds": 1}',
            b'{"from":1,"breaker":"strange","seconds":"x"}',
        ):
            client.publish("txp:breakers", data)
        client.publish("txp:breakers", json.dumps({"from": "x", "breaker": "unknown", "seconds": 5}))
        client.publish("txp:breakers", json.dumps({"from": "x", "breaker": "strange", "seconds": 1e6}))
        wait_until(lambda: here.state is State.OPEN, what="the opening")
        assert here.retry_in <= OPEN_FOR


def test_two_breakers_of_one_name_are_refused(redis_url):
    """H176."""
    with pytest.raises(ConfigurationError):
        SharedBreakers(redis_url, breaker_of(), breaker_of())
