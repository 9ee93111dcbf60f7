"""What an idle App asks of its database, counted on a clock that the test moves."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from txpatterns import App, AppSettings, Event, FailurePolicies, FailurePolicy, Hooks, RetryLadder
from txpatterns import parts as parts_module
from txpatterns.coordination import FileWatch, Listener
from txpatterns.coordination import watching as watching_module
from txpatterns.coordination.wakeup import INBOX, MEMBERS, say
from txpatterns.database import Database
from txpatterns.database.direct import Direct
from txpatterns.database.setup import create_missing
from txpatterns.hooks import on
from txpatterns.inbox.moments import Handled
from txpatterns.testing.clock import ManualClock

SECOND = timedelta(seconds=1)
LADDER = RetryLadder((timedelta(seconds=1.2),), jitter=0)
"""Over before the next look that nobody asked for."""


class Ping(Event, topic="pings", type="ping", key="number"):
    number: int


class Statements:
    """Counts the statements of the library's own connections, and knows whether one is under way."""

    def __init__(self, monkeypatch):
        self.count, self.under_way = Counter(), 0
        for owner, name in ((Database, "read"), (Database, "transact"), (Direct, "run")):
            monkeypatch.setattr(owner, name, self._watched(getattr(owner, name)))
        run = Direct.run

        async def counted(direct, method, statement, values):
            self.count[statement] += 1
            return await run(direct, method, statement, values)

        monkeypatch.setattr(Direct, "run", counted)

    def _watched(self, real):
        async def watched(*given, **named):
            self.under_way += 1
            try:
                return await real(*given, **named)
            finally:
                self.under_way -= 1

        return watched

    def before(self, connection, cursor, statement, *_):
        if not statement.startswith("BEGIN"):  # on SQLite, where it costs no round trip
            self.count[statement] += 1

    def on(self, table):
        return sum(count for text, count in self.count.items() if table in text and text.lstrip().startswith("SELECT"))

    async def settled(self):
        """Wait until nobody is at the database, and what followed from its answers has begun."""
        quiet = 0
        while quiet < 50:
            await asyncio.sleep(0)
            quiet = 0 if self.under_way else quiet + 1


class Counted(Hooks):
    def __init__(self):
        self.count, self.news = 0, asyncio.Event()

    @on(Handled)
    def note(self, _):
        self.count += 1
        self.news.set()


@pytest.fixture
def statements(monkeypatch):
    made = Statements(monkeypatch)
    sa.event.listen(Engine, "before_cursor_execute", made.before)
    yield made
    sa.event.remove(Engine, "before_cursor_execute", made.before)


@pytest.fixture
def listeners(monkeypatch):
    """The listeners that Apps make."""
    made = []

    def kept(kind):
        class Kept(kind):
            def __init__(self, *given, **named):
                super().__init__(*given, **named)
                made.append(self)

        return Kept

    monkeypatch.setattr(parts_module, "Listener", kept(Listener))
    monkeypatch.setattr(parts_module, "FileWatch", kept(FileWatch))
    return made


async def pass_time(clock, statements, seconds):
    """Move the clock from one deadline to the next; each time all that follows is waited for."""
    end = clock.monotonic() + seconds
    while (left := end - clock.monotonic()) > 0.0005:
        await statements.settled()
        step = clock.next_deadline
        clock.advance(min(max(step or SECOND, timedelta(milliseconds=1)), timedelta(seconds=left)))
    await statements.settled()


async def count_twenty_seconds(clock, statements):
    """Count what is asked in twenty seconds; anew where a word of the start, which no clock moves, came only then."""
    for _ in range(3):
        statements.count.clear()
        await pass_time(clock, statements, 20)
        if sum(statements.count.values()) <= 40:
            return


