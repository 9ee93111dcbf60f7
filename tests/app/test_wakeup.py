"""Wake-ups between processes: after the commit, gathered, and only a hint."""

import asyncio
import logging
import threading
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from rig.waiting import wait_until
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.database import Database
from txpatterns.database.listening import Listener, ListenSettings
from txpatterns.database.setup import create_missing
from txpatterns.database.wakeup import CHANNEL, Notifier
from txpatterns.hooks import Hooks, on
from txpatterns.messages import BUCKETS
from txpatterns.outbox import Relay, RelaySettings
from txpatterns.runtime.moments import Ownership

QUICK = ListenSettings(timedelta(milliseconds=300), timedelta(milliseconds=300), timedelta(milliseconds=50))


@pytest.fixture(params=["asyncpg", "psycopg"])
def driver(request):
    return request.param


class Heard:
    """Counts wake-ups; a test waits for the next one."""

    def __init__(self):
        self.count = 0
        self.news = asyncio.Event()

    def __call__(self):
        self.count += 1
        self.news.set()

    async def more(self):
        self.news.clear()
        await asyncio.wait_for(self.news.wait(), 20)

    async def one_from(self, notifier):
        before = self.count
        notifier.notify()
        while self.count == before:
            await self.more()


@asynccontextmanager
async def listening(db, on_wake, on_members=lambda: None):
    """A listener that runs; stopped at the end."""
    listener = Listener(db, on_wake, on_members, settings=QUICK)
    running = asyncio.create_task(listener.run())
    try:
        yield listener
    finally:
        listener.stop()
        await running


async def checked(listener, *, hears):
    while listener.hears is not hears:
        listener.checked.clear()
        await asyncio.wait_for(listener.checked.wait(), 20)


async def test_a_commit_elsewhere_is_heard(database, driver):
    """H10, H11: an empty NOTIFY on a connection of its own reaches a relay in another process."""
    heard = Heard()
    sender = create_async_engine(database.url(driver))
    notifier = Notifier(sender)
    async with Database(database.url(driver)) as db, listening(db, heard) as listener:
        await checked(listener, hears=True)
        for _ in range(3):
            await heard.one_from(notifier)
    notifier.close()
    await sender.dispose()


async def test_a_storm_of_commits_becomes_few_notifications(database, driver):
    """H10: any number of calls from any thread are gathered; the last one is never lost."""
    heard = Heard()
    engine = create_async_engine(database.url(driver))
    notifier = Notifier(engine)
    async with Database(database.url(driver)) as db, listening(db, heard) as listener:
        await checked(listener, hears=True)

        def storm():
            for _ in range(5000):
                notifier.notify()

        threads = [threading.Thread(target=storm) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        notifier.close()
        await heard.more() if heard.count < 2 else None
        assert heard.count < 1000
    await engine.dispose()


async def test_after_a_close_wake_ups_are_sent_again(database, driver):
    """P7, H10, H34: an App that is closed and used again does not fall back to polling for the rest of its life."""
    heard = Heard()
    engine = create_async_engine(database.url(driver))
    notifier = Notifier(engine)
    async with Database(database.url(driver)) as db, listening(db, heard) as listener:
        await checked(listener, hears=True)
        for _ in range(3):
            await heard.one_from(notifier)
            await asyncio.to_thread(notifier.close)
            assert not [thread for thread in threading.enumerate() if thread.name == "txpatterns wake-up"]
    await engine.dispose()


async def test_a_killed_listener_listens_again(database, driver):
    """H34: the server ends the connection; the relay is woken at once, and the wake-ups come again."""
    heard = Heard()
    notifier = Notifier(create_async_engine(database.url(driver)))
    async with Database(database.url(driver)) as db, listening(db, heard) as listener:
        await checked(listener, hears=True)
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = %s AND pid <> pg_backend_pid()"
        with psycopg.connect(database.url(), autocommit=True) as connection:
            cursor = connection.execute(kill, [f"LISTEN {CHANNEL};" if driver == "asyncpg" else f"LISTEN {CHANNEL}"])
            if not cursor.rowcount:
                cursor = connection.execute(kill.replace("query = %s", "query LIKE %s"), ["LISTEN%"])
            assert cursor.rowcount == 1
        await heard.more()  # the look after the new LISTEN
        await checked(listener, hears=True)
        await heard.one_from(notifier)
    notifier.close()


async def test_a_silent_line_is_noticed_and_said_once(database, driver, proxied, caplog):
    """H34: a half-open connection looks healthy for ever; the probe of our own tells, and polling goes on."""
    caplog.set_level(logging.INFO, "txpatterns.wakeup")
    proxy = proxied(int(database.address.port))
    through = database.url(driver, port=proxy.port)
    async with Database(database.url(driver), listen_url=through) as db, listening(db, Heard()) as listener:
        await checked(listener, hears=True)
        proxy.silence()
        await checked(listener, hears=False)
        proxy.heal()
        await checked(listener, hears=True)
    said = [record.message for record in caplog.records if record.name == "txpatterns.wakeup"]
    assert len([text for text in said if "do not arrive" in text]) == 1
    assert len([text for text in said if "arrive again" in text]) == 1


async def test_through_a_pooler_the_listener_says_what_to_do(database, pgbouncer, driver, caplog):
    """H34, H98: PgBouncer in transaction mode swallows LISTEN; `listen_url` is the way round it."""
    pooled = database.url(driver, port=pgbouncer.port)
    if driver == "asyncpg":
        pooled += "?prepared_statement_cache_size=0"
    async with Database(pooled) as db, listening(db, Heard()) as listener:
        await asyncio.wait_for(listener.checked.wait(), 20)
        assert not listener.hears
        assert "listen_url" in caplog.text
    async with Database(pooled, listen_url=database.url(driver)) as db, listening(db, Heard()) as listener:
        await checked(listener, hears=True)


class Share(Hooks):
    """How many buckets a relay owns."""

    def __init__(self):
        self.owned = 0
        self.news = asyncio.Event()

    @on(Ownership)
    def ownership(self, moment):
        self.owned = moment.buckets
        self.news.set()

    async def becomes(self, owned):
        while self.owned != owned:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 20)


@asynccontextmanager
async def listening_relay(url, lease):
    """A relay in a world of its own, with the listener that an App gives it; stopped at the end."""
    share, broker = Share(), MemoryBroker()
    async with Database(url) as db, broker:
        relay = Relay(db, broker, settings=RelaySettings(lease=lease), hooks=share)
        async with listening(db, relay.wake, relay.rebalance) as listener:
            await checked(listener, hears=True)
            running = asyncio.create_task(relay.run())
            yield share
            relay.stop()
            await running


async def test_relays_that_come_and_go_are_heard(database, driver):
    """P7, H37: with a lease of an hour, a new relay has its share at once, and so have the others when it leaves."""
    async with Database(database.url(driver)) as db:
        await db.transact(create_missing)
    hour = timedelta(hours=1)
    async with listening_relay(database.url(driver), hour) as first:
        await first.becomes(BUCKETS)
        async with listening_relay(database.url(driver), hour) as second:
            await first.becomes(BUCKETS // 2)
            await second.becomes(BUCKETS // 2)
        await first.becomes(BUCKETS)


async def test_a_wake_up_never_fails_the_caller(caplog):
    """H11: with the server away `notify` returns as always, and one line says so."""
    engine = sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    notifier = Notifier(engine)
    for _ in range(100):
        notifier.notify()
    await asyncio.to_thread(wait_until, lambda: "cannot be sent" in caplog.text, what="the warning")
    notifier.notify()
    notifier.close()
    assert caplog.text.count("cannot be sent") == 1
