"""The generator as an application has it: from threads, in forked children, in an App and without one."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from ids.support import prepared, rows
from rig.waiting import wait_until
from txpatterns import App, Database
from txpatterns.database.setup import create_missing
from txpatterns.errors import ConfigurationError, IdsUnavailable, SchemaError, WorkersExhausted
from txpatterns.ids import SnowflakeGenerator, WorkerNumbers, explain
from txpatterns.ids.schema import worker_table
from txpatterns.ids.worker_store import DatabaseWorkers


@pytest.fixture
def file(tmp_path) -> str:
    """The URL of a database with our tables."""
    url = f"sqlite+aiosqlite:///{tmp_path}/ids.db"
    asyncio.run(made(url))
    return url


async def made(url: str) -> None:
    async with await prepared(url):
        pass


def expiries(url: str) -> list[bool]:
    """Of each worker number: whether somebody has it still."""
    engine = sa.create_engine(url.replace("+aiosqlite", ""))
    with engine.connect() as connection:
        now = connection.exec_driver_sql("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')").scalar_one()
        found = connection.execute(sa.text("SELECT expires_at FROM txp_id_worker ORDER BY worker")).scalars().all()
    engine.dispose()
    return [until > now for until in found]


def test_the_first_id_takes_a_number_and_close_gives_it_back(file):
    """P6: without an App, in a thread; it begins again when it is needed."""
    before = set(threading.enumerate())
    with WorkerNumbers(Database(file)) as numbers:
        ids = SnowflakeGenerator(numbers)
        first = ids.next_id()
        assert explain(first).worker == 0
        assert expiries(file) == [True]
        made = set(threading.enumerate()) - before
        assert made
    assert expiries(file) == [False]
    wait_until(lambda: not made & set(threading.enumerate()), what="its threads to end")
    assert ids.next_id() > first
    numbers.close()
    numbers.close()


async def test_on_each_database_and_driver(any_database):
    """P6: the thread has connections of its own, whatever engine the application has."""
    await made(any_database)
    engine = create_async_engine(any_database)
    with WorkerNumbers(Database(engine)) as numbers:
        made_here = SnowflakeGenerator(numbers).take(10)
    assert len(set(made_here)) == 10
    await engine.dispose()


def test_on_each_plain_engine(sync_database):
    """P6: the same on an engine that blocks."""
    engine = sa.create_engine(sync_database)
    database = Database(engine)
    asyncio.run(database.transact(create_missing))
    with WorkerNumbers(database) as numbers:
        assert SnowflakeGenerator(numbers).next_id() > 0
    asyncio.run(database.close())
    engine.dispose()


def test_a_second_generator_has_a_number_of_its_own(file):
    """P6, H137: two that count in one process would repeat each other's ids under one number."""
    with WorkerNumbers(Database(file)) as numbers:
        first = SnowflakeGenerator(numbers)
        assert explain(first.next_id()).worker == 0
        second = SnowflakeGenerator(numbers)
        assert explain(second.next_id()).worker == 1
        assert explain(first.next_id()).worker == 0


def test_threads_share_a_generator(file):
    """P6, H138: also for the very first id."""
    with WorkerNumbers(Database(file)) as numbers, ThreadPoolExecutor(8) as threads:
        ids = SnowflakeGenerator(numbers)
        found = [*threads.map(lambda _: [ids.next_id() for _ in range(10_000)] + ids.take(500), range(8))]
    assert all(each == sorted(each) for each in found)
    assert len({id_ for each in found for id_ in each}) == 8 * 10_500


def test_a_forked_child_has_a_number_of_its_own(file):
    """P6, H138: also when a thread of the parent was just making an id."""
    with WorkerNumbers(Database(file)) as numbers:
        ids = SnowflakeGenerator(numbers)
        ids.next_id()
        reading, writing = os.pipe()
        with ids._lock:
            child = os.fork()
            if child == 0:
                told = b"nothing"
                try:
                    told = " ".join(str(ids.next_id()) for _ in range(100)).encode()
                finally:
                    os.write(writing, told)
                    os._exit(0)
        os.close(writing)
        mine = {ids.next_id() for _ in range(100)}
        with os.fdopen(reading) as pipe:
            theirs = {int(id_) for id_ in pipe.read().split()}
        os.waitpid(child, 0)
    assert {explain(id_).worker for id_ in theirs} == {1}
    assert len(theirs) == 100
    assert not mine & theirs


@pytest.mark.parametrize("count", [0, -1, 6_144_001])
def test_what_cannot_be_taken_at_once_is_refused(file, count):
    """P6: clearly, and before anything is taken."""
    with WorkerNumbers(Database(file)) as numbers, pytest.raises(ConfigurationError, match="at once"):
        SnowflakeGenerator(numbers).take(count)


def test_without_a_store_there_is_an_error_that_says_why(tmp_path):
    """P6, H141: and it is asked again each second, not by each call."""
    with WorkerNumbers(Database(f"sqlite+aiosqlite:///{tmp_path}/none.db")) as numbers:
        ids = SnowflakeGenerator(numbers)
        for _ in range(3):
            with pytest.raises(IdsUnavailable, match="no such table: txp_id_worker"):
                ids.next_id()


