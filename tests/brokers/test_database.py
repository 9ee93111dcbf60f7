"""The database as the broker, on each database."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from txpatterns.brokers import broker_from_url
from txpatterns.brokers.database import DatabaseBroker
from txpatterns.brokers.database.looking import remove
from txpatterns.brokers.database.schema import reader_table
from txpatterns.brokers.database.store import QueueStore
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.errors import ConfigurationError
from txpatterns.testing.conformance import BrokerSuite, Publishing, Reader, message
from txpatterns.transport import Verdict, declare


class TestDatabaseBroker(BrokerSuite):
    @pytest.fixture(autouse=True)
    def server(self, any_database):
        self.url = any_database

    def new_broker(self):
        return Closing(Database(self.url), poll=timedelta(milliseconds=50))

    def new_topic(self):
        self.open_topic(topic := super().new_topic(), "another")
        return topic

    def closed_topic(self):
        return super().new_topic()

    def open_topic(self, topic, group="suite"):
        async def declare_it():
            broker = self.new_broker()
            declare(broker, group, [topic])
            async with broker:
                pass

        with ThreadPoolExecutor() as elsewhere:
            elsewhere.submit(asyncio.run, declare_it()).result()


@pytest.fixture
async def broker(any_database):
    async with Closing(Database(any_database)) as made:
        yield made


async def test_what_waits_and_what_is_wrong_is_told(broker):
    """P5, H423: how much waits for a group, a topic that nobody reads, a handler that is gone, a group that is gone."""
    broker.declare("billing", ["orders", "returns"])
    broker.declare("gone", ["orders"])
    await Publishing(broker, [message("orders", "key") for _ in range(3)]).confirmed()
    (depth,) = await broker.depths(["orders"], "billing")
    assert (depth.ready, depth.readers) == (3, 0)
    assert depth.oldest >= timedelta(0)
    async with broker.subscribe(["orders"], group="billing"):
        assert [each.readers for each in await broker.depths(["orders"], "billing")] == [1]
        told = [str(each) for each in await broker.check(["orders"], "billing")]
        assert len(told) == 1
        assert "no handler for it" in told[0]
    earlier = broker.database.now(-timedelta(days=3))
    await broker.database.execute(
        sa.update(reader_table).values(read_at=earlier).where(reader_table.c.consumer_group == "gone")
    )
    told = [str(each) for each in await broker.check(["orders", "new"])]
    assert [each for each in told if "topic new" in each and "No group" in each]
    assert [each for each in told if "txp group remove gone" in each]


async def test_a_group_is_removed_by_an_operator_alone(broker):
    """H424: with what waits for it, and nothing of the others."""
    broker.declare("billing", ["orders"])
    broker.declare("gone", ["orders"])
    await Publishing(broker, [message("orders", "key") for _ in range(3)]).confirmed()
    assert await broker.database.transact(partial(remove, group="gone")) == (1, 3)
    assert await broker.depths(["orders"], "gone") == []
    assert [each.ready for each in await broker.depths(["orders"], "billing")] == [3]


@pytest.mark.server
async def test_publications_become_visible_in_their_order(database):
    """P3, H425: one that has drawn its positions and not committed holds up the next, so no reader passes it by."""
    async with Closing(Database(database.url("asyncpg"))) as broker:
        broker.declare("suite", ["orders"])
        first, second = message("orders", "first"), message("orders", "second")
        async with broker.subscribe(["orders"], group="suite") as batches, broker.database.engine.connect() as slow:
            store = QueueStore(broker.database)
            await slow.run_sync(lambda connection: store.store(connection, [first]))
            publishing = Publishing(broker, [second])
            await asyncio.wait({publishing.task}, timeout=0.5)  # without turns it is stored by then, and read
            await slow.commit()
            assert await Reader(batches).until([first.id, second.id]) == [first.id, second.id]
            await publishing.confirmed()


@pytest.mark.server
async def test_a_publication_has_its_turn_for_one_statement(database):
    """P7, H425, H445: a process that is stopped in between two would keep all others from publishing."""
    seen = []

    def note(connection, cursor, statement, *_):
        if "txp_queue" in statement or "advisory" in statement:
            seen.append((statement[:30], connection.get_execution_options().get("isolation_level")))

    async with Closing(Database(database.url("psycopg"))) as broker:
        broker.declare("suite", ["orders"])
        await Publishing(broker, [message("orders", "key")]).confirmed()
        sa.event.listen(Engine, "before_cursor_execute", note)
        try:
            await Publishing(broker, [message("orders", "key"), message("orders", None)]).confirmed()
        finally:
            sa.event.remove(Engine, "before_cursor_execute", note)
        assert seen == [("WITH turn AS MATERIALIZED (SEL", "AUTOCOMMIT")]
        assert [each.ready for each in await broker.depths(["orders"], "suite")] == [3]


async def test_one_that_cannot_be_stored_stops_no_neighbour(broker):
    """H426: it is rejected by itself, and nothing behind it in its key goes before it."""
    broker.declare("suite", ["orders"])
    bad, behind = message("orders", "other")._replace(content_type="a\x00b"), message("orders", "other")
    sent = [message("orders", "key"), bad, behind, message("orders", "key")]
    told = [Verdict.CONFIRMED, Verdict.REJECTED, Verdict.UNKNOWN, Verdict.CONFIRMED]
    assert await Publishing(broker, sent).verdicts() == told
    assert [each.ready for each in await broker.depths(["orders"], "suite")] == [2]


def test_a_broker_without_a_database_says_so():
    """P6: there is no address in the URL."""
    with pytest.raises(ConfigurationError, match="no database"):
        _ = broker_from_url("database://").database
    with pytest.raises(ConfigurationError, match="no address"):
        broker_from_url("database://somewhere")


class Closing(DatabaseBroker):
    """Has a database of its own."""

    async def __aenter__(self):
        await self.database.locate()
        await self.database.transact(create_missing)
        return await super().__aenter__()

    async def __aexit__(self, *exception):
        await super().__aexit__(*exception)
        await self.database.close()
