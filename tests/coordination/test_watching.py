"""Hearing what others commit to a SQLite file: what counts as news, who is woken by it, and what happens without it."""

import asyncio
import sys
import threading
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from outbox.support import Placed
from txpatterns import App
from txpatterns.coordination import FileWatch, Leases, watching
from txpatterns.coordination.wakeup import INBOX, MEMBERS, OUTBOX
from txpatterns.coordination.watching import WatchedFile, watched
from txpatterns.database import Database
from txpatterns.database.engines import make_engine
from txpatterns.database.setup import create_missing
from txpatterns.inbox import queues as inbox
from txpatterns.inbox.schema import State, inbox_waiting_table
from txpatterns.outbox import queues as outbox
from txpatterns.sagas import SagaContext
from txpatterns.sagas.queues import ACTIVE
from txpatterns.testing.clock import ManualClock
from txpatterns.testing.leaks import Connections

TTL = timedelta(seconds=30)
ADDS = """
import sys
sys.path.insert(0, sys.argv[2])
from outbox.support import Placed
from txpatterns import App

app = App("another process", sys.argv[1])
with app.sync_transaction() as session:
    app.outbox.add(session, Placed(order_id="from afar"))
"""


@pytest.fixture
async def app(tmp_path):
    async with App("watched", f"sqlite+aiosqlite:///{tmp_path}/a.db", "memory://") as made:
        yield made


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.db"


@pytest.fixture
def signs(app):
    leases = Leases(app.database, "outbox", slots=4, ttl=TTL)
    return {
        OUTBOX: sa.select(*(sign for queue in outbox.QUEUES for sign in queue.signs)),
        INBOX: sa.select(*(sign for queue in inbox.QUEUES for sign in queue.signs)),
        MEMBERS: leases.sign(),
    }


async def add(app, **options):
    async with app.transaction() as session:
        app.outbox.add(session, Placed(order_id="1"), **options)


async def test_what_is_added_is_news_once(app, signs):
    """H300: at once or later, from whichever connection."""
    with watched(app.database.engine, signs) as file:
        assert file.news() == []
        await add(app)
        assert file.news() == [OUTBOX]
        assert file.news() == []
        await add(app, deliver_after=timedelta(hours=2))
        assert file.news() == [OUTBOX]
        await add(app, deliver_after=timedelta(hours=1))
        assert file.news() == [OUTBOX]


async def test_what_the_background_writes_is_no_news(app, signs):
    """H300: a renewal, a settled message, a transaction without rows: nobody would find anything to do."""
    leases = Leases(app.database, "outbox", slots=4, ttl=TTL)
    await leases.join()
    await leases.acquire(1)
    await add(app)
    with watched(app.database.engine, signs) as file:
        await leases.renew()
        assert file.news() == []
        await app.database.transact(lambda connection: connection.execute(sa.text("DELETE FROM txp_outbox")))
        assert file.news() == []
        await app.database.transact(lambda _: None)
        assert file.news() == []
        await add(app)  # its position was never another's
        assert file.news() == [OUTBOX]


async def test_members_that_come_go_or_give_up_slots_are_news(app, signs):
    """H300: so another relay of the file need not wait for its next renewal."""
    first, second = (Leases(app.database, "outbox", slots=4, ttl=TTL) for _ in range(2))
    await first.join()
    held = await first.acquire(1)
    with watched(app.database.engine, signs) as file:
        await second.join()
        assert file.news() == [MEMBERS]
        await first.release(list(held)[:2])
        assert file.news() == [MEMBERS]
        await second.leave()
        assert file.news() == [MEMBERS]


async def test_what_is_let_go_on_is_news_for_handlers(app, signs):
    """H300: a message that an operator makes due, also where an earlier one is due all the time."""

    def waiting(number, **values):
        texts = dict.fromkeys(("fingerprint", "topic", "type", "headers", "content_type"), "x")
        names = {"consumer": "c", "message_id": str(number), "lane": str(number)}
        times = {"occurred_at": app.database.now(), "due_at": None, **values}
        return {**texts, **names, "payload": b"", "state": State.PARKED, "attempts": 1, **times}

    def insert(connection):
        for number, due in ((1, app.database.now()), (2, None)):
            connection.execute(sa.insert(inbox_waiting_table).values(**waiting(number, due_at=due)))

    def release(connection):
        second = sa.update(inbox_waiting_table).where(inbox_waiting_table.c.message_id == "2")
        connection.execute(second.values(due_at=app.database.now(), state=State.RETRYING))

    await app.database.transact(insert)
    with watched(app.database.engine, signs) as file:
        await app.database.transact(release)
        assert file.news() == [INBOX]


