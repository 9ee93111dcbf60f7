"""Two relays and two consumers on real servers, while processes are paused and killed and servers restart."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator

import pytest

from endtoend import application
from endtoend.fleet import Fleet
from endtoend.nemesis import strike
from endtoend.traffic import commit_all
from endtoend.verdict import PARTITIONS, Story, judge, read_topic
from rig import evidence
from rig.process import Child
from rig.servers.kafka import Kafka
from rig.servers.postgres import Database as PostgresDatabase
from rig.servers.postgres import Postgres
from txpatterns.database.setup import create_missing
from txpatterns.outbox import RelaySettings

IN_FLIGHT = 2 * RelaySettings().read_ahead
"""What two relays can have read and not yet settled when something fails: so many may be sent again."""


@pytest.fixture
def topic(own_kafka: Kafka) -> Iterator[str]:
    with own_kafka.topics() as topics:
        yield topics.create("counted", partitions=PARTITIONS)


@pytest.fixture
def own_database(own_postgres: Postgres) -> Iterator[PostgresDatabase]:
    with own_postgres.database() as database:
        yield database


@pytest.mark.alone
@pytest.mark.server
@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(20_000, id="20k", marks=pytest.mark.timeout(1500)),
        pytest.param(200_000, id="200k", marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
async def test_nothing_is_lost_doubled_or_inverted(
    messages: int,
    own_postgres: Postgres,
    own_kafka: Kafka,
    own_database: PostgresDatabase,
    topic: str,
    child: Callable[..., Child],
    pytestconfig: pytest.Config,
) -> None:
    """P1, P2, P3, P7; H7, H15, H18, H20, H22, H35, H51, H56, H59, H65, H66, I1-I5, I15, I18.

    Invariant: what was committed is handled once and in order per key, whatever process or server stops, and no
    outage uses up an attempt.
    """
    url, bootstrap = own_database.url("asyncpg"), own_kafka.bootstrap
    environment = {"DATABASE": url, "BROKER": f"kafka://{bootstrap}", "TOPIC": topic}
    event = application.counted(topic)
    app = application.make_app(url, f"kafka://{bootstrap}", event)
    await app.database.transact(create_missing)
    await app.database.transact(application.Base.metadata.create_all)
    fleet = Fleet(app, lambda role: child(application.__file__, role, environment=environment))
    story = Story(messages)
    for name in ("relay 1", "relay 2", "consume 1", "consume 2"):
        await fleet.start(name)
    began = time.monotonic()
    async with asyncio.TaskGroup() as together:
        together.create_task(commit_all(app, event, messages))
        together.create_task(strike(fleet, own_postgres, own_kafka, story))
    healed = time.monotonic()
    await fleet.until("SELECT count(*) FROM effect", lambda n: n >= messages, "all effects")
    story.figures["seconds"] = round(time.monotonic() - began, 1)
    story.figures["seconds_to_drain_after_the_last_fault"] = round(time.monotonic() - healed, 1)
    wrong = await judge(app, await asyncio.to_thread(read_topic, bootstrap, topic), story)
    pytestconfig.stash[evidence.told].append(f"end to end: {json.dumps(story.figures)}")
    assert wrong == dict.fromkeys(wrong, 0)
    assert max(story.figures["duplicates_after"].values(), default=0) <= IN_FLIGHT
    assert fleet.said(application.BURNT) == []
    await fleet.stop()
    await app.close()
    evidence.keep("end-to-end", story.figures, [own_postgres, own_kafka])
