"""Sending visitors at a stated rate, whether or not those before them have been answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

import httpx

from shop.load.figures import Figures
from shop.load.profiles import Journey, Profile, journey
from shop.load.visitors import Bought, Failed, Visitor

MOST_OPEN = 2_000
"""How many visitors may be under way; one more is counted as failed, as at any door that is too narrow."""
TOO_MANY = "too-many-under-way"


@dataclass(frozen=True, slots=True)
class Plan:
    """What load: so many visitors a second, for so long."""

    target: str
    profile: Profile
    rate: float
    seconds: float
    seed: int


@dataclass(slots=True)
class Load:
    """A load while it runs, and what came of it."""

    plan: Plan
    transport: httpx.AsyncBaseTransport
    figures: dict[str, Figures] = field(default_factory=dict)
    bought: list[Bought] = field(default_factory=list)
    under_way: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, no more visitors are sent."""

    @property
    def all_figures(self) -> Figures:
        """Give the figures of all kinds of journeys."""
        whole = Figures()
        for each in self.figures.values():
            whole = whole.merged(each)
        return whole

    async def run(self, skus: Sequence[str], each_second: Callable[[float], None]) -> None:
        """Send all visitors, each at their moment, and wait until the last has been answered."""
        random, loop = Random(self.plan.seed), asyncio.get_running_loop()
        begin = loop.time()
        ticker = asyncio.create_task(_tick(begin, each_second))
        try:
            async with asyncio.TaskGroup() as group:
                for number in count():
                    due = begin + number / self.plan.rate
                    if due >= begin + self.plan.seconds or not await self._is_time(due):
                        break
                    drawn = journey(self.plan.profile, skus, random)
                    # Nobody waits for those before: what is slow there is seen here.
                    group.create_task(self._one(drawn, due))
        finally:
            ticker.cancel()

    async def _is_time(self, due: float) -> bool:
        """Wait for a moment; says whether to go on."""
        left = due - asyncio.get_running_loop().time()
        if left <= 0:
            await asyncio.sleep(0)
            return not self.stopping.is_set()
        try:
            async with asyncio.timeout(left):
                await self.stopping.wait()
        except TimeoutError:
            return True
        return False

    async def _one(self, drawn: Journey, due: float) -> None:
        loop, figures = asyncio.get_running_loop(), self.figures.setdefault(drawn.kind, Figures())
        began, error = loop.time(), None
        if self.under_way >= MOST_OPEN:
            figures.add(due, began, began, TOO_MANY)
            return
        self.under_way += 1
        try:
            visitor = Visitor(self.plan.target, self.transport)
            if drawn.wish is None:
                await visitor.look(drawn.sku)
            else:
                self.bought.append(await visitor.buy(drawn.sku, drawn.quantity, drawn.wish))
        except Failed as failed:
            error = str(failed)
        finally:
            self.under_way -= 1
        figures.add(due, began, loop.time(), error)


async def _tick(begin: float, each_second: Callable[[float], None]) -> None:
    for number in count(1):
        await asyncio.sleep(max(0.0, begin + number - asyncio.get_running_loop().time()))
        each_second(float(number))
