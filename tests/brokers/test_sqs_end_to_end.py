"""From the outbox through SQS into the inbox, while members are killed."""

import asyncio
from itertools import groupby
from pathlib import Path

import sqlalchemy as sa

from brokers import sqs_application
from brokers.sqs_application import effects, make_app
from rig.servers.sqs import LOGIN
from txpatterns.messages import new_id

PROGRAM = Path(sqs_application.__file__)
KEYS, EACH = 8, 20


async def test_nothing_is_lost_doubled_or_inverted(elasticmq, database, child):
    """P1, P2, P3, H411: members are killed with what they hold; each effect once, and in order per key."""
    name, url = f"e2e-{new_id()}", database.url("asyncpg")
    where = f"sqs://eu-central-1?fan_out=false&poll=1&visibility=5&endpoint={elasticmq.url}"
    app, event = make_app(url, where, name)
    await sqs_application.prepare(app)

    def start():
        started = child(PROGRAM, url, where, name, environment=LOGIN)
        started.wait_for("running")
        return started

    members = [await asyncio.to_thread(start) for _ in range(2)]
    for number in range(EACH):
        async with app.session() as session, session.begin():
            for key in range(KEYS):
                app.outbox.add(session, event(key=f"key-{key}", number=number))
        if number in (5, 15):
            await until(app, lambda done, number=number: done >= number * KEYS // 2)
            members.pop(0).kill9()
            members.append(await asyncio.to_thread(start))
    await until(app, lambda done: done >= KEYS * EACH)
    rows = await app.database.read(
        lambda c: c.execute(
            sa.select(effects.c.key, effects.c.number).order_by(effects.c.key, effects.c.position)
        ).all()
    )
    for _, mine in groupby(rows, key=lambda row: row.key):
        assert [row.number for row in mine] == list(range(EACH))
    assert len(rows) == KEYS * EACH
    members[0].sigterm()
    await asyncio.to_thread(members[0].wait)
    await app.close()


async def until(app, enough):
    count = sa.select(sa.func.count()).select_from(effects)
    while not enough(await app.database.read(lambda c: c.scalar(count))):  # noqa: ASYNC110 - other processes' work
        await asyncio.sleep(0.1)
