"""What goes on with a session after its handler or request has ended is told, and not ignored."""

import asyncio
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.orm.exc import DetachedInstanceError

from inbox.support import Echoed, Noted, prepared, running
from txpatterns.database import Database
from txpatterns.errors import ConfigurationError, SessionOver
from txpatterns.inbox import SyncTransaction, Transaction


class Base(DeclarativeBase): ...


class Slip(Base):
    __tablename__ = "slip"
    id: Mapped[int] = mapped_column(primary_key=True)
    lines: Mapped[list["Line"]] = relationship()


class Line(Base):
    __tablename__ = "line"
    id: Mapped[int] = mapped_column(primary_key=True)
    slip_id: Mapped[int] = mapped_column(sa.ForeignKey("slip.id"))


async def with_slips(database):
    world = await prepared(database)
    await database.transact(Base.metadata.create_all)
    return world


async def slips(world):
    return await world.database.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(Slip)))


LATE = {
    "add": lambda world, tx: tx.session.add(Slip(id=2)),
    "delete": lambda world, tx: tx.session.delete(Slip(id=2)),
    "execute": lambda world, tx: tx.session.execute(sa.select(Slip)),
    "begin": lambda world, tx: tx.session.begin(),
    "commit": lambda world, tx: tx.session.commit(),
    "outbox": lambda world, tx: world.outbox.add(tx.session, Echoed(book="a", number=1)),
    "emit": lambda world, tx: tx.emit(Echoed(book="a", number=1)),
}


@pytest.mark.parametrize("how", LATE)
async def test_a_task_that_goes_on_with_the_session_of_its_handler_gets_an_error(any_database, how):
    """P1, P2, H202: it would be part of no transaction; and the connection is free again."""
    async with Database(any_database) as database:
        world = await with_slips(database)
        consumer, ended, late = world.consumer(), asyncio.Event(), []

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            async def audit():
                await ended.wait()
                found = LATE[how](world, tx)
                if hasattr(found, "__await__"):
                    await found

            tx.session.add(Slip(id=1))
            late.append(asyncio.create_task(audit()))

        world.put(Noted(book="a", number=1))
        async with running(consumer):
            await world.broker.all_acked()
            ended.set()
            (result,) = await asyncio.gather(*late, return_exceptions=True)
        assert isinstance(result, (InvalidRequestError, ConfigurationError)), result
        assert await slips(world) == 1


async def test_a_thread_that_goes_on_with_the_session_of_its_handler_gets_an_error(any_database):
    """P2, H202: the same for a `def` handler."""
    async with Database(any_database) as database:
        world = await with_slips(database)
        consumer, taken = world.consumer(), []

        @consumer.on(Noted)
        def noted(event: Noted, tx: SyncTransaction) -> None:
            tx.session.add(Slip(id=1))
            taken.append(tx.session)

        world.put(Noted(book="a", number=1))
        async with running(consumer):
            await world.broker.all_acked()
        with pytest.raises(InvalidRequestError, match="permanently closed"):
            await asyncio.to_thread(taken[0].add, Slip(id=2))
        assert await slips(world) == 1


async def test_what_is_added_while_the_transaction_is_committed_is_refused(any_database):
    """P2, H202: a task that adds during COMMIT comes too late for it, and too early for an error of SQLAlchemy's."""
    async with Database(any_database) as database:
        world = await with_slips(database)
        results = []
        async with database.session() as session:

            @sa.event.listens_for(database.engine.sync_engine, "commit")
            def meanwhile(_connection):
                with pytest.raises(SessionOver):
                    session.add(Slip(id=2))
                results.append("refused")

            session.add(Slip(id=1))
            await session.commit()
        assert results == ["refused"]
        assert await slips(world) == 1


async def test_a_listener_may_add_before_the_commit(any_database):
    """P2, H202: what comes in time is part of the transaction, whoever adds it."""
    async with Database(any_database) as database:
        world = await with_slips(database)
        async with database.session() as session:

            @sa.event.listens_for(session.sync_session, "before_commit")
            def audit(inner):
                inner.add(Slip(id=2))

            @sa.event.listens_for(session.sync_session, "before_flush")
            def audit_again(inner, _context, _instances):
                inner.add(Slip(id=3)) if not any(slip.id == 3 for slip in inner.new) else None

            session.add(Slip(id=1))
            await session.commit()
        assert await slips(world) == 3


async def test_objects_stay_readable_and_load_nothing_more(any_database):
    """P2, H202: what was loaded is there after the end; what would need a transaction that is over is an error."""
    async with Database(any_database) as database:
        await with_slips(database)
        async with database.session() as session, session.begin():
            session.add(Slip(id=1))
        async with database.session() as session, session.begin():
            slip = await session.get(Slip, 1)
        assert slip.id == 1
        with pytest.raises(DetachedInstanceError):
            slip.lines  # noqa: B018


def test_a_plain_session_is_over_when_it_is_closed(sync_database):
    """P2, H202: in any thread."""
    engine = sa.create_engine(sync_database)
    Base.metadata.create_all(engine)
    with Database(engine).sync_session() as session, session.begin():
        session.add(Slip(id=1))
    failures = []

    def late():
        try:
            session.add(Slip(id=2))
        except InvalidRequestError as error:
            failures.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    thread.join()
    assert len(failures) == 1
    engine.dispose()
