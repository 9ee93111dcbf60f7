"""What is done to the processes and servers of a run, one fault after the other."""

from __future__ import annotations

import asyncio

from endtoend.fleet import EFFECTS, Fleet
from endtoend.verdict import Story
from rig.servers.base import Server
from rig.servers.postgres import Postgres

OWNERS = "SELECT count(DISTINCT owner) FROM txp_lease WHERE scope = 'outbox'"
LIVE_CONSUMERS = "SELECT count(*) FROM txp_member WHERE scope LIKE 'consumer:%' AND expires_at > clock_timestamp()"


async def strike(fleet: Fleet, postgres: Postgres, broker: Server | None, story: Story) -> None:
    """One fault after the other, each when a share of the effects is there: so each falls into running work."""
    share = story.messages // 8

    async def reached(part: int) -> None:
        await fleet.until(EFFECTS, lambda n: n >= share * part, f"{share * part} effects")

    await reached(1)
    story.fault("relay paused beyond its lease")
    fleet.members["relay 1"].stop()
    await fleet.until(OWNERS, lambda n: n == 1, "the other relay to own all")
    fleet.members["relay 1"].cont()
    await reached(2)
    story.fault("consumer killed")
    await fleet.kill("consume 1")
    await reached(3)
    story.fault("relay killed")
    await fleet.kill("relay 2")
    await reached(4)
    story.fault("PostgreSQL killed and started")
    await asyncio.to_thread(postgres.kill)
    await asyncio.to_thread(postgres.start)
    await reached(5)
    if broker is not None:
        story.fault(f"{broker.name} killed and started")
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
    await reached(6)
    story.fault("consumer paused beyond its lease")
    fleet.members["consume 2"].stop()
    await fleet.until(LIVE_CONSUMERS, lambda n: n == 1, "its lease to run out")
    fleet.members["consume 2"].cont()
