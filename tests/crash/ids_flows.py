"""The canonical flow of ids: machines that take worker numbers, keep them, make ids, and give the numbers back."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby, pairwise

import sqlalchemy as sa

from ids.support import Machine
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.errors import IdsUnavailable
from txpatterns.ids import explain
from txpatterns.ids.layout import TICKS
from txpatterns.ids.marks import LEASE, WINDOW
from txpatterns.ids.schema import worker_table
from txpatterns.messages import new_id
from txpatterns.testing.explorer import INVARIANTS, Flow, State, Surroundings

AT_ONCE = 30 * TICKS
"""So many ids are made at a time: they reach 30 milliseconds ahead of the clock."""


@dataclass
class Site:
    """A process in which machines come and go; what they make is noted in a place that outlives it."""

    database: Database
    around: Surroundings

    async def work(self, rounds: int, enough: int = 2) -> int:
        """Be a new machine for some renewals, until it has made ids often enough; says how often it has."""
        machine, name, made = Machine(self.database), new_id(), 0
        for turn in range(rounds):
            if turn:  # later than the mark: there are no ids without a renewal
                self.around.clock.jump(WINDOW + timedelta(seconds=1))
            await machine.tend()
            made += await self._make(machine, name)
            if made == enough:
                break
        await machine.numbers.upkeep._leave(machine.numbers.upkeep._store)
        return made

    async def _make(self, machine: Machine, name: str) -> bool:
        try:
            ids = machine.ids.take(AT_ONCE)
        except IdsUnavailable:
            return False
        self.around.log.write("ids", machine=name, first=ids[0], last=ids[-1])
        worker = explain(ids[0]).worker
        query = sa.select(worker_table.c.mark).where(worker_table.c.worker == worker)
        mark = await self.database.read(lambda connection: connection.execute(query).scalar_one())
        self.around.log.write("mark", last=ids[-1], mark=mark)
        return True


@asynccontextmanager
async def site(around: Surroundings) -> AsyncIterator[Site]:
    async with Database(around.url, clock=around.clock) as database:
        if around.life < 0:
            await database.transact(create_missing)
        yield Site(database, around)


async def work_twice(site: Site) -> None:
    await site.work(2)
    await site.work(2)


async def take_over(site: Site) -> None:
    """The lease of whoever worked here is over; each round may meet a lock of one that was paused."""
    site.around.clock.jump(LEASE + timedelta(seconds=1))
    assert await site.work(20), "no id could be made"


def nobody_makes_what_another_makes(state: State) -> None:
    """P6, I29: under each worker number, the ids of one machine lie on end, and no two are the same."""
    made = defaultdict(list)
    for record in state.log.records("ids"):
        made[explain(record["first"]).worker].append((record["first"], record["last"], record["machine"]))
    for worker, ranges in made.items():
        ranges.sort()
        twice = [(a, b) for a, b in pairwise(ranges) if b[0] <= a[1]]
        assert not twice, f"P6, I29: ids were made twice under number {worker}: {twice}"
        turns = [machine for machine, _ in groupby(ranges, key=lambda each: each[2])]
        assert len(turns) == len(set(turns)), f"I29: the ids of machines overlap under number {worker}: {ranges}"


def no_id_lies_above_its_mark(state: State) -> None:
    """I29: what was made lay within what was committed."""
    above = [each for each in state.log.records("mark") if explain(each["last"]).millisecond > each["mark"]]
    assert not above, f"I29: ids above the mark of their number: {above}"


IDS_FLOWS = [
    Flow(
        "worker numbers",
        site,
        work_twice,
        take_over,
        invariants=(*INVARIANTS, nobody_makes_what_another_makes, no_id_lies_above_its_mark),
    )
]
