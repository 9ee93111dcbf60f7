"""The same faults, with every other broker between the processes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from endtoend import application
from endtoend.fleet import Fleet
from endtoend.nemesis import strike
from endtoend.traffic import commit_all
from endtoend.verdict import Story, judge
from rig import evidence
from rig.process import Child
from rig.servers.base import Server
from rig.servers.postgres import Postgres
from rig.servers.sqs import LOGIN
from txpatterns.database.setup import create_missing
from txpatterns.messages import new_id

BROKERS = ("database", "rabbitmq", "sqs")


@dataclass(frozen=True)
class Between:
    """A broker, and the server of it that may be killed; None: there is none apart, or it forgets more than it may."""

    url: str
    server: Server | None


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[Between]:
    if request.param == "database":
        yield Between("database://", None)
    elif request.param == "rabbitmq":
        server = request.getfixturevalue("own_rabbitmq")
        yield Between(request.getfixturevalue("rabbitmq").url, server)
    else:  # killed, ElasticMQ forgets which keys are with whom: it is no fault of ours that the order is lost then
        server = request.getfixturevalue("elasticmq")
        yield Between(f"sqs://eu-central-1?fan_out=false&poll=1&visibility=6&endpoint={server.url}", None)


@pytest.mark.alone
@pytest.mark.server
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "messages", [pytest.param(3_000, id="3k"), pytest.param(30_000, id="30k", marks=pytest.mark.soak)]
)
@pytest.mark.parametrize("broker", BROKERS, indirect=True)
async def test_nothing_is_lost_doubled_or_inverted(
    messages: int,
    broker: Between,
    own_postgres: Postgres,
    child: Callable[..., Child],
    pytestconfig: pytest.Config,
    request: pytest.FixtureRequest,
) -> None:
    """P1, P2, P3, P7; H7, H15, H18, H20, H22, H35, H51, I1-I5, I15, I18.

    Invariant: what was committed is handled once and in order per key, whatever process or server stops, and no
    outage uses up an attempt.
    """
    with own_postgres.database() as database:
        url, topic = database.url("asyncpg"), f"counted-{new_id()}"
        environment = {"DATABASE": url, "BROKER": broker.url, "TOPIC": topic, **LOGIN}
        event = application.counted(topic)
        app = application.make_app(url, broker.url, event)
        await app.database.transact(create_missing)
        await app.database.transact(application.Base.metadata.create_all)
        fleet = Fleet(app, lambda role: child(application.__file__, role, environment=environment))
        story = Story(messages)
        for name in ("consume 1", "consume 2", "relay 1", "relay 2"):
            await fleet.start(name)
        began = time.monotonic()
        async with asyncio.TaskGroup() as together:
            together.create_task(commit_all(app, event, messages))
            together.create_task(strike(fleet, own_postgres, broker.server, story))
        await fleet.until("SELECT count(*) FROM effect", lambda n: n >= messages, "all effects")
        story.figures["seconds"] = round(time.monotonic() - began, 1)
        wrong = await judge(app, None, story)
        name = request.node.callspec.params["broker"]
        pytestconfig.stash[evidence.told].append(f"end to end, {name}: {json.dumps(story.figures)}")
        assert wrong == dict.fromkeys(wrong, 0)
        assert fleet.said(application.BURNT) == []
        await fleet.stop()
        await app.close()
