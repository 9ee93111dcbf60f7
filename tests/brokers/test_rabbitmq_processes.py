"""From the outbox through RabbitMQ into the inbox, with several processes; they are killed, and so is the server."""

import asyncio
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from brokers.rabbitmq_member import EVENT, make_app
from endtoend.application import BURNT, Base
from txpatterns.database.setup import create_missing

SCRIPT = Path(__file__).with_name("rabbitmq_member.py")
PATIENCE = timedelta(minutes=4)
KEYS, ROUND, ROUNDS = 12, 96, 5

pytestmark = [pytest.mark.timeout(900), pytest.mark.server]


async def prepared(url, broker):
    app = make_app(url, broker)
    await app.database.locate()
    await app.database.transact(create_missing)
    await app.database.transact(Base.metadata.create_all)
    return app


async def send(app, first):
    for start in range(first, first + ROUND, KEYS):
        async with app.transaction() as session:
            for number in range(start, start + KEYS):
                app.outbox.add(session, EVENT(name=f"key-{number % KEYS}", number=number))


async def effects(app):
    query = sa.text("SELECT key, number FROM effect ORDER BY id")
    return await app.database.read(lambda connection: connection.execute(query).all())


async def until_handled(app, count):
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while len(await effects(app)) < count:  # noqa: ASYNC110 - other processes do it
            await asyncio.sleep(0.05)


async def test_members_and_the_server_are_killed_and_nothing_is_lost_doubled_or_inverted(
    database, rabbitmq, own_rabbitmq, child
):
    """P1, P2, P3, H433: three members; each is killed with what it holds, and the server twice while it is used."""
    url = database.url("asyncpg")
    async with await prepared(url, rabbitmq.url) as app:
        members = [child(SCRIPT, url, rabbitmq.url) for _ in range(3)]
        for member in members:
            await asyncio.to_thread(member.wait_for, "member runs", within=PATIENCE)
        for n in range(ROUNDS):
            await send(app, n * ROUND)
            await until_handled(app, n * ROUND + 10)
            if n < 3:
                await asyncio.to_thread(members[n].kill9)
                members.append(child(SCRIPT, url, rabbitmq.url))
            if n in (1, 3):
                await asyncio.to_thread(own_rabbitmq.kill)
                await asyncio.to_thread(own_rabbitmq.start)
        await until_handled(app, ROUNDS * ROUND)
        for member in members[3:]:
            member.sigterm()
            assert await asyncio.to_thread(member.wait, within=PATIENCE) == 0, member.output
        found = defaultdict(list)
        for key, number in await effects(app):
            found[key].append(number)
        assert found == {f"key-{k}": list(range(k, ROUNDS * ROUND, KEYS)) for k in range(KEYS)}
        assert not any(BURNT in line for member in members for line in member.lines)
