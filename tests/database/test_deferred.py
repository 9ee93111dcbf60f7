"""Several kinds of entries in one commit, with each driver: all of them or none, in one order."""

from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from database.kinds import EARLY, LATE, NOTES, Notes, metadata, note_table
from outbox.support import ORDERS, ROWS, Order, Placed, prepare_tables, rows
from txpatterns.database import Database, deferred
from txpatterns.database.deferred.units import commit_of
from txpatterns.database.engines import dispose
from txpatterns.errors import NotTransactional, WrongDatabase
from txpatterns.outbox import Outbox

_DRIVERS = ("sqlite", "sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg_async")


@pytest.fixture(
    params=[pytest.param(one, marks=[pytest.mark.server] if "postgresql" in one else []) for one in _DRIVERS]
)
def any_database(request, tmp_path):
    """The URL of an empty database, for a plain engine or an asynchronous one: with each driver."""
    dialect, _, driver = request.param.partition("+")
    if dialect == "sqlite":
        return f"{request.param}:///{tmp_path / 'test.db'}"
    return request.getfixturevalue("database").url(driver)


@dataclass
class World:
    """A database with our tables, the notes' and the orders'; work on it is plain, whatever the driver."""

    database: Database
    outbox: Outbox
    early: Notes
    late: Notes

    async def in_session(self, work, **options):
        if isinstance(self.database.engine, AsyncEngine):
            async with AsyncSession(self.database.engine, **options) as session:
                return await session.run_sync(work)
        with Session(self.database.engine, **options) as session:
            return work(session)

    async def on_connection(self, work):
        if isinstance(self.database.engine, AsyncEngine):
            async with self.database.engine.connect() as connection:
                return await connection.run_sync(work)
        with self.database.engine.connect() as connection:
            return work(connection)

    async def close(self):
        await self.database.close()
        await dispose(self.database.engine)

    async def notes(self):
        return [row.id for row in await rows(self.database, NOTES)]

    async def messages(self):
        return [row.key for row in await rows(self.database, ROWS)]

    async def orders(self):
        return sorted(row.id for row in await rows(self.database, ORDERS))


async def opened(url):
    # "postgresql+psycopg" is both, so it is said which one is meant.
    database = Database(sa.create_engine(url) if url.startswith("postgresql+psycopg:") else url)

    def tables(connection):
        prepare_tables(connection)
        metadata.create_all(connection)

    await database.transact(tables)
    return World(database, Outbox(database), Notes(database, EARLY, is_sorted=True), Notes(database, LATE))


@pytest.fixture
async def world(any_database):
    made = await opened(any_database)
    yield made
    await made.close()


OWNERS = pytest.mark.parametrize("owner", ["session", "connection", "joined"])


async def run(world, owner, work):
    """Let ``work`` add to a session, to a connection, or to a session on a connection, and commit."""

    def on_connection(connection):
        with connection.begin():
            work(connection)

    def joined(connection):
        with connection.begin(), Session(connection) as session:
            work(session)
            session.commit()

    def in_session(session):
        with session.begin():
            work(session)

    if owner == "session":
        await world.in_session(in_session)
    else:
        await world.on_connection(joined if owner == "joined" else on_connection)


@OWNERS
async def test_kinds_are_written_in_one_order(world, owner):
    """P1, H280: in whichever order they were added, each kind is written in its turn, sorted, and the messages last."""

    def work(transaction):
        world.outbox.add(transaction, Placed(order_id="2"))
        for id_ in ("z", "y"):
            world.late.add(transaction, id_)
        for id_ in ("b", "c", "a"):
            world.early.add(transaction, id_)
        world.outbox.add(transaction, Placed(order_id="1"))

    await run(world, owner, work)
    found = await rows(world.database, NOTES)
    assert [row.id for row in found] == ["a", "b", "c", "z", "y"]
    assert [row.messages for row in found] == [0] * 5, "no position is drawn before the last row lock"
    assert await world.messages() == ["2", "1"]
    assert (world.early.told, world.late.told) == (1, 1)


async def test_sessions_on_one_connection_keep_the_order_together(world):
    """P1, H280: one commit writes what a connection and the open sessions on it have, in one order for all."""

    def work(connection):
        with connection.begin():
            sessions = [Session(connection), Session(connection)]
            world.outbox.add(connection, Placed(order_id="1"))
            world.late.add(sessions[0], "late")
            world.outbox.add(sessions[0], Placed(order_id="2"))
            world.early.add(sessions[1], "early")
        for session in sessions:
            session.close()

    await world.on_connection(work)
    found = await rows(world.database, NOTES)
    assert [(row.id, row.messages) for row in found] == [("early", 0), ("late", 0)]
    assert await world.messages() == ["1", "2"]


@OWNERS
async def test_savepoints_hold_for_every_kind(world, owner):
    """P1, H2: what was added in a savepoint that is rolled back is not written, of whatever kind."""

    def work(transaction):
        for name, end in (("kept", "commit"), ("dropped", "rollback")):
            savepoint = transaction.begin_nested()
            world.early.add(transaction, name)
            world.outbox.add(transaction, Placed(order_id=name))
            getattr(savepoint, end)()

    await run(world, owner, work)
    assert (await world.notes(), await world.messages()) == (["kept"], ["kept"])


