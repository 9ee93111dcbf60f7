"""Redis loses what it had, in every way that it can, while fifty reserve in two processes."""

from __future__ import annotations

import asyncio
import shutil

import pytest
import redis as plain_redis
from redis.asyncio import Redis

from tcc.stock.support import PATIENCE, Shoppers, check, open_ledger, persistently
from txpatterns.tcc.stock.redis import RedisStock

pytestmark = pytest.mark.server

LOADED = {"A": 150, "B": 100, "C": 80}
NOTHING_SAVED = ("--save", "", "--appendonly", "no")


class World:
    """A server of Redis, what it was like some time ago, and where connections lead."""

    def __init__(self, start_redis, proxied):
        self._start = start_redis
        self.server = start_redis(*NOTHING_SAVED)
        self.proxy = proxied(self.server.port)
        self.url = f"redis://127.0.0.1:{self.proxy.port}/0"
        self.replica = None

    def follow(self):
        """Have a replica."""
        self.replica = self._start(*NOTHING_SAVED, "--replicaof", "127.0.0.1", str(self.server.port))

    def remember(self):
        """Keep what is there now, in each of the ways in which it comes back."""
        with plain_redis.Redis.from_url(self.server.url) as client:
            client.save()
            shutil.copy(self.server.folder / "dump.rdb", self.server.folder / "old.rdb")
            self.old = {key: client.dump(key) for key in client.keys("{stock}*")}
            if self.replica is not None:
                client.wait(1, 5000)
                with plain_redis.Redis.from_url(self.replica.url) as replica:
                    replica.replicaof("NO", "ONE")

    # What happens.

    def emptied(self):
        """Killed, and started with nothing."""
        self.server.kill()
        (self.server.folder / "dump.rdb").unlink()
        self.server.start()

    def restored(self):
        """Killed, and started from a dump that was copied some time ago."""
        with plain_redis.Redis.from_url(self.server.url) as client:
            client.save()
        self.server.kill()
        shutil.copy(self.server.folder / "old.rdb", self.server.folder / "dump.rdb")
        self.server.start()

    def promoted(self):
        """Killed, and its replica, which was behind, takes its place."""
        self.server.kill()
        self.proxy._upstream = ("127.0.0.1", self.replica.port)

    def flushed(self):
        """An operator's mistake."""
        with plain_redis.Redis.from_url(self.server.url) as client:
            client.flushall()

    def set_back(self):
        """The same server, behind connections that live on, as it was some time ago."""
        with plain_redis.Redis.from_url(self.server.url) as client, client.pipeline(transaction=True) as at_once:
            for key in client.keys("{stock}*"):
                at_once.delete(key)
            for key, value in self.old.items():
                at_once.restore(key, 0, value)
            at_once.execute()


@pytest.mark.parametrize("what", ["emptied", "restored", "promoted", "flushed", "set_back"])
async def test_nothing_is_oversold_or_lost(what, start_redis, proxied, database):
    """P5, H127, H128, H178, I27: and when it is over, Redis has what the ledger has."""
    world = await asyncio.to_thread(World, start_redis, proxied)
    if what == "promoted":
        await asyncio.to_thread(world.follow)
    url = database.url("asyncpg")
    async with (
        open_ledger(url) as here,
        open_ledger(url) as there,
        RedisStock(world.url, here) as first,
        Redis.from_url(world.url, socket_timeout=5) as client,
        RedisStock(client, there) as second,
    ):
        await first.load(LOADED)
        go_on = asyncio.Event()
        shoppers = [Shoppers(stock, tuple(LOADED), n, go_on=go_on) for n, stock in enumerate((first, second))]

        async def disaster():
            await until(lambda: sum(each.count for each in shoppers) >= 20)
            await asyncio.to_thread(world.remember)
            before = sum(each.count for each in shoppers)
            go_on.set()
            await until(lambda: sum(each.count for each in shoppers) >= before + 20)
            await asyncio.to_thread(getattr(world, what))

        shopping = [each.shop(f"{n}-{m}", 4) for n, each in enumerate(shoppers) for m in range(25)]
        await asyncio.gather(disaster(), *shopping)
        both = Shoppers(first, tuple(LOADED), answered=shoppers[0].answered | shoppers[1].answered)
        levels = await persistently(lambda: first.levels(list(LOADED)))
        assert levels == await here.stock.levels(list(LOADED))
        check(both, levels, LOADED)
        assert (await here.place()).generation >= 2, "the loss was not noticed"
        assert shoppers[0].refused + shoppers[1].refused > 0, "there was enough for everybody"


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the shoppers count, and tell nobody
            await asyncio.sleep(0.001)
