"""Worker numbers in the database: taken, renewed, given back, on each database and driver."""

import asyncio
import copy
from datetime import timedelta

import pytest
import sqlalchemy as sa

from ids.support import START, HandClock, Machine, prepared, rows
from txpatterns import Database
from txpatterns.errors import ClockWrong, IdsUnavailable
from txpatterns.ids import SnowflakeGenerator, WorkerNumbers, explain
from txpatterns.ids.layout import millisecond_of
from txpatterns.ids.marks import LEASE, WINDOW
from txpatterns.ids.schema import worker_table
from txpatterns.ids.worker_store import RESERVED, DatabaseWorkers

NOW = millisecond_of(START)


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
    async with await prepared(f"sqlite+aiosqlite:///{tmp_path}/ids.db", clock) as database:
        yield database


async def test_the_clock_is_that_of_the_server(db, clock):
    """P6, H179: a number is neither taken nor renewed by a machine whose clock is another."""
    store = DatabaseWorkers(db)
    await store.take("me", [], "1")
    clock.at, clock.ahead = clock.at + timedelta(seconds=2), timedelta(seconds=2)
    for call in (store.take("you", [], "1"), store.renew(0, "me", ["1"], "2")):
        with pytest.raises(ClockWrong, match=r"2\.0 s off"):
            await call
    assert set(await rows(db)) == {0}


async def test_a_number_is_taken_renewed_and_given_back(db, clock):
    """P6, I29: with a new token each time; the mark rises with the database's clock, and stays."""
    store = DatabaseWorkers(db)
    grant = await store.take("me", [], "1")
    assert (grant.worker, grant.above, grant.mark) == (0, NOW - 1, NOW + 3000)
    clock.go(seconds=2)
    assert await store.renew(0, "me", ["1"], "2") == (NOW + 5000, NOW + 2000)
    row = (await rows(db))[0]
    assert (row.owner, row.token, row.mark, row.expires_at) == ("me", "2", NOW + 5000, clock.at + LEASE)
    await store.release("me", ["2"])
    assert (await rows(db))[0].expires_at == clock.at
    assert (await rows(db))[0].mark == NOW + 5000


@pytest.mark.parametrize(("owner", "tokens"), [("me", ["0"]), ("me", []), ("another", ["1"])])
async def test_who_lacks_the_token_can_neither_renew_nor_give_back(file, owner, tokens):
    """P6, H137, H179: a copy of a process has the owner's name, too."""
    store = DatabaseWorkers(file)
    await store.take("me", [], "1")
    assert await store.renew(0, owner, tokens, "2") is None
    await store.release(owner, tokens)
    assert await store.renew(0, "me", ["1"], "3") is not None


async def test_two_take_two_numbers(db):
    """P6, H137: at the same moment, too."""
    stores = [DatabaseWorkers(db).beside() for _ in range(6)]
    grants = await asyncio.gather(*(store.take(f"{n}", [], "t") for n, store in enumerate(stores)))
    assert sorted(grant.worker for grant in grants) == list(range(6))
    for store in stores:
        await store.close()


async def test_a_free_number_is_used_again_above_its_mark(db, clock):
    """P6, H136, I29: the one with the lowest mark, and only when its mark has passed."""
    store = DatabaseWorkers(db)
    first, second = await store.take("a", [], "1"), await store.take("b", [], "1")
    await store.release("b", ["1"])
    await store.release("a", ["1"])
    assert (await store.take("c", [], "1")).worker == 2  # the marks of 0 and 1 are ahead
    clock.go(seconds=4)
    assert await store.renew(2, "c", ["1"], "2")
    again = await store.take("d", [], "1")
    assert (again.worker, again.above) == (0, NOW + 3999)
    assert again.above >= first.mark
    clock.go(hours=-1)
    assert (await store.take("e", [], "1")).worker == 3
    assert second.worker == 1


async def test_the_number_of_the_dead_is_taken_after_its_lease(file, clock):
    """P6, H137: its holder may wake later: it finds another token, and makes no id above its own mark."""
    store = DatabaseWorkers(file)
    await store.take("a", [], "1")
    clock.go(seconds=14)
    assert (await store.take("b", [], "1")).worker == 1
    clock.go(seconds=1)
    assert (await store.take("c", [], "1")).worker == 0
    assert await store.renew(0, "a", ["1"], "2") is None