async def test_an_id_belongs_to_its_kind(world):
    """P1: two kinds may have the same id, and taking one back leaves the other; a rolled back savepoint undoes it."""

    def work(session):
        connection = session.connection()
        for notes in (world.early, world.late):
            notes.add(session, f"of {notes.writer.kind}")
            notes.add(session, f"again {notes.writer.kind}")
        deferred.add(session, deferred.Entry(world.late.writer, f"of {EARLY}", "same id"))
        assert world.early.cancel(connection, f"of {EARLY}")
        assert not world.early.cancel(connection, f"of {EARLY}")
        assert not world.outbox.cancel(session, f"again {EARLY}")
        with session.begin_nested() as savepoint:
            assert world.early.cancel(connection, f"again {EARLY}")
            assert deferred.pending(session, EARLY) == []
            savepoint.rollback()
        assert deferred.pending(session, EARLY) == [f"again {EARLY}"]
        session.commit()

    await world.in_session(work)
    assert await world.notes() == [f"again {EARLY}", f"of {LATE}", f"again {LATE}", "same id"]


async def test_a_cancellation_ends_with_its_transaction(world):
    """P1: an id that was taken back can be used again in the connection's next transaction."""

    def work(connection):
        for is_cancelled in (True, False):
            with connection.begin():
                world.late.add(connection, "twice")
                world.early.add(connection, f"{is_cancelled}")
                assert not is_cancelled or world.late.cancel(connection, "twice")

    await world.on_connection(work)
    assert await world.notes() == ["True", "False", "twice"]


def _raise(_connection):
    raise RuntimeError("no")


def _violate(connection):
    connection.execute(sa.insert(note_table).values(id="a", by="a repeat"))


@OWNERS
@pytest.mark.parametrize(("failing", "error"), [(_raise, RuntimeError), (_violate, IntegrityError)])
async def test_a_kind_that_cannot_be_written_undoes_all(world, owner, failing, error):
    """P1, H280: the business row, the kinds before and the messages behind: nothing of them is committed."""
    world.late.meanwhile = failing

    def work(transaction):
        transaction.execute(sa.insert(Order).values(id="o", n=0))
        world.outbox.add(transaction, Placed(order_id="m"))
        world.late.add(transaction, "z")
        world.early.add(transaction, "a")

    with pytest.raises(error):
        await run(world, owner, work)
    assert (await world.orders(), await world.notes(), await world.messages()) == ([], [], [])
    assert (world.early.told, world.late.told) == (0, 0)
    world.late.meanwhile = lambda connection: None
    await run(world, owner, work)
    assert (await world.orders(), await world.notes(), await world.messages()) == (["o"], ["a", "z"], ["m"])


@pytest.mark.parametrize("goes_on", ["commits again", "leaves the session", "outer commit alone"])
async def test_who_goes_on_after_a_refused_write_cannot_commit_without_it(world, goes_on):
    """P1, H281: a session on somebody's connection was refused its messages; its business rows do not stay either."""
    world.late.meanwhile = _raise

    def work(connection):
        with connection.begin():
            session = Session(connection)
            session.execute(sa.insert(Order).values(id="o", n=0))
            world.late.add(session, "z")
            world.early.add(session, "a")
            with pytest.raises(RuntimeError):
                session.commit()
            world.late.meanwhile = lambda connection: None
            if goes_on == "commits again":
                with pytest.raises(NotTransactional, match="has failed"):
                    session.commit()
            if goes_on != "outer commit alone":
                session.close()

    with pytest.raises(NotTransactional, match="has failed"):
        await world.on_connection(work)
    assert (await world.orders(), await world.notes()) == ([], [])


@OWNERS
async def test_a_kind_of_another_database_is_refused(world, owner, tmp_path):
    """P1, H3: which database it is, is checked for each kind, and the kinds that are at home do not stay either."""
    elsewhere = await opened(f"sqlite+aiosqlite:///{tmp_path / 'elsewhere.db'}")
    try:

        def work(transaction):
            world.early.add(transaction, "here")
            elsewhere.late.add(transaction, "there")

        with pytest.raises(WrongDatabase):
            await run(world, owner, work)
    finally:
        await elsewhere.close()
    assert await world.notes() == []


@OWNERS
async def test_a_kind_may_add_what_is_written_after_it(world, owner):
    """P1, H280: what a kind adds to the connection while it is written goes along, if its turn is still to come."""

    def send(connection):
        world.outbox.add(connection, Placed(order_id="sent by a note"))
        world.late.add(connection, "noted by a note")

    world.early.meanwhile = send
    await run(world, owner, lambda transaction: world.early.add(transaction, "a"))
    assert (await world.notes(), await world.messages()) == (["a", "noted by a note"], ["sent by a note"])


