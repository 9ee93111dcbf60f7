"""One life of a system, as a child process lives it."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random
from typing import Any

from txpatterns.testing.explorer import sql
from txpatterns.testing.explorer.clock import CommonTime, HurriedClock
from txpatterns.testing.explorer.flows import Flow, Surroundings
from txpatterns.testing.explorer.points import Points
from txpatterns.testing.explorer.world import World
from txpatterns.testing.leaks import Connections, tasks_left

PREPARING = -1
"""The life before the story."""
LAST = 2
"""The life that nothing disturbs, after all that struck."""

LONGER_THAN_A_LEASE = timedelta(hours=1)
_THREADS_END = 5.0
"""Real seconds."""

Story = Callable[[Any], Awaitable[object]]


def live(
    flow: Flow[Any], world: World, story: Story, *, life: int, seed: int, points: Points, time: CommonTime
) -> None:
    """Be a process that makes the system, runs the story and ends.

    What went wrong is noted in the journal: an error that nobody injected, and what was left open.
    """
    loaded = set(sys.modules)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    connections = Connections()
    sql.install(points)
    clock = HurriedClock(time, life, points)
    if life > 0:
        clock.jump(LONGER_THAN_A_LEASE)  # for a paused process as well: it finds its leases ended when it goes on
    surroundings = Surroundings(world.url, world.log, points, clock, Random(seed), life)
    if flow.plant is not None and life >= 0:
        flow.plant(surroundings)
    try:
        asyncio.run(_live(flow, surroundings, story))
    except BaseException as error:  # noqa: BLE001 - told in the journal; an injected fault may end the story
        told = "".join(traceback.format_exception(error))[-4000:]
        points.note({"ended": told, "life": life, "struck": points.fired})
    connections.settle(_THREADS_END)
    for leak in connections.leaks():
        points.note({"leak": leak, "life": life})
    points.note({"points": [str(point) for point in points.passed], "life": life})
    if life < 0:
        points.note({"imported": sorted(set(sys.modules) - loaded)})


async def _live(flow: Flow[Any], surroundings: Surroundings, story: Story) -> None:
    points = surroundings.points
    try:
        async with flow.make(surroundings) as system:
            points.flow = asyncio.ensure_future(story(system))
            try:
                await points.flow
            finally:
                points.flow = None
    finally:
        for left in await tasks_left():
            points.note({"leak": left, "life": surroundings.life})
