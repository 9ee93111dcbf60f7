"""Worker numbers in a real Redis, also one that forgets."""

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest
import redis

from txpatterns.clock import SystemClock
from txpatterns.errors import ClockWrong, IdsUnavailable, WorkersExhausted
from txpatterns.ids import SnowflakeGenerator, WorkerNumbers, explain
from txpatterns.ids.marks import WINDOW
from txpatterns.ids.redis_store import RedisWorkers
from txpatterns.ids.worker_store import RESERVED


class Ahead(SystemClock):
    """A clock of another time."""

    def __init__(self, by: timedelta) -> None:
        self.by = by

    def now(self):
        return super().now() + self.by


@pytest.fixture
async def store(redis_url):
    store = RedisWorkers(redis_url)
    yield store
    await store.close()


async def test_a_number_is_taken_renewed_and_given_back(store):
    """P6, I29: by the owner and the last token."""
    grant = await store.take("me", [], "1")
    assert grant.worker == 0
    assert grant.above < grant.mark
    renewal = await store.renew(0, "me", ["0", "1"], "2")
    assert renewal.mark >= grant.mark
    assert renewal.mark - renewal.now == WINDOW / timedelta(milliseconds=1)
    for owner, tokens in (("me", ["1"]), ("me", []), ("another", ["2"])):
        assert await store.renew(0, owner, tokens, "3") is None
        await store.release(owner, tokens)
    await store.release("me", ["2"])
    assert (await store.take("you", [], "1")).worker == 1  # a number that was never used comes first


async def test_a_clock_that_is_off_takes_nothing(redis_url):
    """P6, H179: nor does it renew."""
    store = RedisWorkers(redis_url, clock=Ahead(timedelta(days=365)))
    with pytest.raises(ClockWrong):
        await store.take("me", [], "1")
    with pytest.raises(ClockWrong):
        await store.renew(0, "me", ["1"], "2")
    await store.close()


async def test_when_all_are_taken_there_is_none(store):
    """P6, H305: the reserved one is never given."""
    held = '{"owner": "x", "token": "x", "mark": 0, "until_": 1e15}'
    await store._redis.hset(store._key, mapping=dict.fromkeys(range(RESERVED), held))
    with pytest.raises(WorkersExhausted):
        await store.take("me", [], "1")


async def test_nothing_rests_on_what_redis_remembers(store):
    """P6, H304: it has lost all that it knew; whoever takes a number begins above all that was made under it."""
    turns = []
    for owner in "abc":
        grant = await store.take(owner, [], "1")
        renewal = await store.renew(grant.worker, owner, ["1"], "1")
        turns.append((grant.worker, grant.above, renewal.mark))
        await store._redis.flushall()
        assert await store.renew(grant.worker, owner, ["1"], "1") is None
    assert [worker for worker, *_ in turns] == [0, 0, 0]
    assert all(later[1] >= earlier[2] for earlier, later in pairwise(turns))


def test_ids_by_redis(redis_url):
    """P6, H304: in a thread; a second generator has a number of its own, and an empty server starts no repeats."""
    with WorkerNumbers(RedisWorkers(redis_url)) as numbers:
        ids = SnowflakeGenerator(numbers)
        made = [ids.next_id() for _ in range(1000)]
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        asyncio.run(numbers.upkeep._store.beside().close())
        numbers.upkeep.hurry(anew=True)
        numbers.upkeep._thread.tended.wait(10)
        made += [ids.next_id() for _ in range(1000)]
    assert len(set(made)) == 2000
    assert {explain(id_).worker for id_ in made} == {0}


def test_a_server_that_is_away():
    """H141: an error that says so."""
    with (
        WorkerNumbers(RedisWorkers("redis://127.0.0.1:1/0")) as numbers,
        pytest.raises(IdsUnavailable, match="Connect"),
    ):
        SnowflakeGenerator(numbers).next_id()
