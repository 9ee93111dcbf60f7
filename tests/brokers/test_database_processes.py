"""Several processes on one database, which is their broker, too; some of them are killed."""

import asyncio
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from brokers.queue_member import EVENT, TOPIC, make_app
from endtoend.application import Base
from txpatterns import App
from txpatterns.brokers.database.schema import queue_table, reader_table
from txpatterns.database.setup import create_missing

SCRIPT = Path(__file__).with_name("queue_member.py")
PATIENCE = timedelta(minutes=3)
EVENTS, KEYS = 400, 12


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"
    return request.getfixturevalue("database").url("asyncpg")


async def prepared(url):
    app = make_app(url)
    await app.database.locate()
    await app.database.transact(create_missing)
    await app.database.transact(Base.metadata.create_all)
    return app


async def send(app, first, count):
    for start in range(first, first + count, 10):
        async with app.transaction() as session:
            for number in range(start, start + 10):
                app.outbox.add(session, EVENT(name=f"key-{number % KEYS}", number=number))


async def effects(app):
    query = sa.text("SELECT key, number FROM effect ORDER BY id")
    return await app.database.read(lambda connection: connection.execute(query).all())


async def until_handled(app, count):
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while len(await effects(app)) < count:  # noqa: ASYNC110 - other processes do it
            await asyncio.sleep(0.05)


def by_key(found):
    kept = defaultdict(list)
    for key, number in found:
        kept[key].append(number)
    return kept


async def test_processes_that_are_killed_lose_and_double_nothing(url, child):
    """P1, P2, P3, H420: three processes share the keys; who is killed is followed by others, in order, each once."""
    async with await prepared(url) as app:
        members = [child(SCRIPT, url) for _ in range(3)]
        for member in members:
            await asyncio.to_thread(member.wait_for, "member runs", within=PATIENCE)
        for n in range(4):
            await send(app, n * EVENTS // 4, EVENTS // 4)
            await until_handled(app, n * EVENTS // 4 + 10)
            if n < 3:
                await asyncio.to_thread(members[n].kill9)
                members.append(child(SCRIPT, url))
        await until_handled(app, EVENTS)
        for member in members[3:]:
            member.sigterm()
            assert await asyncio.to_thread(member.wait, within=PATIENCE) == 0, member.output
        found = by_key(await effects(app))
        assert found == {f"key-{k}": list(range(k, EVENTS, KEYS)) for k in range(KEYS)}
        assert not any("an attempt was used up" in line for member in members for line in member.lines)


async def test_what_is_sent_while_nobody_runs_waits(url):
    """P1, H421: a group that has run once gets what is published while none of its processes runs."""
    first, second = await prepared(url), make_app(url, "another")
    async with first.running(), second.running():
        pass
    sender = App("sender", url, "database://")
    async with sender.running(consume=False):
        await send(sender, 0, 10)
        await asyncio.wait_for(sender.drained(), 120)
    counted = sa.select(sa.func.count()).select_from(queue_table)
    assert await sender.database.read(lambda connection: connection.execute(counted).scalar()) == 20
    async with first.running():
        await until_handled(first, 10)
    async with second.running():
        await until_handled(second, 20)
    readers = sa.select(reader_table.c.consumer_group).order_by(reader_table.c.consumer_group)
    found = await first.database.read(lambda connection: connection.execute(readers).scalars().all())
    assert found == ["another", "counting"]
    for app in (first, second, sender):
        await app.close()


async def test_what_nobody_has_ever_read_stays_in_the_outbox(url):
    """P1, H422: a topic without a group is postponed and told of, and comes once there is a group."""
    await (await prepared(url)).close()
    sender = App("sender", url, "database://")
    async with sender.running(consume=False):
        await send(sender, 0, 10)
        async with asyncio.timeout(120):
            while TOPIC not in sender.health().postponed:  # noqa: ASYNC110 - a person looks, too
                await asyncio.sleep(0.05)
        late = make_app(url, "late")
        async with late.running(relay=False):
            await until_handled(late, 10)
    for app in (sender, late):
        await app.close()
