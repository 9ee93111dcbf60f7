"""Codes that are used again: one holder each, and a rest between two."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from ids.support import HandClock, prepared
from txpatterns.errors import CodeNotHeld, CodesExhausted, ConfigurationError
from txpatterns.ids import CodePool

REST = timedelta(hours=1)


@pytest.fixture
async def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def db(any_database, clock):
    async with await prepared(any_database, clock) as database:
        yield database


@pytest.fixture
async def file(tmp_path, clock):
    """Where the database does not matter."""
    async with await prepared(f"sqlite+aiosqlite:///{tmp_path}/codes.db", clock) as database:
        yield database


async def took(db, pool, holder) -> int:
    async with db.session() as session, session.begin():
        return await session.run_sync(pool.take, holder)


async def gave_back(db, pool, code, holder) -> None:
    async with db.session() as session, session.begin():
        await session.run_sync(pool.give_back, code, holder)


async def test_a_code_rests_before_it_is_given_again(db, clock):
    """H303: one that has just been given back is not the next one's, also when there is no other."""
    pool = CodePool(db, "lockers", size=2, quarantine=REST)
    assert [await took(db, pool, holder) for holder in ("ann", "bob")] == [1, 2]
    with pytest.raises(CodesExhausted, match="All 2 codes of lockers"):
        await took(db, pool, "eve")
    await gave_back(db, pool, 1, "ann")
    clock.go(minutes=59)
    with pytest.raises(CodesExhausted):
        await took(db, pool, "eve")
    clock.go(minutes=1)
    assert await took(db, pool, "eve") == 1
    async with db.session() as session, session.begin():
        assert await session.run_sync(pool.holder_of, 1) == "eve"
        assert await session.run_sync(pool.holder_of, 3) is None


async def test_the_one_that_has_rested_longest_is_next(file, clock):
    """H303: so that each rests for as long as can be."""
    pool = CodePool(file, "queue", size=9, quarantine=REST)
    for holder in "abc":
        await took(file, pool, holder)
    for code, holder in ((2, "b"), (1, "a")):
        await gave_back(file, pool, code, holder)
        clock.go(hours=2)
    assert [await took(file, pool, "d"), await took(file, pool, "e"), await took(file, pool, "f")] == [2, 1, 4]


@pytest.mark.parametrize(("code", "holder"), [(1, "bob"), (2, "ann"), (1, "")])
async def test_only_its_holder_gives_a_code_back(db, code, holder):
    """H303: not who had it before, nor a second time."""
    pool = CodePool(db, "lockers", size=5, quarantine=REST)
    await took(db, pool, "ann")
    with pytest.raises(CodeNotHeld):
        await gave_back(db, pool, code, holder)
    await gave_back(db, pool, 1, "ann")
    with pytest.raises(CodeNotHeld):
        await gave_back(db, pool, 1, "ann")


async def test_what_is_rolled_back_was_never_taken(file):
    """H303: a code counts with the transaction that it was taken in."""
    pool = CodePool(file, "lockers", size=5, quarantine=REST)
    async with file.session() as session:
        assert await session.run_sync(pool.take, "ann") == 1
        await session.rollback()
    assert await took(file, pool, "bob") == 1


async def test_pools_are_apart(file):
    """H303: by their names."""
    pools = [CodePool(file, name, size=1, quarantine=REST) for name in ("a", "b")]
    assert [await took(file, pool, "ann") for pool in pools] == [1, 1]


async def test_two_who_take_at_once_wait_for_nobody(database, clock):
    """H303: each gets another code, rested or new, while the other's transaction is open."""
    async with await prepared(database.url("asyncpg"), clock) as db:
        pool = CodePool(db, "lockers", size=9, quarantine=REST)
        for holder in "ab":
            await gave_back(db, pool, await took(db, pool, holder), holder)
        clock.go(hours=2)
        async with asyncio.timeout(120):
            sessions = [AsyncSession(db.engine) for _ in range(4)]
            assert sorted([await session.run_sync(pool.take, "x") for session in sessions]) == [1, 2, 3, 4]
            for session in sessions:
                await session.close()


@pytest.mark.parametrize(("size", "rest"), [(0, REST), (5, -REST), ("5", REST)])
async def test_a_pool_that_makes_no_sense_is_refused(tmp_path, size, rest):
    """Where it is made."""
    async with await prepared(f"sqlite+aiosqlite:///{tmp_path}/x.db") as db:
        with pytest.raises(ConfigurationError):
            CodePool(db, "x", size=size, quarantine=rest)
