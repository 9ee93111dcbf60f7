"""Leases with several members and clocks of their own: one owner per slot, epochs that only grow."""

import asyncio
from datetime import timedelta
from random import Random

import pytest
import sqlalchemy as sa

from outbox.support import OffsetClock, open_database
from txpatterns.coordination import Census, Leases
from txpatterns.coordination.schema import lease_table, member_table
from txpatterns.database import Database
from txpatterns.database.engines import sync_side
from txpatterns.errors import LeaseLost

TTL = timedelta(seconds=30)


class Members:
    """Databases over one file or server, each with a clock that the test moves."""

    def __init__(self, url) -> None:
        self.url, self.databases = url, []

    def make(self, *, slots=16) -> tuple[Leases, OffsetClock]:
        clock = OffsetClock()
        database = Database(self.url, clock=clock)
        self.databases.append(database)
        return Leases(database, "scope", slots=slots, ttl=TTL), clock


@pytest.fixture
async def members(any_database):
    async with open_database(any_database):
        made = Members(any_database)
        yield made
        for database in made.databases:
            await database.close()


async def join(leases):
    return await leases.acquire((await leases.join()).live)


async def guarded(leases, held):
    return await leases.database.transact(lambda connection: leases.guard(connection, held))


async def test_slots_are_shared_out_and_passed_on(members):
    """H15, H17, P7: a second member gets its half when the first has given it up; leaving hands all over at once."""
    (first, _), (second, _) = members.make(), members.make()
    held = await join(first)
    assert len(held) == 16
    assert await join(second) == {}
    census = await first.renew()
    surplus = first.surplus(held, census.live)
    assert len(surplus) == 8
    assert not set(surplus) & (await second.acquire(2)).keys()
    await first.release(surplus)
    theirs = await second.acquire(2)
    assert theirs.keys() == set(surplus)
    assert all(theirs[slot] == held[slot] + 1 for slot in surplus)
    assert await guarded(first, held) == held.keys() - set(surplus)
    assert await guarded(second, theirs) == set(surplus)
    await first.leave()
    assert len(await second.acquire((await second.renew()).live)) == 16
    assert await guarded(first, held) == set()


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(days=400)])
async def test_only_a_lease_that_ran_out_is_taken_over(members, ahead):
    """H18, H19: a silent member loses its slots when its lease has ended by the database's clock, and not before."""
    (old, _), (new, clock) = members.make(), members.make()
    held = await join(old)
    clock.offset += TTL * 0.9
    assert await join(new) == {}
    clock.offset += ahead
    taken = await join(new)
    assert taken == {slot: epoch + 1 for slot, epoch in held.items()}
    assert await guarded(old, held) == set()
    assert await guarded(old, taken) == set()


async def test_who_renewed_too_late_must_join_again(members):
    """H18: after its lease has ended a member is told so, also when nobody has taken over yet."""
    leases, clock = members.make()
    await join(leases)
    clock.offset += TTL * 1.1
    assert not leases.is_safe
    with pytest.raises(LeaseLost):
        await leases.renew()
    held = await join(leases)
    assert len(held) == 16
    assert await guarded(leases, held) == set(held)


async def test_own_time_counts_from_before_the_request(members):
    """H19: a request that takes long does not lengthen the lease that the process counts on."""
    leases, clock = members.make()
    await join(leases)
    inner = leases.database.transact

    async def slow(work, **given):
        found = await inner(work, **given)
        clock.offset += TTL * 0.95
        return found

    leases.database.transact = slow
    await leases.renew()
    assert not leases.is_safe


async def test_renewing_and_counting_is_one_statement(members):
    """H285: a renewal tells who is there, what is free and what is ours: nothing more is asked while all is well."""
    (leases, _), (other, _) = members.make(), members.make()
    held = await join(leases)
    statements = []
    engine = sync_side(leases.database.home.base)
    sa.event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    census = await leases.renew()
    assert len([text for text in statements if not text.startswith("BEGIN")]) == 1, statements
    assert census == Census(live=1, stale=0, free=0, owned=16, forgettable=0)
    assert leases.is_settled(held, census)
    await other.join()
    census = await leases.renew()
    assert census.live == 2
    assert leases.is_settled(held, census), "above its share it has nothing to take"


async def test_what_there_is_to_take_or_to_forget_is_seen_at_the_renewal(members):
    """H15, H285: free slots below the share, slots of the dead, slots that are gone from us, rows of the long dead."""
    (dead, _), (leases, clock) = members.make(), members.make()
    await join(dead)
    census = await leases.join()
    assert (census.live, census.free) == (2, 0)
    assert leases.is_settled({}, census)
    clock.offset += TTL * 1.5
    census = await leases.join()
    assert (census.live, census.stale, census.free) == (1, 1, 16), "who died owns nothing any more"
    assert not leases.is_settled({}, census)
    held = await leases.acquire(census.live)
    assert leases.is_settled(held, await leases.renew())
    await leases.database.transact(
        lambda c: c.execute(sa.update(lease_table).where(lease_table.c.slot == 3).values(owner=None))
    )
    assert not leases.is_settled(held, await leases.renew()), "one is gone from us"
    held = await leases.acquire(1)
    assert len(held) == 16
    clock.offset += timedelta(minutes=11)
    census = await leases.join()
    assert census.forgettable == 1
    assert not leases.is_settled(await leases.owned(), census)
    assert leases.is_settled(await leases.acquire(1), await leases.renew())


