"""Processes that are killed: the effect happens once all the same, and what kills them ends as a dead letter."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from inbox.dying import queue
from inbox.support import prepared
from rig.waiting import wait_until
from txpatterns.coordination.schema import member_table
from txpatterns.database import Database

SCRIPT = Path(__file__).with_name("dying.py")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"
    return request.getfixturevalue("database").url("asyncpg")


async def recovered(url, child, tmp_path, point, *, redelivered="no", books=("a", "a", "b"), given=()):
    """Start the process again until it has finished; gives the world that it left and how often it was killed."""
    marker = tmp_path / "marks"
    database = Database(url)
    world = await prepared(database)
    for book in books:
        await database.execute(sa.insert(queue).values(book=book, acked=False))
    reader = sa.create_engine(database.sync_engine.url)
    kills = 0
    while True:
        process = child(SCRIPT, url, point, str(marker), redelivered, *given)
        if process.wait() == 0:
            break
        kills += 1
        assert kills < 12, "it goes on for ever"
        assert kills == len(marker.read_text()), process.output
        wait_until(lambda: silent(reader), what="the lease of the dead process to run out")
    reader.dispose()
    assert "drained" in process.output
    return world, kills


def silent(reader):
    """Whether the dead process's membership is over, by the database's clock or by far."""
    is_sqlite = reader.dialect.name == "sqlite"
    now = sa.text("strftime('%Y-%m-%d %H:%M:%f', 'now')") if is_sqlite else sa.func.clock_timestamp()
    with reader.connect() as connection:
        live = sa.select(sa.func.count()).where(sa.cast(member_table.c.expires_at, sa.String) > sa.cast(now, sa.String))
        if not is_sqlite:
            live = sa.select(sa.func.count()).where(member_table.c.expires_at > now)
        return connection.execute(live).scalar_one() == 0


@pytest.mark.parametrize("redelivered", ["no", pytest.param("yes", marks=pytest.mark.soak)])
@pytest.mark.parametrize("point", ["handler", "ack", "retry"])
async def test_a_process_killed_at_any_point_leaves_one_effect_each(url, child, tmp_path, point, redelivered):
    """P2, P3, P7, H51: killed before the commit, between commit and acknowledgement, and in a further attempt."""
    world, kills = await recovered(url, child, tmp_path, point, redelivered=redelivered)
    async with world.database:
        assert kills == 1
        assert sorted(await world.effects()) == [("a", 1), ("a", 2), ("b", 3)]
        assert [effect for effect in await world.effects() if effect[0] == "a"] == [("a", 1), ("a", 2)]
        assert (await world.waiting(), await world.dead()) == ([], [])


@pytest.mark.parametrize("redelivered", ["no", pytest.param("yes", marks=pytest.mark.soak)])
async def test_a_message_that_kills_its_process_ends_as_a_dead_letter(url, child, tmp_path, redelivered):
    """P7, H24: written before they begin, its attempts are counted though nobody lives to count them; then the key
    goes on."""
    world, kills = await recovered(url, child, tmp_path, "always", redelivered=redelivered)
    async with world.database:
        assert kills == (7 if redelivered == "yes" else 8)  # unless told, the first time is not known to be one
        (dead,) = await world.dead()
        assert (dead.reason, dead.attempts, dead.message_id) == ("crashed", 7, "message-1")
        assert sorted(await world.effects()) == [("a", 2), ("b", 3)]
        assert await world.waiting() == []


async def test_a_message_that_kills_its_process_is_found_in_a_batch(url, child, tmp_path):
    """P2, P3, P7, H24, H299: it is the third of its key in a batch of seven. After the first death each message that
    could have been it is handled alone, so its attempts are counted, and none of the others is a dead letter."""
    books = ("a", "a", "a", "a", "b", "b", "b")
    world, kills = await recovered(url, child, tmp_path, "always", books=books, given=["batches"])
    async with world.database:
        assert kills == 8  # the first time it is not known which one it was
        (dead,) = await world.dead()
        assert (dead.reason, dead.attempts, dead.message_id) == ("crashed", 7, "message-3")
        effects = await world.effects()
        assert [n for book, n in effects if book == "a"] == [1, 2, 4]
        assert [n for book, n in effects if book == "b"] == [5, 6, 7]
        assert await world.waiting() == []


async def test_a_process_killed_in_a_batch_leaves_one_effect_each(url, child, tmp_path):
    """P2, P3, P7, H51, H299: the batch of the dead process is rolled back, and all of it is handled once."""
    books = ("a", "a", "a", "b")
    world, kills = await recovered(url, child, tmp_path, "handler", books=books, given=["batches"])
    async with world.database:
        assert kills == 1
        effects = await world.effects()
        assert [n for book, n in effects if book == "a"] == [1, 2, 3]
        assert sorted(effects) == [("a", 1), ("a", 2), ("a", 3), ("b", 4)]
        assert (await world.waiting(), await world.dead()) == ([], [])