async def test_a_saga_that_is_started_is_news_for_the_engine(app):
    """P4, H300: by whichever process; renewals are none."""

    @app.saga("order")
    async def order(saga: SagaContext, sku: str) -> None:
        await saga.sleep(timedelta(hours=1))

    leases = Leases(app.database, "sagas", slots=0, ttl=TTL)
    await leases.join()
    with watched(app.database.engine, {"sagas": sa.select(*ACTIVE.signs)}) as file:
        await leases.renew()
        assert file.news() == []
        async with app.transaction() as session:
            app.sagas.start(session, order, "A1", id="order-1")
        assert file.news() == ["sagas"]


async def test_a_word_without_a_sign_is_heard_at_every_commit(app):
    """H300: a part that names none is told too often rather than too late."""
    with watched(app.database.engine, {"all": None}) as file:
        assert file.news() == []
        await add(app)
        assert file.news() == ["all"]


async def test_another_file_in_its_place_is_noticed(app, signs, file):
    """H301: the connection goes on with the old one, and would never see anything again."""
    with watched(app.database.engine, signs) as seen:
        assert seen.news() == []
        file.with_name("b.db").touch()
        file.with_name("b.db").replace(file)
        with pytest.raises(OSError, match="another file"):
            seen.news()


async def test_a_file_that_is_gone_is_not_made(tmp_path):
    """H301: an empty one in its place would look like a database without messages."""
    engine = make_engine(f"sqlite+aiosqlite:///{tmp_path}/none.db")
    with pytest.raises(FileNotFoundError), watched(engine, {}):
        pytest.fail("it was opened")
    assert list(tmp_path.iterdir()) == []


class Heard:
    """Counts wake-ups; a test waits for the next one."""

    def __init__(self):
        self.count, self.news = 0, asyncio.Event()

    def __call__(self):
        self.count += 1
        self.news.set()

    async def more(self):
        await asyncio.wait_for(self.news.wait(), 120)
        self.news.clear()


@asynccontextmanager
async def watching_for(database, sign, hears=None):
    """A watch that runs and hears, and who is called by it; stopped at the end."""
    watch, heard = FileWatch(database), hears or Heard()
    watch.on(OUTBOX, heard, sign=sign)
    running = asyncio.create_task(watch.run())
    try:
        await asyncio.wait_for(watch.checked.wait(), 120)
        assert watch.hears
        await heard.more()  # something may have been committed before
        yield watch, heard
    finally:
        watch.stop()
        await running


async def checked(watch, *, hears):
    while watch.hears is not hears:
        watch.checked.clear()
        await asyncio.wait_for(watch.checked.wait(), 120)


async def test_a_commit_of_another_process_is_heard(app, signs, file):
    """P1, H300: of a process that knows nothing of this one."""
    async with watching_for(app.database, signs[OUTBOX]) as (_, heard):
        tests = str(Path(__file__).parent.parent)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", ADDS, f"sqlite:///{file}", tests)
        assert await asyncio.wait_for(process.wait(), 120) == 0
        await heard.more()


async def test_a_watch_that_fails_is_begun_anew(app, signs, monkeypatch, caplog):
    """H301, H34: it is said once; what was missed is looked for at once, and when it hears again."""
    failing, news = threading.Event(), WatchedFile.news

    def broken(watched_file):
        if failing.is_set():
            raise OSError("the disk is away")
        return news(watched_file)

    monkeypatch.setattr(WatchedFile, "news", broken)
    clock = ManualClock()
    database = Database(app.database.engine, clock=clock)
    async with watching_for(database, signs[OUTBOX]) as (watch, heard):
        failing.set()
        await checked(watch, hears=False)
        assert heard.count == 2
        for again in (True, False):
            if not again:
                failing.clear()
            watch.checked.clear()
            await until_it_waits(clock)
            clock.advance(clock.next_deadline)
            await asyncio.wait_for(watch.checked.wait(), 120)
        await checked(watch, hears=True)
        await add(app)
        while heard.count < 4:
            await heard.more()
    await database.close()
    said = [record.getMessage() for record in caplog.records if record.name == "txpatterns.wakeup"]
    assert said == [
        "wake-ups do not arrive, new messages are found by polling: OSError: the disk is away",
        "wake-ups arrive again",
    ]