@OWNERS
async def test_whose_turn_is_over_is_refused(world, owner):
    """P1, H280: what would have to be written before is not written too late, nor forgotten: the commit is refused."""
    world.late.meanwhile = lambda connection: world.early.add(connection, "too late")
    with pytest.raises(NotTransactional, match="while the commit writes"):
        await run(world, owner, lambda transaction: world.late.add(transaction, "z"))
    assert await world.notes() == []


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_the_outer_commit_tells(world, end):
    """H10: of a session on somebody's connection the writers hear when that commits, and not before."""

    def work(connection):
        transaction = connection.begin()
        with Session(connection) as session:
            world.early.add(session, "a")
            session.commit()
        assert world.early.told == 0
        getattr(transaction, end)()

    await world.on_connection(work)
    assert world.early.told == (1 if end == "commit" else 0)
    assert await world.notes() == (["a"] if end == "commit" else [])


@pytest.mark.parametrize("way", ["closed", "committed"])
async def test_what_a_joined_session_took_back_stays_back(world, way):
    """P1: a session leaves its entries to the connection that it was on, and not those that it had taken back."""

    def work(connection):
        with connection.begin():
            with Session(connection, join_transaction_mode="rollback_only") as session:
                world.early.add(session, "kept")
                world.early.add(session, "taken back")
                session.connection()
                assert world.early.cancel(connection, "taken back")
                if way == "committed":
                    session.commit()
            assert way == "committed" or deferred.pending(connection, EARLY) == ["kept"]

    await world.on_connection(work)
    assert await world.notes() == ["kept"]


async def test_a_session_that_has_only_added_is_let_go(world):
    """Invariant: a connection that lives long does not keep the sessions on it, not even one that never used it."""

    def work(connection):
        with connection.begin():
            with Session(connection) as session:
                world.early.add(session, "a")
            assert [unit for unit in commit_of(connection).units if unit.session is not None] == []

    await world.on_connection(work)
    assert await world.notes() == ["a"]


async def test_savepoints_by_hand_on_a_sessions_connection(world):
    """P1, H2: a savepoint that is made on the session's connection undoes what the session added in it, too."""

    def work(session):
        session.begin()
        for name, end in (("kept", "commit"), ("dropped", "rollback")):
            savepoint = session.connection().begin_nested()
            session.execute(sa.insert(Order).values(id=name, n=0))
            world.outbox.add(session, Placed(order_id=name))
            getattr(savepoint, end)()
        session.commit()

    await world.in_session(work)
    assert (await world.orders(), await world.messages()) == (["kept"], ["kept"])


async def test_outer_savepoint_rolled_back_under_an_open_session(world):
    """P1, H2: whoever lent the connection rolls back to before the session's work: its messages go with its rows."""

    def work(connection):
        with connection.begin():
            savepoint = connection.begin_nested()
            # In the other modes SQLAlchemy itself refuses to go on.
            session = Session(connection, join_transaction_mode="rollback_only")
            session.execute(sa.insert(Order).values(id="o", n=0))
            world.outbox.add(session, Placed(order_id="o"))
            savepoint.rollback()
            session.commit()
            session.close()

    await world.on_connection(work)
    assert (await world.orders(), await world.messages()) == ([], [])


# The other drivers have no two-phase transactions.
TWO_PHASE = pytest.mark.parametrize(
    "any_database", [pytest.param("postgresql+psycopg", marks=pytest.mark.server)], indirect=True
)


@TWO_PHASE
@pytest.mark.parametrize("is_prepared", [True, False])
async def test_two_phase_rolled_back(world, is_prepared):
    """P1, H2, H306: what a two-phase transaction had is gone with it, and not sent by the connection's next one."""

    def work(connection):
        transaction = connection.begin_twophase()
        world.early.add(connection, "a")
        world.outbox.add(connection, Placed(order_id="rolled back"))
        if is_prepared:
            transaction.prepare()
        transaction.rollback()
        with connection.begin():
            connection.execute(sa.insert(Order).values(id="later", n=0))

    await world.on_connection(work)
    assert (await world.orders(), await world.notes(), await world.messages()) == (["later"], [], [])
    assert world.early.told == 0


@TWO_PHASE
@pytest.mark.parametrize("is_prepared", [True, False])
@OWNERS
async def test_two_phase_committed(world, owner, is_prepared):
    """P1, H280, H306: prepared or not, all kinds are written in their order, and the writers hear of the commit."""

    def add(transaction):
        world.outbox.add(transaction, Placed(order_id="m"))
        world.early.add(transaction, "a")

    def work(connection):
        transaction = connection.begin_twophase()
        if owner == "joined":
            with Session(connection) as session:
                add(session)
                session.commit()
        else:
            add(connection)
        if is_prepared:
            transaction.prepare()
            assert world.early.told == 0
        transaction.commit()

    def in_session(session):
        add(session)
        if is_prepared:
            session.prepare()
        session.commit()

    await (world.in_session(in_session, twophase=True) if owner == "session" else world.on_connection(work))
    found = await rows(world.database, NOTES)
    assert [(row.id, row.messages) for row in found] == [("a", 0)]
    assert await world.messages() == ["m"]
    assert world.early.told == 1
