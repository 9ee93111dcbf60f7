"""Two transactions at the inbox, in every order of their steps."""

from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from inbox.interleaving import opened, orders, quiet
from inbox.support import Noted, effects, note
from txpatterns.database.dialects import is_repeatable
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.inbox import State, inbox_table, inbox_waiting_table
from txpatterns.inbox.attempts import Attempts
from txpatterns.inbox.entries import WaitingEntry, entry_of
from txpatterns.inbox.lane_store import First, LaneStore
from txpatterns.inbox.standing import Standing

LEVELS = ["READ COMMITTED", "REPEATABLE READ"]
LATER = timedelta(hours=1)


async def wiped(world):
    for table in (effects, inbox_table, inbox_waiting_table, dead_letter_table):
        await world.database.transact(lambda connection, t=table: connection.execute(sa.delete(t)))


class Handling:
    """A consumer's transaction: claim, effect if it was the first, end."""

    def __init__(self, world, session, ending):
        self.world, self.session, self.ending = world, session, ending
        self.first = None
        self.gave_up = False

    async def claim(self):
        orm = AsyncSession(self.session.connection)
        try:
            self.first = await self.world.inbox_api.aclaim(orm, "app.noted", "message-1")
        except DBAPIError as error:
            if not is_repeatable(error):
                raise
            self.gave_up = True
            await self.session.connection.rollback()

    async def effect(self):
        if self.first and not self.gave_up:
            await self.session.connection.execute(note("a", 1))

    async def end(self):
        await (self.session.connection.commit() if self.ending == "commit" else self.session.connection.rollback())

    async def once_more(self):
        """A transaction that the database gave up runs again, as the consumer does."""
        if self.gave_up:
            self.gave_up = False
            for step in (self.claim, self.effect, self.end):
                await step()


@pytest.mark.parametrize("level", LEVELS)
async def test_two_consumers_in_every_order_have_one_effect(postgres_world, level):
    """Invariant: P2, H43, H44: one effect if any of the two commits, none if none does; no copy is taken for a
    duplicate of a transaction that aborts. All 20 orders of claim, effect and end, with all four endings."""
    world = postgres_world
    world.inbox_api = world.consumer().inbox
    engine = world.database.engine
    blocked = 0
    async with engine.connect() as watcher, opened(engine, level, level) as sessions:
        await watcher.execution_options(isolation_level="AUTOCOMMIT")
        for endings in [(a, b) for a in ("commit", "abort") for b in ("commit", "abort")]:
            for order in orders(3, 3):
                await wiped(world)
                parties = [Handling(world, s, e) for s, e in zip(sessions, endings, strict=True)]
                steps = [iter((p.claim, p.effect, p.end)) for p in parties]
                for turn in order:
                    sessions[turn].ask(next(steps[turn]))
                    await quiet(sessions, watcher)
                    blocked += any(session.busy for session in sessions)
                assert not any(session.busy for session in sessions)
                for party in parties:
                    await party.once_more()
                expected = [("a", 1)] if "commit" in endings else []
                assert await world.effects() == expected, (order, endings)
                assert len(await world.inbox()) == len(expected)
    assert blocked > 0


@pytest.mark.parametrize("followers", [0, 1, 2])
@pytest.mark.parametrize("ending", ["commit", "abort"])
@pytest.mark.parametrize("level", LEVELS)
async def test_no_follower_is_left_without_a_head(postgres_world, level, ending, followers):
    """Invariant: P3, P7: a message that is appended while the first of its key is taken out is made due by one of
    the two, in every order of their steps; otherwise it would wait for ever."""
    world = postgres_world
    store = LaneStore(world.database)
    attempts = Attempts(world.database, store)
    engine = world.database.engine
    async with engine.connect() as watcher, opened(engine, level, LEVELS[0]) as both:
        retrying, appending = both
        await watcher.execution_options(isolation_level="AUTOCOMMIT")
        for order in orders(3, 2):
            await wiped(world)
            entries = [
                entry_of("app.noted", world.message(Noted(book="a", number=n), f"m-{n}")) for n in range(followers + 2)
            ]
            row = await stored_lane(world, store, entries[:-1])
            came = {}

            async def begin(row=row, entries=entries, came=came):
                waiting = WaitingEntry(row, entries[0], 1, State.RETRYING)
                try:
                    came["begun"] = await retrying.connection.run_sync(
                        partial(attempts.begin, waiting=waiting, limit=None)
                    )
                except DBAPIError as error:
                    if not is_repeatable(error):
                        raise
                    await retrying.connection.rollback()

            async def snapshot():
                await retrying.connection.exec_driver_sql("SELECT count(*) FROM txp_inbox_waiting")

            async def end():
                await (retrying.connection.commit() if ending == "commit" else retrying.connection.rollback())

            async def append(entries=entries, came=came):
                came["admitted"], _ = await appending.connection.run_sync(
                    partial(store.admit, entry=entries[-1], first=None)
                )

            steps = [iter((snapshot, begin, end)), iter((append, appending.connection.commit))]
            for turn in order:
                both[turn].ask(next(steps[turn]))
                await quiet(both, watcher)
                assert not appending.busy, "appending waits for no handler"
            assert not any(session.busy for session in both)
            assert await world.stranded() == [], (order, came)
            kept = {row.message_id for row in await world.waiting()}
            assert (entries[-1].message.id in kept) == (came["admitted"] is Standing.BEHIND), (order, came)


async def stored_lane(world, store, entries):
    """Store a head and its followers; gives the head's row id."""
    first = First(State.RETRYING, 1, LATER)
    _, row = await world.database.transact(partial(store.admit, entry=entries[0], first=first))
    for entry in entries[1:]:
        standing, _ = await world.database.transact(partial(store.admit, entry=entry, first=None))
        assert standing is Standing.BEHIND
    return row


class Failed:
    """What a consumer writes of a message whose first attempt has failed: a dead letter, or when it is tried again."""

    def __init__(self, world, session, entry, way):
        lanes = LaneStore(world.database)
        ways = {
            "bury": partial(lanes.bury_first, entry=entry, reason="rejected", error="no", park=False),
            "store": partial(lanes.admit, entry=entry, first=First(State.RETRYING, 1, LATER)),
        }
        self.write, self.session = ways[way], session

    async def decide(self):
        await self.session.connection.run_sync(self.write)

    async def end(self):
        await self.session.connection.commit()


@pytest.mark.parametrize("ways", [("bury", "bury"), ("bury", "store"), ("store", "bury")], ids="-".join)
async def test_two_processes_in_which_a_message_fails_keep_it_once(postgres_world, ways):
    """Invariant: P2, H43, I9: a process that was paused goes on with a delivery that another has been given as well.
    The message waits, or is a dead letter, and only one of it. All six orders of deciding and ending."""
    world = postgres_world
    entry = entry_of("app.noted", world.message(Noted(book="a", number=1)))
    engine = world.database.engine
    async with engine.connect() as watcher, opened(engine, LEVELS[0], LEVELS[0]) as sessions:
        await watcher.execution_options(isolation_level="AUTOCOMMIT")
        for order in orders(2, 2):
            await wiped(world)
            parties = [Failed(world, session, entry, way) for session, way in zip(sessions, ways, strict=True)]
            steps = [iter((party.decide, party.end)) for party in parties]
            for turn in order:
                sessions[turn].ask(next(steps[turn]))
                await quiet(sessions, watcher)
            kept = [len(await world.rows(table)) for table in (inbox_waiting_table, dead_letter_table)]
            assert sum(kept) == 1, (order, kept)
