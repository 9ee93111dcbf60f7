"""Two relays and two consumers on every pair of database and broker, under faults of processes, servers and network."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from endtoend import application
from endtoend.fleet import Fleet
from endtoend.ground import Ground, Proxied, lay
from endtoend.nemesis import DONE, NAMES, plan, strike
from endtoend.traffic import Allowance, commit_all, open_shop
from endtoend.verdict import Story, judge
from rig import evidence
from rig.process import Child
from rig.servers.sqs import LOGIN
from txpatterns.outbox import RelaySettings

IN_FLIGHT = 2 * RelaySettings().read_ahead
"""What two relays can have read and not yet settled when something fails: so many may be sent again."""


SHARE = float(os.environ.get("TXP_SOAK_SHARE", "1"))
"""How much of the soak to run: of the messages and of the faults of each pair."""


@pytest.fixture
def ground(request: pytest.FixtureRequest, proxied: Proxied, tmp_path: Path) -> Iterator[Ground]:
    database, broker = request.param
    with lay(database, broker, request.getfixturevalue, proxied, tmp_path) as laid:
        yield laid


def case(database: str, broker: str, messages: int, faults: int, *, soak: bool = False) -> object:
    """A pair, how many messages go over it, and how many faults strike it meanwhile."""
    marks = [pytest.mark.soak, pytest.mark.timeout(3600)] if soak else [pytest.mark.timeout(900)]
    if database != "sqlite" or broker != "database":
        marks.append(pytest.mark.server)
    name = f"{database}-{broker}-{'soak' if soak else 'gate'}"
    part = SHARE if soak else 1
    return pytest.param((database, broker), round(messages * part), round(faults * part), id=name, marks=marks)


DRIVERS = ("asyncpg", "psycopg")
GATE = [
    case("asyncpg", "kafka", 3_000, 6),
    case("psycopg", "rabbitmq", 2_000, 6),
    case("asyncpg", "sqs", 2_000, 6),
    case("psycopg", "database", 2_000, 6),
    case("sqlite", "database", 1_000, 3),
]
SOAK = [
    *(case(driver, "kafka", 40_000, 60, soak=True) for driver in DRIVERS),
    *(case(driver, "rabbitmq", 20_000, 60, soak=True) for driver in DRIVERS),
    *(case(driver, "sqs", 15_000, 60, soak=True) for driver in DRIVERS),
    *(case(driver, "database", 15_000, 60, soak=True) for driver in DRIVERS),
    *(case("sqlite", broker, 7_000, 20, soak=True) for broker in ("database", "rabbitmq", "sqs")),
]
"""540 faults over 201,000 messages."""


@pytest.mark.alone
@pytest.mark.parametrize(("ground", "messages", "faults"), [*GATE, *SOAK], indirect=["ground"])
async def test_nothing_is_lost_doubled_or_inverted(
    ground: Ground,
    messages: int,
    faults: int,
    child: Callable[..., Child],
    pytestconfig: pytest.Config,
    seed: int,
) -> None:
    """P1, P2, P3, P7; H7, H15, H18, H20, H22, H35, H51, H56, H59, H65, H66, I1-I7, I15, I18.

    Invariant: what was committed is handled once and in order per key, whatever process, server or connection stops,
    stalls or lies; money and stock are conserved; and no outage uses up an attempt.
    """
    event = application.counted(ground.topic)
    app = application.make_app(ground.database, ground.broker, event)
    writer = application.make_app(ground.databases["2"], ground.brokers["2"], event)
    await open_shop(app)
    fleet = Fleet(
        app,
        lambda name: child(application.__file__, name, environment={**ground.environment(name[-1]), **LOGIN}),
    )
    story, allowance = Story(messages), Allowance(0)
    for name in sorted(NAMES):  # the consumers first: a group of RabbitMQ begins when it is declared
        await fleet.start(name)
    began = time.monotonic()
    async with asyncio.TaskGroup() as together:
        together.create_task(commit_all(writer, event, messages, allowance))
        together.create_task(strike(fleet, plan(ground, faults, seed), story, allowance))
    healed = time.monotonic()
    await fleet.until(DONE, lambda n: n >= messages, "all effects")
    story.figures["seconds"] = round(time.monotonic() - began, 1)
    story.figures["seconds_to_drain_after_the_last_fault"] = round(time.monotonic() - healed, 1)
    wire = await asyncio.to_thread(ground.read_wire) if ground.read_wire is not None else None
    wrong = await judge(app, wire, story)
    pytestconfig.stash[evidence.told].append(f"{ground.name}: {json.dumps(story.figures)}")
    burnt = fleet.said(application.BURNT)
    assert (wrong, burnt) == (dict.fromkeys(wrong, 0), []), await fleet.report()
    assert story.fired.total() == faults
    assert max(story.figures.get("duplicates_after", {}).values(), default=0) <= IN_FLIGHT
    await fleet.stop()
    await app.close()
    await writer.close()
    evidence.keep(f"faults-{ground.name.replace(' ', '-')}", {"seed": seed, **story.figures}, ground.servers)
