"""Many machines at once, with clocks that do what clocks do: no id comes twice. Only the store is made up."""

import asyncio
import random
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise

import pytest

from ids.support import START, HandClock, Machine, MemoryWorkers
from txpatterns.errors import IdsUnavailable
from txpatterns.ids import SnowflakeGenerator, explain
from txpatterns.ids.layout import EPOCH, LAST_MILLISECOND
from txpatterns.ids.marks import Grant

STEPS = (-365 * 86_400_000, -3_600_000, -60_000, -500, -3, 0, 0, 3, 500, 60_000, 365 * 86_400_000)


class Fleet:
    """Machines that come, sleep, wake and go, on fewer numbers than machines; each has a clock of its own."""

    def __init__(self, seed: int, *, machines: int, numbers: int, at_once: int) -> None:
        self.random = random.Random(seed)
        self.store = MemoryWorkers(numbers)
        self.clocks = [HandClock() for _ in range(machines)]
        self.machines = [Machine(self.store, clock) for clock in self.clocks]
        self.off = [timedelta(0)] * machines
        self.asleep: set[int] = set()
        self.at_once = at_once
        self.made = 0
        self.seen: dict[int, list[tuple[int, int]]] = {}
        """The first and the last of what was made at a time, by worker number."""

    async def live(self, turns: int) -> None:
        for _ in range(turns):
            await self._turn(self.random.randrange(len(self.machines)))

    async def _turn(self, n: int) -> None:
        self.store.now = max(0, self.store.now + self.random.choice((0, 1, 5, 50, 500, 4000)))
        chance = self.random.random()
        if chance < 0.02:
            self.store.now = max(0, self.store.now + self.random.choice(STEPS))
        elif chance < 0.06:
            self.off[n] = timedelta(milliseconds=self.random.choice(STEPS))
        elif chance < 0.09:
            self.asleep.add(n)  # a machine that is suspended: it renews nothing, and its own clock stands still
        elif chance < 0.12:
            self.asleep.discard(n)
        elif chance < 0.16:
            self.asleep.discard(n)
            self.machines[n] = Machine(self.store, self.clocks[n])  # it died
        elif chance < 0.20:
            await self.machines[n].numbers.upkeep._leave(self.store)
        if n not in self.asleep:
            self.clocks[n].at = EPOCH + timedelta(milliseconds=self.store.now) + self.off[n]
            if self.random.random() < 0.7:
                await self.machines[n].tend()
        self._make(n)

    def _make(self, n: int) -> None:
        self._note([*self.machines[n].made(self.random.randrange(20))])
        with suppress(IdsUnavailable):
            self._note(self.machines[n].ids.take(self.random.randrange(1, self.at_once)))

    def _note(self, ids: list[int]) -> None:
        if ids:
            assert ids == sorted(set(ids))
            (worker,) = {explain(id_).worker for id_ in ids}
            self.made += len(ids)
            self.seen.setdefault(worker, []).append((ids[0], ids[-1]))

    @property
    def twice(self) -> int:
        """How many pairs of ranges overlap."""
        found = 0
        for ranges in self.seen.values():
            ranges.sort()
            found += sum(later[0] <= earlier[1] for earlier, later in pairwise(ranges))
        return found


def lived(seed: int, turns: int, at_once: int) -> Fleet:
    fleet = Fleet(seed, machines=64, numbers=24, at_once=at_once)
    asyncio.run(fleet.live(turns))
    return fleet


def test_a_million_ids_of_64_machines_are_unique():
    """P6, H135, H136, H137, H179, I29: clocks back, frozen, a year ahead; machines suspended, killed, restarted."""
    fleets = [lived(seed, 2500, 1500) for seed in range(2)]
    assert [fleet.twice for fleet in fleets] == [0, 0]
    assert sum(fleet.made for fleet in fleets) > 1_000_000
    assert min(len(fleet.seen) for fleet in fleets) > 12


@pytest.mark.soak
def test_ten_million_ids_of_64_machines_are_unique():
    """P6, H135, H136, H137, H179, I29: the same for longer."""
    fleets = [lived(seed, 10_000, 3000) for seed in range(10, 14)]
    assert [fleet.twice for fleet in fleets] == [0] * 4
    assert sum(fleet.made for fleet in fleets) > 10_000_000


def test_a_generator_that_trusts_its_lease_is_found(monkeypatch):
    """H137: the planted bug: it goes on as long as its clock says that the lease holds, and the clock stands still."""
    real = SnowflakeGenerator.granted
    without_an_end = Grant(0, 0, LAST_MILLISECOND).mark
    monkeypatch.setattr(
        SnowflakeGenerator,
        "granted",
        lambda self, grant: real(self, Grant(grant.worker, grant.above, without_an_end)),
    )
    assert lived(0, 2500, 1500).twice > 0


@pytest.mark.parametrize("by_owner_alone", [False, True])
async def test_clones(by_owner_alone):
    """P6, H179: of two clones, one is refused at its next renewal; by the owner alone, the planted bug, never."""
    store, clock = MemoryWorkers(8), HandClock()
    store.by_owner_alone = by_owner_alone
    first, second = Machine(store, clock), Machine(store, clock)
    await first.tend()
    (seat,), (copied,) = first.numbers._seats, second.numbers._seats
    copied.grant, copied._owner, copied._tokens = seat.grant, seat._owner, list(seat._tokens)
    second.ids.granted(seat.grant)
    made = []
    for turn in range(100):
        store.now += 1000
        clock.go(seconds=1)
        for machine in (first, second):
            await machine.tend()
            made.append((turn, machine.ids.next_id()))
    ids = [id_ for turn, id_ in made if turn > 0]
    assert (len(set(ids)) < len(ids)) is by_owner_alone
    assert clock.at > START
