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
from txpatterns.coordination.listening import Listener, ListenSettings
from txpatterns.coordination.wakeup import CHANNEL, INBOX, MEMBERS, OUTBOX, Notifier, _Sender, rest_after, say
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
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
        await asyncio.wait_for(self.news.wait(), 120)

    async def one_from(self, notifier):
        before = self.count
        notifier.notify()
        while self.count == before:
            await self.more()


@asynccontextmanager
async def listening(db, on_wake, on_members=lambda: None):
    """A listener that runs; stopped at the end."""
    listener = Listener(db, settings=QUICK)
    listener.on(OUTBOX, on_wake)
    listener.on(MEMBERS, on_members)
    running = asyncio.create_task(listener.run())
    try:
        yield listener
    finally:
        listener.stop()
        await running


async def checked(listener, *, hears):
    while listener.hears is not hears:
        listener.checked.clear()
        await asyncio.wait_for(listener.checked.wait(), 120)


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


async def test_words_are_gathered_and_reach_the_parts_that_listen_to_them(database, driver):
    """H10, H286: several words in one round trip; several parts to a word; one that nobody knows is passed over."""
    outbox, members, sagas, again = Heard(), Heard(), Heard(), Heard()
    engine = create_async_engine(database.url(driver))
    notifier = Notifier(engine)
    async with Database(database.url(driver)) as db, listening(db, outbox, members) as listener:
        listener.on("sagas", sagas)
        listener.on("sagas", again)
        await checked(listener, hears=True)
        parts = (outbox, members, sagas, again)
        before = [heard.count for heard in parts]
        for word in ("unheard_of", "sagas", MEMBERS, OUTBOX, "sagas"):
            notifier.notify(word)
        for heard, count in zip(parts, before, strict=True):
            while heard.count == count:
                await heard.more()
        assert listener.hears
    notifier.close()
    await engine.dispose()


def test_all_that_is_wanted_goes_out_in_one_round_trip():
    """H10: each word once, however often it was said meanwhile; then there is nothing to send."""
    sender = _Sender(sa.create_engine("postgresql+psycopg://"))
    sender._thread = threading.current_thread()  # none is started
    for word in ("sagas", OUTBOX, "sagas", MEMBERS):
        sender.notify(word)
    assert sender._next() == f"NOTIFY {CHANNEL}, 'members'; NOTIFY {CHANNEL}; NOTIFY {CHANNEL}, 'sagas'"
    sender._closing.set()
    assert sender._next() == ""


@pytest.mark.parametrize("word", ["", "two words", "it's", "größe", "a;b"])
def test_a_word_is_a_plain_name(word):
    """H286: it is sent as it is, and an empty one would mean new messages."""
    with pytest.raises(ValueError, match="word"):
        Notifier(sa.create_engine("postgresql+psycopg://")).notify(word)


async def test_what_the_release_before_says_is_understood(database, driver):
    """H286: it says nothing for new messages, and `members` when relays come or go."""
    outbox, members = Heard(), Heard()
    async with Database(database.url(driver)) as db, listening(db, outbox, members) as listener:
        await checked(listener, hears=True)
        before = outbox.count, members.count
        with psycopg.connect(database.url(), autocommit=True) as connection:
            connection.execute("NOTIFY txp_outbox")
            connection.execute("SELECT pg_notify('txp_outbox', 'members')")
            connection.execute("NOTIFY txp_outbox, 'what a later one may say'")
        while (outbox.count, members.count) != (before[0] + 1, before[1] + 1):
            await (outbox if outbox.count == before[0] else members).more()
        assert listener.hears


async def test_the_release_before_understands_what_is_said(database, driver):
    """H286: it acts on an empty payload and on `members`; whatever else comes must be neither."""
    engine = create_async_engine(database.url(driver))
    notifier = Notifier(engine)
    with psycopg.connect(database.url(), autocommit=True) as connection:
        connection.execute("LISTEN txp_outbox")
        for word in (OUTBOX, MEMBERS, INBOX, "sagas"):
            notifier.notify(word)
        await asyncio.to_thread(notifier.close)
        async with Database(database.url(driver)) as db:
            for word in (OUTBOX, MEMBERS, INBOX):
                await db.transact(lambda c, word=word: say(c, word))
        heard = [notification.payload for notification in connection.notifies(timeout=20, stop_after=7)]
    assert sorted(heard[:4]) == sorted(["", "members", "inbox", "sagas"])
    assert heard[4:] == ["", "members", "inbox"]
    await engine.dispose()


@pytest.mark.parametrize(("took", "rests"), [(0.1, 2), (0.5, 2), (2, 8), (4, 16), (300, 20)])
def test_who_sends_rests_for_a_share_of_what_it_took(took, rests):
    """H287: a busy process is asked for less of its time, and nobody waits for a wake-up longer than 20 ms."""
    assert rest_after(timedelta(milliseconds=took)) == timedelta(milliseconds=rests)


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
        await asyncio.wait_for(listener.checked.wait(), 120)
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
            await asyncio.wait_for(self.news.wait(), 120)


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
