"""A rolling upgrade under load: processes are replaced one by one, and the tables change beneath them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from endtoend import application
from endtoend.fleet import EFFECTS, Fleet
from endtoend.traffic import commit_all, open_shop
from endtoend.verdict import PARTITIONS, Story, judge, read_topic
from rig.process import Child
from rig.servers.kafka import Topics
from rig.servers.postgres import Database as PostgresDatabase
from txpatterns import App
from txpatterns.database.schema import database_table, metadata

MESSAGES = 3000
MEMBERSHIPS = "SELECT count(*) FROM txp_member WHERE split_part(label, chr(58), 2) = '{}'"
NAMES = ("relay 1", "relay 2", "consume 1", "consume 2")


@pytest.mark.alone
@pytest.mark.server
@pytest.mark.timeout(900)
async def test_a_rolling_upgrade_loses_repeats_and_delays_nothing(
    database: PostgresDatabase, kafka: Topics, child: Callable[..., Child]
) -> None:
    """P1, P2, P3, P7; H37, H100. The next release's tables, then every process replaced by SIGTERM, under load.

    Invariant: a deployment is no fault: each message is sent once, handled once and in order, and no attempt is used.
    """
    url, topic = database.url("asyncpg"), kafka.create("counted", partitions=PARTITIONS)
    environment = {"DATABASE": url, "BROKER": kafka.url, "TOPIC": topic, "LEASE": "15"}
    event = application.counted(topic)
    app = application.make_app(url, kafka.url, event)
    await open_shop(app)
    fleet = Fleet(app, lambda name: child(application.__file__, name, environment=environment))
    for name in NAMES:
        await fleet.start(name)
    async with asyncio.TaskGroup() as together:
        together.create_task(commit_all(app, event, MESSAGES))
        together.create_task(_deploy(fleet))
    await fleet.until("SELECT count(*) FROM effect", lambda n: n >= MESSAGES, "all effects")
    story = Story(MESSAGES)
    wrong = await judge(app, await asyncio.to_thread(read_topic, kafka.bootstrap, topic), story)
    assert wrong | {"duplicates": story.figures["duplicates_on_the_wire"]} == dict.fromkeys([*wrong, "duplicates"], 0)
    assert fleet.said(application.BURNT) == []
    await fleet.stop()
    await app.close()


async def _deploy(fleet: Fleet) -> None:
    share = MESSAGES // (len(NAMES) + 2)
    await fleet.until(EFFECTS, lambda n: n >= share, "the first effects")
    await _migrate_to_the_next_release(fleet.app)
    for part, name in enumerate(NAMES, 2):
        await fleet.until(EFFECTS, lambda n, part=part: n >= share * part, f"{share * part} effects")
        pid = fleet.members[name].pid
        await fleet.stop(name)
        assert await fleet.figure(MEMBERSHIPS.format(pid)) == 0, "it left, but its keys wait for its lease to run out"
        await fleet.start(name)


async def _migrate_to_the_next_release(app: App) -> None:
    """What a migration may do: add what may be left out of an INSERT, and count the version up."""
    for table in metadata.sorted_tables:
        await app.database.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN of_the_next_release integer"))
    await app.database.execute(sa.update(database_table).values(version=database_table.c.version + 1))