@asynccontextmanager
async def idle_app(url, statements, listeners, *, wakeups=True, relay=True):
    """An App with a relay and a consumer that has had time to become idle, and whether it hears is known."""
    clock, handled = ManualClock(), Counted()
    app = App(
        "idle",
        Database(url, clock=clock),
        "memory://",
        settings=AppSettings(wakeups=wakeups),
        policies=FailurePolicies(FailurePolicy(ladder=LADDER)),
        hooks=[handled],
    )
    app.failing = False

    @app.on(Ping)
    async def note(event, tx):
        if app.failing:
            app.failing = False
            raise OSError("not now")

    await app.database.transact(create_missing)
    async with app.running(relay=relay):
        if wakeups:
            await asyncio.wait_for(listeners[-1].checked.wait(), 120)
            assert listeners[-1].hears
        await pass_time(clock, statements, 6)
        yield app, clock, handled
    await app.close()
    await app.database.close()


@pytest.fixture
def file(tmp_path):
    """The URL of a SQLite file."""
    return f"sqlite+aiosqlite:///{tmp_path}/idle.db"


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_idle_app_asks_less_than_twice_a_second_while_it_would_be_told(
    database, driver, statements, listeners
):
    """H285: relay, consumer and listener together; leases are renewed by one statement each."""
    async with idle_app(database.url(driver), statements, listeners) as (_, clock, _):
        await count_twenty_seconds(clock, statements)
        assert 20 < sum(statements.count.values()) <= 40, statements.count
        renewals = [count for text, count in statements.count.items() if text.startswith("UPDATE")]
        assert sum(renewals) == 8, "two members, every five seconds"


async def test_an_idle_app_asks_a_file_as_seldom(file, statements, listeners):
    """H285, H300: its own renewals are commits, too, and wake nobody."""
    async with idle_app(file, statements, listeners) as (_, clock, _):
        await count_twenty_seconds(clock, statements)
        assert 20 < sum(statements.count.values()) <= 40, statements.count
        renewals = [count for text, count in statements.count.items() if text.startswith("UPDATE")]
        assert sum(renewals) == 8, "two members, every five seconds"


async def test_what_an_app_has_published_leads_to_no_further_looks(file, statements, listeners, monkeypatch):
    """H300: the watch is asked after each step; to take a message, settle it and rest is all that its commit causes."""
    async with idle_app(file, statements, listeners) as (app, clock, handled):
        async with app.transaction() as session:
            app.outbox.add(session, Ping(number=1))
        await asyncio.wait_for(handled.news.wait(), 120)
        await pass_time(clock, statements, 6)
        statements.count.clear()
        with watching_module.watched(app.database.engine, listeners[-1]._signs) as seen:
            for _ in range(20):
                await pass_time(clock, statements, 1)
                assert seen.news() == []
        assert sum(statements.count.values()) <= 40, statements.count


async def test_a_commit_beside_the_app_is_relayed_without_a_poll(file, statements, listeners):
    """P1, H300: the clock that the polls go by stands still."""
    async with idle_app(file, statements, listeners) as (_, _, handled), App("beside", file) as other:
        async with other.transaction() as session:
            other.outbox.add(session, Ping(number=1))
        await asyncio.wait_for(handled.news.wait(), 120)


@pytest.mark.parametrize("cause", ["turned off", "broken"])
async def test_without_a_watch_a_file_is_polled_by_the_settings(file, statements, listeners, monkeypatch, cause):
    """H285, H301, H34: nobody tells, so every half second is looked at the outbox and at what is due."""
    is_off = cause == "turned off"
    async with idle_app(file, statements, listeners, wakeups=not is_off) as (_, clock, _):
        if not is_off:
            monkeypatch.setattr(watching_module.WatchedFile, "news", broken)
            while listeners[-1].hears:
                listeners[-1].checked.clear()
                await asyncio.wait_for(listeners[-1].checked.wait(), 120)
            await pass_time(clock, statements, 6)
        assert is_off == (not listeners)
        statements.count.clear()
        await pass_time(clock, statements, 20)
        assert statements.on("txp_outbox") >= 38 + 19
        assert statements.on("txp_inbox_waiting") >= 38


def broken(_):
    raise OSError("the disk is away")


