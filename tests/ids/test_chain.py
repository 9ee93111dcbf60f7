"""Falling back: from worker numbers to blocks of the database, and from those to UUIDs."""

import logging
from itertools import pairwise
from uuid import UUID

import pytest

from ids.support import HandClock, Machine, prepared, rows
from txpatterns import Hooks
from txpatterns.database import Database
from txpatterns.errors import ConfigurationError, IdsUnavailable
from txpatterns.hooks import on
from txpatterns.ids import DatabaseBlocks, IdChain, Uuid7, explain
from txpatterns.ids.blocks import BlockStore
from txpatterns.ids.layout import TICKS
from txpatterns.ids.moments import IdSourceChanged
from txpatterns.ids.worker_store import RESERVED


class Source:
    """Gives numbers while it is there."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)
        self.prepared = 0

    def next_id(self) -> int:
        if not self.numbers:
            raise IdsUnavailable("It is empty.")
        return self.numbers.pop(0)

    def prepare(self) -> None:
        self.prepared += 1


class Heard(Hooks):
    def __init__(self) -> None:
        self.moments: list[IdSourceChanged] = []

    @on(IdSourceChanged)
    def changed(self, moment: IdSourceChanged) -> None:
        self.moments.append(moment)


def test_the_first_source_that_has_one_gives_it(caplog):
    """P6, H309: falling back, and coming back, is told once each."""
    first, second, heard = Source(1, 2), Source(11, 12, 13), Heard()
    chain = IdChain(first, second, Uuid7(), hooks=heard)
    caplog.set_level(logging.WARNING, "txpatterns")
    assert [chain.next_id() for _ in range(4)] == [1, 2, 11, 12]
    first.numbers = [3]
    assert [chain.next_id(), chain.next_id()] == [3, 13]
    assert isinstance(chain.next_id(), UUID)
    assert [(moment.source, moment.place) for moment in heard.moments] == [
        ("Source", 1),
        ("Source", 0),
        ("Source", 1),
        ("Uuid7", 2),
    ]
    assert heard.moments[-1].reason == "It is empty. It is empty."
    assert len(caplog.records) == 4
    assert first.prepared == second.prepared == 1


def test_when_no_source_has_one_each_says_why():
    """H309: and a chain needs sources."""
    with pytest.raises(IdsUnavailable, match=r"It is empty\. It is empty\."):
        IdChain(Source(), Source()).next_id()
    with pytest.raises(ConfigurationError):
        IdChain()


def test_uuids_grow_and_are_of_version_7():
    """P6, H309."""
    made = [Uuid7().next_id() for _ in range(100)]
    assert len(set(made)) == 100
    assert {each.version for each in made} == {7}


@pytest.fixture
async def db(any_database):
    async with await prepared(any_database, HandClock()) as database:
        yield database


async def test_blocks_never_overlap(db):
    """P6, H309, I29: also while the clock stands still, or goes back; each begins above the one before."""
    store = BlockStore(db)
    blocks = [await store.draw(3) for _ in range(5)]
    db.clock.go(hours=-1)
    blocks += [await store.draw(1) for _ in range(3)]
    db.clock.go(days=1)
    blocks.append(await store.draw(2))
    assert all(later.first >= earlier.end for earlier, later in pairwise(blocks))
    assert {block.end - block.first for block in blocks} == {3 * TICKS, TICKS, 2 * TICKS}


async def test_a_generator_never_gets_the_number_of_blocks(db):
    """P6, H309: so ids of both may stand in one column."""
    await BlockStore(db).draw(1)
    db.clock.go(days=1)
    machine = Machine(db)
    await machine.tend()
    assert explain(machine.ids.next_id()).worker == 0
    assert set(await rows(db)) == {0, RESERVED}


async def test_blocks_of_the_database(any_database):
    """P6, H179, H309: whatever the clock of this machine says."""
    async with await prepared(any_database) as database:
        with DatabaseBlocks(database, reserve=1) as first, DatabaseBlocks(database, reserve=1) as second:
            made = [source.next_id() for _ in range(5000) for source in (first, second)]
        assert len(set(made)) == 10_000
        assert {explain(id_).worker for id_ in made} == {RESERVED}
        assert made[::2] == sorted(made[::2])


def test_blocks_without_a_database(tmp_path):
    """H141, H309: there is an error that says why."""
    blocks = DatabaseBlocks(Database(f"sqlite+aiosqlite:///{tmp_path}/none.db"))
    with blocks, pytest.raises(IdsUnavailable, match=r"There is no block of ids: .*no such table"):
        blocks.next_id()


async def test_a_chain_goes_on_while_the_clock_is_wrong(any_database):
    """P6, H179, H309: the database's blocks need no clock of this machine, and repeat nothing of the generator."""
    clock = HandClock()
    async with await prepared(any_database, clock) as database, Database(database.engine) as right:
        machine = Machine(database)
        await machine.tend()
        with DatabaseBlocks(right) as blocks:
            chain = IdChain(machine.ids, blocks, Uuid7())
            before = [chain.next_id() for _ in range(10)]
            clock.go(days=365)
            after = [chain.next_id() for _ in range(10)]
    assert {explain(id_).worker for id_ in before} == {0}
    assert {explain(id_).worker for id_ in after} == {RESERVED}
    assert len({*before, *after}) == 20
