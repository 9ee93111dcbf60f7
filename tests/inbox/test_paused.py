"""A consumer that is stopped in the middle of a message from a real Kafka, and goes on when another has its keys."""

import asyncio
from itertools import product

import pytest
import sqlalchemy as sa

from inbox.pausing import PLACES, TABLE, application, is_the_one
from rig.waiting import until
from txpatterns.database.setup import create_missing

NUMBERS = range(1, 6)
EFFECTS = sa.text("SELECT key, number FROM effect ORDER BY place")
BLOCKED = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)

# How far the other consumer is when the first goes on; or where the first has locked what the other needs, so far as
# it comes.
PROGRESS = {
    "is not there yet": None,
    "is at the same message": is_the_one,
    "is behind it": lambda event: (event.key, event.number) == ("a", 4),
    "has handled all": lambda _event: False,
}
USUAL = {"is at the same message"}
USUAL_WITH_BATCHES = {"before the claim", "in the handler", "before a failure is stored"}
CASES = [
    pytest.param(place, progress, marks=[] if progress in USUAL else pytest.mark.soak)
    for place, progress in product(PLACES, PROGRESS)
]


@pytest.mark.parametrize(("place", "progress"), CASES)
async def test_a_stopped_consumer_changes_no_order(place, progress, database, kafka, child):
    """P2, P3, H44, H66, H196: wherever it stood, however far its successor is: one effect each, in order per key."""
    await stopped(place, progress, (database.url("asyncpg"), kafka.bootstrap, kafka.create(partitions=1)), child)


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=[] if place in USUAL_WITH_BATCHES else pytest.mark.soak) for place in PLACES]
)
async def test_a_stopped_consumer_of_batches_changes_no_order(place, database, kafka, child):
    """P2, P3, H44, H66, H196, H296, H297: both have the same messages in their batches."""
    servers = (database.url("asyncpg"), kafka.bootstrap, kafka.create(partitions=1))
    await stopped(place, "is at the same message", servers, child, "batches")


async def stopped(place, progress, servers, child, *batches):
    url, bootstrap, topic = servers
    app = application(url, bootstrap, topic, "second", *batches)
    await app.database.transact(prepare)
    await add(app)
    process = child("-m", "inbox.pausing", url, bootstrap, topic, place, *batches)
    await asyncio.to_thread(process.wait_for, "stops here")
    reached, opened = asyncio.Event(), asyncio.Event()

    async def before(event):
        if PROGRESS[progress] is not None and PROGRESS[progress](event):
            reached.set()
            await opened.wait()

    app.before = before
    async with app.running(relay=False):
        if PROGRESS[progress] is not None:
            await until(lambda: so_far(app, reached), "it to come so far")
        process.cont()
        await asyncio.to_thread(process.wait_for, "goes on")
        opened.set()
        await until(lambda: all_handled(app), "all to be handled")
        process.sigterm()
        assert await asyncio.to_thread(process.wait) == 0, process.output
    found = await effects(app)
    await app.close()
    assert sorted(found) == [(key, number) for key in "ab" for number in NUMBERS]
    assert [number for key, number in found if key == "a"] == list(NUMBERS)
    assert [number for key, number in found if key == "b"] == list(NUMBERS)


def prepare(connection):
    create_missing(connection)
    connection.execute(sa.text(TABLE))


async def add(app):
    async with app.running(consume=False):
        async with app.session() as session, session.begin():
            for number, key in product(NUMBERS, "ab"):
                app.outbox.add(session, app.told(key=key, number=number))
        await app.drained()


async def effects(app):
    rows = await app.database.read(lambda connection: connection.execute(EFFECTS).all())
    return [tuple(row) for row in rows]


async def so_far(app, reached):
    """Whether it is where it is to be, or has done all that it can while the first one keeps a lock."""
    if reached.is_set() or await all_handled(app):
        return True
    return await app.database.read(lambda connection: connection.scalar(BLOCKED)) > 0


async def all_handled(app):
    return len(await effects(app)) >= 2 * len(NUMBERS)
