"""Redis in front of a ledger: what it may forget, what it may give away, and what is lost on the way there."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib import resources

import pytest
import redis as plain_redis
import sqlalchemy as sa

from tcc.stock.support import A_WHILE, metadata, open_ledger, persistently
from txpatterns import Database
from txpatterns.clock import SystemClock
from txpatterns.errors import (
    ConfigurationError,
    MissingExtra,
    OutOfStock,
    ReservationEnded,
    StockUnavailable,
    UnsafeSettings,
)
from txpatterns.tcc.stock import Decision, Level, State, StockTables, sweep
from txpatterns.tcc.stock.ledger_sql import SqlLedger
from txpatterns.tcc.stock.redis import RedisStock

pytestmark = pytest.mark.server


def soon():
    return SystemClock().now() + A_WHILE


@asynccontextmanager
async def open_both(redis_url, tmp_path, **options):
    """The stock, its ledger, and a plain client to look with."""
    async with open_ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        with plain_redis.Redis.from_url(redis_url, decode_responses=True) as client:
            async with RedisStock(redis_url, ledger, **options) as stock:
                yield stock, ledger, client


async def agreed(stock, ledger, *items):
    """The levels, which Redis and the ledger must have alike."""
    there = await persistently(lambda: stock.levels(items))
    assert there == await ledger.stock.levels(items)
    return there


async def test_what_is_set_back_behind_a_live_connection_is_noticed(redis_url, tmp_path):
    """P5, H178: same server, same generation, an older state; only the running number tells."""
    async with open_both(redis_url, tmp_path) as (stock, ledger, _):
        await stock.load({"A": 10})
        await stock.reserve("r1", {"A": 2}, soon())
        with plain_redis.Redis.from_url(redis_url) as raw:
            old = {key: raw.dump(key) for key in raw.keys("{stock}*")}
            await stock.reserve("r2", {"A": 8}, soon())
            for key in raw.keys("{stock}*"):
                raw.delete(key)
            for key, value in old.items():
                raw.restore(key, 0, value)
        with pytest.raises(StockUnavailable):
            await stock.levels(["A"])
        with pytest.raises(OutOfStock):
            await persistently(lambda: stock.reserve("r3", {"A": 8}, soon()))
        assert await agreed(stock, ledger, "A") == {"A": Level(0, 10)}
        assert (await ledger.place()).generation == 2


async def test_a_server_that_comes_back_is_not_believed(start_redis, tmp_path):
    """P5, H127, H359: it has an old snapshot, in which a reservation is held that was canceled since."""
    server = start_redis("--save", "", "--appendonly", "no")
    async with open_both(server.url, tmp_path) as (stock, ledger, client):
        await stock.load({"A": 10})
        await stock.reserve("r1", {"A": 2}, soon())
        await stock.reserve("r2", {"A": 3}, soon())
        client.save()
        assert await stock.cancel("r1") is True
        assert await stock.confirm("r2") is True
        await asyncio.to_thread(server.kill)
        with pytest.raises(StockUnavailable):
            await stock.levels(["A"])
        await asyncio.to_thread(server.start)
        # A process that has seen no number of it yet, and all reservations of the ledger are there.
        async with RedisStock(server.url, ledger) as second:
            assert await agreed(second, ledger, "A") == {"A": Level(7, 0, 3)}
        assert await agreed(stock, ledger, "A") == {"A": Level(7, 0, 3)}
        assert await stock.confirm("r2") is False
        with pytest.raises(ReservationEnded):
            await stock.reserve("r1", {"A": 2}, soon())
        assert await agreed(stock, ledger, "A") == {"A": Level(7, 0, 3)}


async def test_what_another_ledger_was_before_is_gone_at_once(redis_url, tmp_path):
    """P5, H128: a database that begins anew is before a Redis of a much higher generation."""
    with plain_redis.Redis.from_url(redis_url) as client:
        client.hset("{stock}:state", mapping={"generation": 500, "ready": 1, "server": "x", "number": 9})
        client.hset("{stock}:items", "a:A", 1000)
    async with open_both(redis_url, tmp_path) as (stock, ledger, _):
        assert (await ledger.place()).generation == 501
        assert await stock.load({"A": 2}) == ["A"]
        assert await agreed(stock, ledger, "A") == {"A": Level(2)}


class Held:
    """A ledger that does not write down what Redis has reserved until it is let."""

    def __init__(self, ledger):
        self._ledger = ledger
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    async def keep(self, held, generation):
        self.begun.set()
        await self.go.wait()
        return await self._ledger.keep(held, generation)


async def test_what_a_former_generation_reserved_is_not_kept(redis_url, tmp_path):
    """P5, H128, H360: Redis is rebuilt between a reservation in it and the note of that; nobody counts it twice."""
    async with open_ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        slow = Held(ledger)
        async with RedisStock(redis_url, slow) as first, RedisStock(redis_url, ledger) as second:
            await first.load({"A": 10})
            reserving = asyncio.create_task(first.reserve("r", {"A": 7}, soon()))
            await slow.begun.wait()
            with plain_redis.Redis.from_url(redis_url) as client:
                client.flushdb()
            assert await agreed(second, ledger, "A") == {"A": Level(10)}
            slow.go.set()
            with pytest.raises(StockUnavailable):
                await reserving
            assert await agreed(second, ledger, "A") == {"A": Level(10)}
            assert (await persistently(lambda: first.reserve("r", {"A": 7}, soon()))).state is State.HELD
            assert await agreed(second, ledger, "A") == {"A": Level(3, 7)}


class Between:
    """A ledger around whose call something else happens, once."""

    def __init__(self, ledger, name, when):
        self._ledger, self._name, self._when = ledger, name, when
        self.happens = None

    def __getattr__(self, name):
        real = getattr(self._ledger, name)
        if name != self._name or self.happens is None:
            return real

        async def call(*given):
            happens, self.happens = self.happens, None
            if self._when == "before":
                await happens()
            answer = await real(*given)
            if self._when == "behind":
                await happens()
            return answer

        return call


@pytest.mark.parametrize("name", ["place", "begin", "picture"])
@pytest.mark.parametrize("when", ["before", "behind"])
async def test_what_happens_while_redis_is_rebuilt_is_counted_once(redis_url, tmp_path, name, when):
    """P5, H128, H361, I27: reserved, confirmed, canceled and counted at each step of the rebuilding."""
    async with open_ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        between = Between(ledger, name, when)
        async with RedisStock(redis_url, between) as first, RedisStock(redis_url, ledger) as second:
            await first.load({"A": 20})
            for each in ("sold", "back", "held"):
                await first.reserve(each, {"A": 2}, soon())
            calls = [
                lambda: second.reserve("new", {"A": 5}, soon()),
                lambda: second.confirm("sold"),
                lambda: second.cancel("back"),
                lambda: second.set_available("A", 30),
            ]

            async def happens():
                for call in calls:
                    await asyncio.gather(call(), return_exceptions=True)

            with plain_redis.Redis.from_url(redis_url) as client:
                client.flushdb()
            between.happens = happens
            await persistently(lambda: first.levels(["A"]))
            for call in calls:
                await persistently(call)
            assert between.happens is None
            levels = (await agreed(first, ledger, "A"))["A"]
            assert (levels.reserved, levels.sold) == (7, 2)
            assert levels == (await agreed(second, ledger, "A"))["A"]


async def test_a_rebuilding_whose_process_died_is_begun_again(redis_url, tmp_path):
    """P5, H128: when nothing was heard of it for some time; until then nothing is answered."""
    with plain_redis.Redis.from_url(redis_url) as client:
        client.set("{stock}:rebuilding", "somebody who died", px=300)
        async with open_both(redis_url, tmp_path) as (stock, ledger, _):
            await stock.load({"A": 1})
            assert await agreed(stock, ledger, "A") == {"A": Level(1)}
            assert client.get("{stock}:rebuilding") is None


async def test_the_ledger_has_the_last_word(redis_url, tmp_path):
    """P5, H127, H361: whatever Redis gives away, no more is answered than there is."""
    async with open_both(redis_url, tmp_path) as (stock, ledger, client):
        await stock.load({"A": 10})
        await stock.reserve("r1", {"A": 8}, soon())
        client.hset("{stock}:items", "a:A", 1000)
        with pytest.raises(StockUnavailable):
            await stock.reserve("r2", {"A": 3}, soon())
        with pytest.raises(OutOfStock) as told:
            await persistently(lambda: stock.reserve("r2", {"A": 3}, soon()))
        assert told.value.short == {"A": 2}
        assert await agreed(stock, ledger, "A") == {"A": Level(2, 8)}


async def test_what_a_script_cannot_read_is_rebuilt(redis_url, tmp_path):
    """P5, H131: it breaks off in the middle, so nothing that is there is trusted any more."""
    async with open_both(redis_url, tmp_path) as (stock, ledger, client):
        await stock.load({"A": 10})
        for name in ("r1", "r2"):
            await stock.reserve(name, {"A": 2}, soon())
        for key, field in (("{stock}:records", "r1"), ("{stock}:items", "r:A")):
            client.hset(key, field, "nonsense")
            with pytest.raises(StockUnavailable):
                await (stock.reserve("r1", {"A": 2}, soon()) if field == "r1" else stock.confirm("r2"))
            assert (await persistently(lambda: stock.reserve("r1", {"A": 2}, soon()))).state is State.HELD
        assert await persistently(lambda: stock.confirm("r2")) is False
        assert await agreed(stock, ledger, "A") == {"A": Level(6, 2, 2)}


class Away:
    """A ledger that cannot be reached while it is told so."""

    def __init__(self, ledger):
        self._ledger = ledger
        self.away: set[str] = set()

    def __getattr__(self, name):
        if name in self.away:

            async def fail(*given):
                raise OSError("the database is away")

            return fail
        return getattr(self._ledger, name)


async def test_nothing_is_given_back_that_the_ledger_still_holds(redis_url, tmp_path):
    """P5, H361: the ledger first, then Redis; what fails in between is repeated, and gives back once."""
    async with open_ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        away = Away(ledger)
        async with RedisStock(redis_url, away) as stock:
            await stock.load({"A": 10})
            await stock.reserve("r1", {"A": 10}, soon())
            away.away = {"cancel", "confirm"}
            for call in (stock.cancel, stock.confirm):
                with pytest.raises(StockUnavailable, match="database is away"):
                    await call("r1")
            with pytest.raises(OutOfStock):
                await stock.reserve("r2", {"A": 1}, soon())
            away.away = set()
            assert [await stock.cancel("r1"), await stock.cancel("r1")] == [True, False]
            assert await agreed(stock, ledger, "A") == {"A": Level(10)}


async def test_a_reservation_that_nobody_was_told_of_is_found(redis_url, tmp_path, clock):
    """P5, H132, H361: reserved in Redis, then the process died; its time over, it is asked for and goes back."""
    async with open_ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}", clock) as ledger:
        away = Away(ledger)
        async with RedisStock(redis_url, away, clock=clock) as stock:
            await stock.load({"A": 10})
            away.away = {"keep"}
            with pytest.raises(StockUnavailable):
                await stock.reserve("lost", {"A": 4}, clock.now() + A_WHILE)
            with pytest.raises(StockUnavailable):
                await stock.reserve("repeated", {"A": 3}, clock.now() + A_WHILE)
            away.away = set()
            await stock.reserve("repeated", {"A": 3}, clock.now() + A_WHILE)
            assert (await stock.levels(["A"]), await ledger.stock.levels(["A"])) == (
                {"A": Level(3, 7)},
                {"A": Level(7, 3)},
            )
            clock.advance(A_WHILE + timedelta(seconds=1))
            answers = {"lost": Decision.CANCEL, "repeated": Decision.OPEN}

            async def decision(name):
                return answers[name]

            assert (await sweep(stock, decision)).canceled == 1
            assert await agreed(stock, ledger, "A") == {"A": Level(7, 3)}


async def test_scripts_that_the_server_has_forgotten_are_sent_again(redis_url, tmp_path):
    """P5, H131: in the middle of fifty reservations, each of which happens once."""
    async with open_both(redis_url, tmp_path) as (stock, ledger, client):
        await stock.load({"A": 1000})

        async def shop(n):
            await stock.reserve(f"r{n}", {"A": 1}, soon())
            client.script_flush()
            await stock.confirm(f"r{n}")

        await asyncio.gather(*(shop(n) for n in range(50)))
        assert await agreed(stock, ledger, "A") == {"A": Level(950, 0, 50)}
        assert (await ledger.place()).generation == 1


async def test_a_lost_answer_is_asked_for_again(redis_url, tmp_path, redis_server, proxied):
    """P5, H132: the script has run and its answer is cut off; the repeat of it reserves nothing more."""
    proxy = proxied(redis_server.port)
    options = {"socket_timeout": 0.5}
    async with open_both(f"redis://127.0.0.1:{proxy.port}/0", tmp_path, options=options) as (stock, ledger, _):
        await stock.load({"A": 10})
        for n in range(5):
            proxy.lose_reply(to=b"EVALSHA")
            await persistently(lambda n=n: stock.reserve(f"r{n}", {"A": 1}, soon()))
        assert await agreed(stock, ledger, "A") == {"A": Level(5, 5)}


async def test_a_redis_that_evicts_is_refused(redis_url, tmp_path):
    """P5, H134: at the start, and on each new connection."""
    with plain_redis.Redis.from_url(redis_url) as client:
        try:
            client.config_set("maxmemory-policy", "allkeys-lru")
            with pytest.raises(UnsafeSettings, match="allkeys-lru"):
                async with open_both(redis_url, tmp_path):
                    pass
            client.config_set("maxmemory-policy", "noeviction")
            async with open_both(redis_url, tmp_path) as (stock, ledger, _):
                await stock.load({"A": 1})
                client.config_set("maxmemory-policy", "volatile-ttl")
                client.client_kill_filter(_type="normal", skipme=True)
                with pytest.raises((UnsafeSettings, StockUnavailable)):
                    await stock.reserve("r", {"A": 1}, soon())
                with pytest.raises((UnsafeSettings, StockUnavailable)):
                    await stock.reserve("r", {"A": 1}, soon())
                assert await ledger.stock.levels(["A"]) == {"A": Level(1)}
        finally:
            client.config_set("maxmemory-policy", "noeviction")


async def test_a_full_redis_refuses_and_keeps_what_it_has(redis_url, tmp_path):
    """P5, H131, H134: out of memory is no answer about stock, and no reservation is half made."""
    async with open_both(redis_url, tmp_path) as (stock, ledger, client):
        await stock.load({"A": 10, "B": 10})
        await stock.reserve("r1", {"A": 1, "B": 1}, soon())
        try:
            client.config_set("maxmemory", 1)
            with pytest.raises(StockUnavailable, match="OOM"):
                await stock.reserve("r2", {"A": 1, "B": 1}, soon())
        finally:
            client.config_set("maxmemory", 0)
        assert await agreed(stock, ledger, "A", "B") == {"A": Level(9, 1), "B": Level(9, 1)}
        await persistently(lambda: stock.reserve("r2", {"A": 1, "B": 1}, soon()))
        assert await agreed(stock, ledger, "A", "B") == {"A": Level(8, 2), "B": Level(8, 2)}


async def test_nothing_is_answered_without_redis(redis_url, tmp_path):
    """P5, H131: neither yes nor no, and a start that gives up says so."""
    async with open_ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        await ledger.load({"A": 1})
        stock = RedisStock("redis://127.0.0.1:1/0", ledger, patience=timedelta(milliseconds=100))
        with pytest.raises(StockUnavailable):
            async with stock:
                pass
        assert await ledger.stock.levels(["A"]) == {"A": Level(1)}


async def test_a_count_in_the_middle_of_reservations_is_right(redis_url, tmp_path):
    """P5, I27: goods come while fifty reserve; Redis and the ledger end alike, whichever heard of what first."""
    async with open_both(redis_url, tmp_path) as (stock, ledger, _):
        await stock.load({"A": 200})

        async def shop(n):
            await persistently(lambda: stock.reserve(f"r{n}", {"A": 1}, soon()))
            if n % 10 == 0:
                await persistently(lambda: stock.set_available("A", 200 + n))
            await (stock.confirm if n % 2 else stock.cancel)(f"r{n}")

        await asyncio.gather(*(shop(n) for n in range(50)))
        levels = await agreed(stock, ledger, "A")
        assert (levels["A"].reserved, levels["A"].sold) == (0, 25)


async def test_all_keys_are_in_one_slot_and_declared(redis_url, tmp_path):
    """P5, H130: the name in braces, and no key that a script makes up."""
    async with open_both(redis_url, tmp_path, name="shop-7") as (stock, _, client):
        await stock.load({"A": 10, "{B}": 1})
        await stock.reserve("r{1}", {"A": 1, "{B}": 1}, soon())
        await stock.cancel("r{1}")
        assert {key.partition(":")[0] for key in client.scan_iter()} == {"{shop-7}"}
    folder = resources.files("txpatterns.tcc.stock.redis") / "lua"
    for script in folder.iterdir():
        for call in re.findall(r"redis\.call\('(\w+)',? ?([^,)]*)", script.read_text()):
            assert call[0] == "TIME" or call[1].startswith("KEYS["), (script.name, call)
    for name in ("", "{x}", "a\n"):
        with pytest.raises(ConfigurationError):
            RedisStock(redis_url, None, name=name)


async def test_several_stocks_in_one_redis_know_nothing_of_each_other(redis_url, tmp_path):
    """P5: by their names and ledgers."""
    both = sa.MetaData()
    async with Database(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as database:
        ledgers = [SqlLedger(database, StockTables(both, name)) for name in ("north", "south")]
        await ledgers[0].stock.transact(both.create_all)
        async with (
            RedisStock(redis_url, ledgers[0], name="north") as north,
            RedisStock(redis_url, ledgers[1], name="south") as south,
        ):
            await north.load({"A": 1})
            await south.load({"A": 5})
            await north.reserve("r", {"A": 1}, soon())
            assert await south.reservation("r") is None
            assert await agreed(south, ledgers[1], "A") == {"A": Level(5)}


async def test_redis_does_not_grow_with_what_has_ended(redis_url, tmp_path, clock):
    """I16, P5: ended reservations go when nothing that they answer for can come any more; the ledger knows them on."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"
    async with open_ledger(url, clock) as ledger, RedisStock(redis_url, ledger, clock=clock) as stock:
        await stock.load({"A": 500})
        for day in range(3):
            for n in range(20):
                await stock.reserve(f"r{day}-{n}", {"A": 1}, clock.now() + A_WHILE)
                await (stock.confirm if n % 2 else stock.cancel)(f"r{day}-{n}")
            clock.advance(timedelta(days=1))
        with plain_redis.Redis.from_url(redis_url) as client:
            assert client.hlen("{stock}:records") <= 21
            assert client.zcard("{stock}:ended") <= 21
        # It is not sold again, nor set aside for good, under an id that only the ledger knows.
        for _ in range(2):
            again = await stock.reserve("r0-1", {"A": 1}, clock.now() + A_WHILE)
            assert again.state is State.SOLD
            with pytest.raises(ReservationEnded):
                await stock.reserve("r0-2", {"A": 1}, clock.now() + A_WHILE)
        assert await agreed(stock, ledger, "A") == {"A": Level(470, 0, 30)}


def test_the_extra_is_named_where_redis_is_missing(monkeypatch):
    """H147: with the command that installs it."""
    for name in [name for name in sys.modules if name.startswith("txpatterns.tcc.stock.redis")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "redis"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"txpatterns\[redis\]"):
        __import__("txpatterns.tcc.stock.redis")


def test_the_tables_are_yours():
    """P5, H100: in your metadata, under your names, in your schema, and none of the library's."""
    yours = sa.MetaData()
    StockTables(yours, "goods", schema="shop")
    assert set(yours.tables) == {"shop.goods_item", "shop.goods_reservation", "shop.goods_gate"}
    assert metadata is not yours