async def test_a_process_without_a_relay_is_told_too(database, statements, listeners):
    """H285: a consumer alone looks as seldom, and renews one lease."""
    async with idle_app(database.url("asyncpg"), statements, listeners, relay=False) as (_, clock, _):
        statements.count.clear()
        await pass_time(clock, statements, 20)
        assert 8 < sum(statements.count.values()) <= 20, statements.count


async def test_without_a_listener_it_polls_by_its_settings(database, statements, listeners):
    """H285, H34: nobody tells, so every half second is looked at the outbox and at what is due."""
    async with idle_app(database.url("asyncpg"), statements, listeners, wakeups=False) as (_, clock, _):
        statements.count.clear()
        await pass_time(clock, statements, 20)
        assert statements.on("txp_inbox_waiting") >= 38
        assert statements.on("txp_outbox WHERE position") >= 38
        assert statements.on("txp_outbox_waiting") >= 19


async def test_when_wake_ups_stop_it_looks_at_once_and_polls_again(database, statements, listeners):
    """H285, H34: from the moment in which the connection is known to be lost, as without one."""
    async with idle_app(database.url("asyncpg"), statements, listeners) as (app, clock, _):
        listener = listeners[-1]
        listener.checked.clear()
        statements.count.clear()
        async with app.database.engine.connect() as connection:
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            await connection.execute(sa.text(end + " AND datname = current_database()"))
        await asyncio.wait_for(listener.checked.wait(), 120)
        assert not listener.hears
        await statements.settled()
        assert statements.on("txp_outbox WHERE position") >= 1, "what was missed is looked for at once"
        listener.stop()  # or it would hear again
        statements.count.clear()
        await pass_time(clock, statements, 5)
        assert statements.on("txp_outbox WHERE position") >= 9
        assert statements.on("txp_inbox_waiting") >= 8


async def test_a_scheduled_message_goes_out_at_its_time(database, statements, listeners):
    """H285, P1: its time is known from the look that follows the wake-up, and slept until."""
    async with idle_app(database.url("asyncpg"), statements, listeners) as (app, clock, handled):
        async with app.transaction() as session:
            app.outbox.add(session, Ping(number=1), deliver_after=timedelta(seconds=3.3))
        await pass_time(clock, statements, 3.2)
        assert handled.count == 0
        await pass_time(clock, statements, 0.5)
        await asyncio.wait_for(handled.news.wait(), 120)


async def test_a_further_attempt_is_made_at_its_time(database, statements, listeners):
    """H285, P5: who has stored a failure knows when it is due, and does not wait for the next look."""
    async with idle_app(database.url("asyncpg"), statements, listeners) as (app, clock, handled):
        app.failing = True
        async with app.transaction() as session:
            app.outbox.add(session, Ping(number=1))
        stored = sa.text("SELECT count(*) FROM txp_inbox_waiting")
        async with asyncio.timeout(120), app.database.engine.connect() as connection:
            while not await connection.scalar(stored):
                await statements.settled()
        await pass_time(clock, statements, 1)
        assert handled.count == 0
        statements.count.clear()
        await pass_time(clock, statements, 0.4)
        assert statements.on("txp_inbox_waiting") >= 1, "it looks when its time has come"
        await pass_time(clock, statements, 1)  # the server's clock runs on while a statement is on its way
        await asyncio.wait_for(handled.news.wait(), 120)


async def test_a_word_of_an_operator_is_looked_after_within_the_settings_time(database, statements, listeners):
    """H285: what somebody else made due is found as soon as without the longer times; other words change nothing."""
    async with idle_app(database.url("asyncpg"), statements, listeners) as (app, clock, _):
        arrived = asyncio.Event()
        listeners[-1].on("last", arrived.set)
        for word, more in ((INBOX, 1), (MEMBERS, 0)):
            await pass_time(clock, statements, 2.5)
            statements.count.clear()
            arrived.clear()
            await app.database.transact(lambda c, word=word: [say(c, word), say(c, "last")])
            await asyncio.wait_for(arrived.wait(), 120)
            await pass_time(clock, statements, 0.5)
            assert (statements.on("txp_inbox_waiting") >= 1) == bool(more)