async def test_what_was_taken_without_an_answer_is_given_back(file):
    """H5, P6: the commit happened and the answer was lost; its number is free for others at once."""
    store = DatabaseWorkers(file)
    await store.take("me", [], "lost")
    assert (await store.take("me", ["lost"], "2")).worker == 1
    first = (await rows(file))[0]
    assert first.expires_at <= START


async def test_when_all_are_taken_there_is_none(file, clock):
    """P6, H305: and none is taken from its holder; the reserved one is never given."""
    held = {"owner": "x", "token": "x", "label": "", "mark": NOW + 60_000}
    many = [{"worker": n, "expires_at": clock.at + timedelta(hours=1), **held} for n in range(RESERVED)]
    await file.transact(lambda connection: connection.execute(sa.insert(worker_table), many))
    machine = Machine(file)
    await machine.tend()
    with pytest.raises(IdsUnavailable, match="All worker numbers are taken"):
        machine.ids.next_id()
    clock.go(hours=-24)
    free = sa.update(worker_table).where(worker_table.c.worker == 7).values(expires_at=clock.at)
    await file.execute(free)
    await machine.tend()
    assert explain(machine.ids.next_id()).worker == 7  # its mark is ahead of the clock, and there is no other
    assert explain(machine.ids.next_id()).millisecond == NOW + 60_001


async def test_a_generator_counts_up_to_its_mark(file, clock):
    """P6, H139, H141: with the clock frozen; 3,000 milliseconds of 4,096 ids, then none, and more after a renewal."""
    machine = Machine(file)
    await machine.tend()
    made = machine.ids.take(6_144_000) + machine.ids.take(6_144_000)
    assert made[0] == explain(made[0]).id
    assert explain(made[-1]).millisecond == NOW + 2999
    assert len(machine.ids.take(4096)) == 4096
    with pytest.raises(IdsUnavailable, match="used up"):
        machine.ids.next_id()
    with pytest.raises(IdsUnavailable, match="used up"):
        machine.ids.take(1)
    clock.go(milliseconds=1)
    await machine.tend()
    assert len(list(machine.made(10_000))) == 4096


async def test_more_than_is_left_takes_nothing(file):
    """P6: all or none."""
    machine = Machine(file)
    await machine.tend()
    machine.ids.take(6_144_000)
    machine.ids.take(6_144_000 - 1)
    with pytest.raises(IdsUnavailable):
        machine.ids.take(4098)
    assert len(machine.ids.take(4097)) == 4097


async def test_the_clock_goes_back(file, clock):
    """P6, H135: it counts on, and each id is greater than the one before."""
    machine = Machine(file)
    await machine.tend()
    made = []
    for back in (0, 3, 500, 60_000, 86_400_000):
        clock.at -= timedelta(milliseconds=back)
        made += list(machine.made(5000))
    assert len(made) == 25_000
    assert made == sorted(set(made))


@pytest.mark.parametrize("off", [timedelta(days=365), -timedelta(days=365), timedelta(seconds=2)])
async def test_a_wrong_clock_burns_nothing(file, clock, off):
    """P6, H179: neither at the take nor at a renewal; there are ids up to the mark, and again when it is right."""
    machine = Machine(file)
    await machine.tend()
    before = await rows(file)
    clock.at, clock.ahead = clock.at + off, off
    await machine.tend()
    assert await rows(file) == before
    for made in (machine.ids.next_id() for _ in range(10) if off < timedelta(0)):
        assert explain(made).millisecond <= NOW + 3000
    late = Machine(file)
    await late.tend()
    with pytest.raises(IdsUnavailable, match="s off that of the store"):
        late.ids.next_id()
    if off > WINDOW:
        with pytest.raises(IdsUnavailable, match="s off that of the store"):
            machine.ids.next_id()
    assert machine.numbers.attention()
    clock.at, clock.ahead = clock.at - off, timedelta(0)
    await machine.tend()
    assert not machine.numbers.attention()
    assert explain(machine.ids.next_id()).worker == 0


