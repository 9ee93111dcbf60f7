"""Many messages at once, on a real PostgreSQL: how much of the table the relay reads for each that it publishes."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from outbox.broker import ScriptedBroker
from outbox.support import Placed, open_database, session_of
from txpatterns.outbox import Outbox, Relay, RelaySettings
from txpatterns.outbox.relay.store import OutboxStore, Place

MANY = 3000
SETTINGS = RelaySettings(batch=50, read_ahead=200, poll=timedelta(milliseconds=5), lease=timedelta(seconds=30))
BOTH = pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])


@pytest.fixture
def pages(monkeypatch):
    """How many rows each page had."""
    found, page = [], OutboxStore.page

    async def counted(self, *given):
        read = await page(self, *given)
        found.append(len(read.rows))
        return read

    monkeypatch.setattr(OutboxStore, "page", counted)
    return found


async def add(store, outbox, keys) -> None:
    async with session_of(store) as session, session.begin():
        for key in keys:
            outbox.add(session, Placed(order_id=key))


@BOTH
async def test_a_plan_is_made_for_the_table_as_it_is(database, driver):
    """H275: the server keeps a prepared statement's plan, and that of an empty table reads the whole of a full one."""
    plans = "SELECT sum(generic_plans) AS kept, sum(custom_plans) AS made FROM pg_prepared_statements "
    plans += "WHERE cardinality(parameter_types) > 0"
    async with open_database(database.url(driver)) as store:
        reader = OutboxStore(store)
        for _ in range(10):  # a server uses a general plan from the sixth time on
            await reader.page(Place(0), range(256), 500, 1 << 20)
        if reader._reader is not None:
            found = (await reader._reader.fetch(plans))[0]
            kept, made = found["kept"], found["made"]
        else:
            kept, made = await store.read(lambda connection: connection.execute(sa.text(plans)).one())
        await reader.close()
        assert (kept, made >= 5) == (0, True)


@BOTH
@pytest.mark.parametrize("ordered", [False, True], ids=["one by one", "ordered prefix"])
async def test_one_hot_key_is_read_a_few_times(database, driver, ordered, pages):
    """H276: of one key, only so many messages are kept; the others are not read again for each of them."""
    many = MANY if ordered else MANY // 10
    async with open_database(database.url(driver)) as store:
        broker = ScriptedBroker(ordered=ordered)
        await add(store, Outbox(store), [*["hot"] * many, *[f"other {n}" for n in range(10)]])
        assert await Relay(store, broker, settings=SETTINGS).run_once()
    assert len(broker.wire) == many + 10
    assert sum(pages) <= (4 if ordered else 20) * many  # of which a busy machine makes more; each for all would be 150