async def test_who_is_alive_can_be_asked_inside_another_statement(members):
    """H15: for `owner NOT IN (...)` on any table; of this scope, by the database's clock."""
    (old, _), (new, clock) = members.make(), members.make()
    await old.join()
    await new.join()
    strangers = Leases(new.database, "another scope", slots=0, ttl=TTL)
    await strangers.join()

    async def dead():
        query = sa.select(member_table.c.owner).where(
            member_table.c.scope == "scope", member_table.c.owner.not_in(new.alive())
        )
        return await new.database.read(lambda c: c.execute(query).scalars().all())

    assert await dead() == []
    clock.offset += TTL * 1.5
    await new.join()
    assert await dead() == [old.owner]


async def test_leaving_twice_or_late_takes_nothing_from_others(members):
    """P7: a member that leaves after it was replaced frees only what is still its own."""
    (old, _), (new, clock) = members.make(), members.make()
    await join(old)
    clock.offset += TTL * 2
    taken = await join(new)
    await old.leave()
    await old.leave()
    assert await new.owned() == taken


@pytest.mark.parametrize("seed", range(6))
async def test_random_lives(members, seed):
    """H15, H18, H19, I11: members with clocks up to some minutes apart join, renew, give up, die and come back."""
    dice = Random(seed)
    made = [members.make(slots=8) for _ in range(4)]
    held: dict[int, dict[int, int]] = {}
    epochs = dict.fromkeys(range(8), 0)
    for _ in range(60):
        number = dice.randrange(4)
        leases, clock = made[number]
        try:
            match dice.choice(["join", "tend", "tend", "tend", "leave", "time", "write", "write"]):
                case "join":
                    held[number] = await join(leases)
                case "tend" if number in held:
                    census = await leases.renew()
                    surplus = leases.surplus(held[number], census.live)
                    await leases.release(surplus)
                    held[number] = await leases.acquire(census.live)
                case "leave":
                    await leases.leave()
                    held.pop(number, None)
                case "time":
                    clock.offset += timedelta(seconds=dice.choice([5, 20, 40]))
                case "write" if number in held:
                    mine = await guarded(leases, held[number])
                    owned = await leases.owned()
                    assert all(owned[slot] == held[number][slot] for slot in mine)
        except LeaseLost:
            held.pop(number, None)
        found = await leases.database.read(lambda c: c.execute(sa.select(lease_table)).all())
        for row in found:
            assert row.epoch >= epochs[row.slot], "an epoch never falls"
            epochs[row.slot] = row.epoch
    writers = [await guarded(leases, held.get(number, {})) for number, (leases, _) in enumerate(made)]
    assert sum(map(len, writers)) == len(set().union(*writers)), "no slot has two owners who may write"


async def test_members_that_start_together(members):
    """H15: concurrent first joins make the slots once, and no slot has two owners."""
    made = [members.make()[0] for _ in range(4)]
    held = await asyncio.gather(*(join(leases) for leases in made))
    assert sum(map(len, held)) == len(set().union(*held)) <= 16
    found = await made[0].database.read(lambda c: c.execute(sa.select(lease_table.c.slot)).scalars().all())
    assert sorted(found) == list(range(16))


async def test_the_long_dead_are_forgotten(members):
    """I16: rows of members that died are removed after ten minutes; the living stay."""
    (old, _), (new, clock) = members.make(), members.make()
    await join(old)
    clock.offset += timedelta(minutes=20)
    await join(new)
    found = await new.database.read(lambda c: c.execute(sa.select(member_table.c.owner)).scalars().all())
    assert found == [new.owner]


async def test_a_lease_is_renewed_while_the_librarys_own_work_waits(database):
    """P7, H101: leases have a connection that nothing else takes, so that work which hangs at a lock costs none."""
    locked = sa.text("SELECT pg_advisory_xact_lock(1)")
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    async with open_database(database.url("asyncpg")) as store:
        leases = Leases(store, "scope", slots=4, ttl=TTL)
        await join(leases)
        async with store.engine.begin() as holder, store.engine.connect() as watcher:
            await holder.execute(locked)
            stuck = [asyncio.create_task(store.transact(lambda c: c.execute(locked))) for _ in range(5)]
            async with asyncio.timeout(120):
                while await watcher.scalar(waiting) < 2:  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(0.005)
                assert (await leases.renew()).live == 1
            assert not any(task.done() for task in stuck)
        await asyncio.gather(*stuck)


async def test_one_that_is_stopped_in_the_middle_keeps_nobody_out(database):
    """P7, H18: what a process had locked when it was stopped is free after the length of a lease."""
    async with open_database(database.url("asyncpg")) as store:
        short = timedelta(seconds=1)
        stopped, other = (Leases(store, "scope", slots=4, ttl=short) for _ in range(2))
        held = await join(stopped)
        async with store.engine.connect() as connection:
            await connection.run_sync(stopped.guard, held)  # and here it stops
            await other.join()
            async with asyncio.timeout(120):
                while not await other.acquire(1):
                    await store.clock.wait(asyncio.Event(), short / 10)
            await connection.invalidate()