async def test_the_databases_clock_was_a_year_ahead(file, clock):
    """P6, H179: the number that is burnt by that is left for another one, and ids are of this year again."""
    machine = Machine(file)
    clock.go(days=365)
    await machine.tend()
    ahead = machine.ids.next_id()
    clock.go(days=-365)
    await machine.tend()
    now = machine.ids.next_id()
    assert (explain(ahead).worker, explain(now).worker) == (0, 1)
    assert explain(now).at == START
    clock.go(days=365)
    again = Machine(file)
    await again.tend()
    assert explain(again.ids.next_id()).id > ahead


async def test_a_suspended_machine_makes_no_id_above_its_mark(file, clock):
    """P6, H137, H179: it wakes after another has taken its number, and its own clocks have not moved."""
    sleeper, other = Machine(file), Machine(file)
    await sleeper.tend()
    frozen = sleeper.ids
    last = frozen.next_id()
    asleep = clock.at
    clock.go(seconds=20)
    await other.tend()
    theirs = {*other.ids.take(100_000)}
    now = clock.at
    clock.at = asleep
    mine = {*sleeper.made(100_000)}
    assert explain(last).worker == explain(min(theirs)).worker == 0
    assert mine
    assert not mine & theirs
    clock.at = now
    await sleeper.tend()
    assert explain(frozen.next_id()).worker == 1


async def test_of_two_clones_one_is_refused_at_its_next_renewal(file, clock):
    """P6, H179: the same memory, the same owner, the same token; from then on they have two numbers."""
    machine = Machine(file)
    await machine.tend()
    clone = Machine(file)
    (seat,), (copied,) = machine.numbers._seats, clone.numbers._seats
    copied.grant, copied._owner, copied._tokens = seat.grant, seat._owner, list(seat._tokens)
    clone.ids.granted(seat.grant)
    assert clone.ids.next_id() == machine.ids.next_id()  # told in the guarantees: until then they repeat
    clock.go(seconds=1)
    await clone.tend()
    await machine.tend()
    mine, theirs = machine.ids.take(50_000), clone.ids.take(50_000)
    assert {explain(each).worker for each in theirs} == {0}
    assert {explain(each).worker for each in mine} == {1}


async def test_a_generator_that_nobody_has_gives_its_number_back(file):
    """P6: the number is free at once."""
    numbers = WorkerNumbers(file)
    ids = [SnowflakeGenerator(numbers) for _ in range(2)]
    await numbers.upkeep.open()
    assert len(await rows(file)) == 2
    del ids[0]
    await numbers.upkeep.open()
    assert [row.expires_at > START for row in (await rows(file)).values()] == [False, True]
    assert copy.copy(ids)


async def test_a_mark_counts_for_its_own_number_only(file):
    """P6, H137, I29: neither for another one, nor after the number is lost."""
    machine = Machine(file)
    await machine.tend()
    machine.ids.extended(1, NOW + 1_000_000)
    machine.ids.take(6_144_000)
    machine.ids.take(6_144_000)
    with pytest.raises(IdsUnavailable):
        machine.ids.take(10_000)
    machine.ids.lost()
    machine.ids.extended(0, NOW + 1_000_000)
    with pytest.raises(IdsUnavailable):
        machine.ids.next_id()


async def test_an_id_never_falls_when_the_number_changes(file, clock):
    """P6: also to a lower number, within the same millisecond."""
    first, second = Machine(file), Machine(file)
    await first.tend()
    await second.tend()
    before = second.ids.next_id()
    await first.numbers.upkeep._leave(first.numbers.upkeep._store)
    second.ids.granted(type(second.numbers._seats[0].grant)(0, NOW - 1, NOW + 3000))
    assert second.ids.next_id() > before


async def test_the_mark_is_kept_by_whoever_looks_at_the_tables_of_an_older_release(tmp_path):
    """H100: without the tables, the error says how to make them."""
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/none.db") as database:
        machine = Machine(database)
        await machine.tend()
        with pytest.raises(IdsUnavailable, match="no such table"):
            machine.ids.next_id()