async def test_an_app_that_runs_keeps_the_number(tmp_path):
    """P6: by a background part, from before the others begin until they have ended."""
    app = App("shop", f"sqlite+aiosqlite:///{tmp_path}/shop.db")
    ids = app.ids
    assert ids is app.ids
    async with app.running():
        assert explain(ids.next_id()).worker == 0
        assert not [thread.name for thread in threading.enumerate() if "numbers" in thread.name]
        assert "ids" in [part.name for part in app.health().parts]
        assert (await rows(app.database))[0].label
    async with app:
        found = await app.database.read(
            lambda c: c.execute(sa.select(worker_table.c.expires_at <= app.database.now())).scalars().all()
        )
        assert found == [True]
        first = ids.next_id()  # no part runs: a thread keeps it
        assert [thread.name for thread in threading.enumerate() if "numbers" in thread.name]
        async with app.running():
            assert ids.next_id() > first
    assert not [thread.name for thread in threading.enumerate() if "numbers" in thread.name]


async def test_an_app_that_makes_ids_needs_their_table(database):
    """H100: it is refused at its start where the tables are older than ids; others are not."""
    app = App("shop", database.url("asyncpg"))
    await app.database.transact(create_missing)
    await app.database.execute(sa.text("DROP TABLE txp_id_worker"))
    async with app.running(relay=False, consume=False):
        pass
    assert app.ids
    with pytest.raises(SchemaError, match="txp_id_worker"):
        async with app.running():
            pass


async def test_ids_go_on_while_the_store_is_away_and_after_it(tmp_path):
    """P6, H141: up to the mark; then not, until the number was renewed."""
    async with await prepared(f"sqlite+aiosqlite:///{tmp_path}/ids.db") as database:
        numbers = WorkerNumbers(Gone(database))
        ids = SnowflakeGenerator(numbers)
        await numbers.upkeep.open()
        Gone.away = True
        await numbers.upkeep.open()
        assert ids.next_id()
        assert "cannot be kept: OSError: away" in numbers.reason
        assert numbers.attention() == ["ids: OSError: away"]
        Gone.away = False
        await numbers.upkeep.open()
        assert numbers.attention() == []


async def test_one_number_that_cannot_be_had_leaves_the_others(tmp_path):
    """P6, H305: a generator for which there is none does not keep the others from renewing."""
    async with await prepared(f"sqlite+aiosqlite:///{tmp_path}/ids.db") as database:
        store = Few(database)
        numbers = WorkerNumbers(store)
        without, ids = SnowflakeGenerator(numbers), SnowflakeGenerator(numbers)
        store.refused = 1
        await numbers.upkeep.open()
        assert ids.next_id()
        assert "All worker numbers are taken" in numbers.reason
        before = (await rows(database))[0].token
        store.refused = 1
        await numbers.upkeep.open()
        assert (await rows(database))[0].token != before
        await numbers.upkeep.open()
        assert explain(without.next_id()).worker == 1


def test_a_thread_that_has_died_is_started_again(file, caplog):
    """P6, H143: with the next id; why it died is in the log."""
    numbers = WorkerNumbers(Dying(Database(file)))
    ids = SnowflakeGenerator(numbers)
    with pytest.raises(IdsUnavailable):
        ids.next_id()
    assert "no loop of its own" in caplog.text
    Dying.dies = False
    assert ids.next_id()
    numbers.close()


def test_nobody_begins_while_the_thread_ends(file):
    """P6: two that tend one number would each take one, and one of them would be renewed by nobody."""
    numbers = WorkerNumbers(Slow(Database(file)))
    ids = SnowflakeGenerator(numbers)
    ids.next_id()
    ending = threading.Thread(target=numbers.close)
    ending.start()
    Slow.leaving.wait(10)
    with pytest.raises(IdsUnavailable):
        ids.next_id()
    Slow.may_leave.set()
    ending.join(10)
    assert ids.next_id()
    numbers.close()


class Few(DatabaseWorkers):
    """A store that refuses so many times."""

    refused = 0

    async def take(self, *arguments):
        if self.refused:
            self.refused -= 1
            raise WorkersExhausted
        return await super().take(*arguments)


class Dying(DatabaseWorkers):
    """A store that cannot be had in another thread, at first."""

    dies = True

    def beside(self):
        if self.dies:
            raise RuntimeError("no loop of its own")
        return super().beside()


class Slow(DatabaseWorkers):
    """A store that takes its time when a number is given back."""

    leaving, may_leave = threading.Event(), threading.Event()

    async def release(self, *arguments):
        self.leaving.set()
        await asyncio.to_thread(self.may_leave.wait, 4)
        await super().release(*arguments)


class Gone(DatabaseWorkers):
    """A store that is away when the test says so."""

    away = False

    async def renew(self, *arguments):
        if self.away:
            raise OSError("away")
        return await super().renew(*arguments)