async def test_an_answer_that_is_old_is_not_counted_on(app, signs, monkeypatch):
    """H301: a thread that hangs on a dead disk cannot say so."""
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(_):
        hangs.set()
        goes_on.wait(60)
        return []

    async with watching_for(app.database, signs[OUTBOX]) as (watch, _):
        monkeypatch.setattr(WatchedFile, "news", hang)
        await asyncio.to_thread(hangs.wait, 30)
        assert watch.hears
        later = time.monotonic() + 6
        monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: later))
        heard_while_it_hung = watch.hears
        goes_on.set()
    assert not heard_while_it_hung


async def test_one_thread_asks_for_all_and_ends_with_the_last(app, signs, tmp_path):
    """H301: nothing is left behind, neither thread nor connection."""
    connections, before = Connections(), watchers()
    async with Database(f"sqlite:///{tmp_path}/b.db") as other:
        await other.transact(create_missing)
        async with watching_for(app.database, signs[OUTBOX]):
            async with watching_for(other, signs[OUTBOX]):
                assert len(watchers() - before) == 1
            assert len(watchers() - before) == 1
    for thread in watchers() - before:
        await asyncio.to_thread(thread.join, 30)
    assert watchers() <= before
    assert connections.leaks() == []


async def test_a_run_that_is_cancelled_closes_its_connection(app, signs):
    """H301: nothing of it goes on behind the caller's back."""
    connections, watch = Connections(), FileWatch(app.database)
    watch.on(OUTBOX, Heard(), sign=signs[OUTBOX])
    task = asyncio.create_task(watch.run())
    await asyncio.wait_for(watch.checked.wait(), 120)
    task.cancel()
    await asyncio.wait([task])
    assert (task.cancelled(), watch.hears, connections.leaks()) == (True, False, [])


async def test_a_loop_that_was_closed_is_not_asked_for(app, signs):
    """H319: whoever closes a loop in the middle of its work leaves neither a thread nor a connection behind."""
    connections, watch = Connections(), FileWatch(app.database)
    watch.on(OUTBOX, Heard(), sign=signs[OUTBOX])
    loop = asyncio.new_event_loop()
    visits = watch._visits(loop)
    next(visits)  # it is opened
    next(visits)  # and asked
    loop.close()
    assert next(visits, "its end") == "its end"
    assert connections.leaks() == []


async def test_a_call_that_fails_keeps_nobody_from_the_others(app, signs):
    """H34: it is written into the log, and polling finds what there is to do."""

    async def broken_then_fine(watch, heard):
        watch.on(OUTBOX, heard)
        await add(app)
        await heard.more()

    class Broken(Heard):
        def __call__(self):
            super().__call__()
            raise RuntimeError("a part that fails")

    async with watching_for(app.database, signs[OUTBOX], Broken()) as (watch, _):
        await broken_then_fine(watch, Heard())


@pytest.mark.parametrize("made", ["given", "of a url"])
async def test_plain_engines_are_watched_too(app, signs, file, made):
    """H300: whatever the application works with."""
    engine = sa.create_engine(f"sqlite:///{file}")
    database = Database(engine if made == "given" else f"sqlite:///{file}")
    assert FileWatch.serves(database)
    async with watching_for(database, signs[OUTBOX]) as (_, heard):
        await add(app)
        await heard.more()
    await database.close()
    engine.dispose()


async def until_it_waits(clock):
    async with asyncio.timeout(120):
        while clock.next_deadline is None:  # noqa: ASYNC110 - the clock tells nobody
            await asyncio.sleep(0)


def watchers():
    return {thread for thread in threading.enumerate() if thread.name == "txpatterns file watch"}
