"""What the explorer found, each as small as it can be."""

import asyncio
import sqlite3
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from crash.bank import Moved
from txpatterns import App, SyncTransaction, Transaction
from txpatterns.database.engines import make_engine
from txpatterns.database.setup import create_missing
from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.runtime.part import Part
from txpatterns.runtime.supervisor import Supervisor
from txpatterns.testing.explorer import State, attempts_at_most
from txpatterns.testing.explorer.wire import WireLog


def test_a_connection_that_is_closed_in_the_middle_of_reading_gives_its_lock_back(tmp_path):
    """H6, I14: cancelled during a SELECT in a write transaction; the next writer waited for half a minute."""
    engine = make_engine(f"sqlite:///{tmp_path / 'one.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1), (2), (3)")
    pooled = engine.raw_connection(), engine.raw_connection()
    first, second = (held.driver_connection for held in pooled)
    first.execute("BEGIN IMMEDIATE")
    unfinished = first.execute("SELECT x FROM t")
    assert unfinished.fetchone() == (1,)
    first.close()
    second.execute("PRAGMA busy_timeout = 0")
    second.execute("BEGIN IMMEDIATE")
    second.rollback()
    with pytest.raises(sqlite3.ProgrammingError):
        unfinished.fetchone()
    engine.dispose()


def test_a_pass_from_the_start_clears_a_lane_that_was_let_go_without_followers():
    """P7: nothing had come back into the outbox, and whoever waited for the relay to be done waited for ever."""
    backlog = Backlog(limit=10, lane_limit=10, ordered_prefix=False)
    backlog.freeze(("moves", "ka"))
    backlog.thaw(("moves", "ka"), 0, held=False)
    assert backlog.dropped
    backlog.begin_pass(1)
    assert not backlog.dropped


async def test_a_supervisor_that_is_cancelled_while_it_stops_leaves_no_part_behind():
    """H142, I14: a second interrupt during the stop left the relay running behind its caller's back."""
    supervisor = Supervisor()
    started = asyncio.Event()

    async def part() -> None:
        started.set()
        await asyncio.Event().wait()

    supervisor.start(Part("part", part, started.set))
    await started.wait()
    stopping = asyncio.ensure_future(supervisor.stop(timedelta(minutes=1)))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_a_handler_whose_commit_fails_gives_sqlites_write_lock_back(plain, tmp_path):
    """H6, I14: its connection went back to the pool with the transaction open, and nobody could write any more."""
    app = App("office", database=f"sqlite+aiosqlite:///{tmp_path / 'office.db'}", broker="memory://")
    nobody = sa.text("INSERT INTO room VALUES (7)")

    async def move_in(event: Moved, tx: Transaction) -> None:
        await tx.session.execute(nobody)

    def move_in_in_a_thread(event: Moved, tx: SyncTransaction) -> None:
        tx.session.execute(nobody)

    app.on(Moved)(move_in_in_a_thread if plain else move_in)
    await app.database.transact(create_missing)
    for table in ("house (id INTEGER PRIMARY KEY)", "room (house REFERENCES house DEFERRABLE INITIALLY DEFERRED)"):
        await app.database.execute(sa.text(f"CREATE TABLE {table}"))
    async with app.running():
        async with AsyncSession(app.database.engine) as session, session.begin():
            app.outbox.add(session, Moved(account="a", number=1))
        await app.drained()
        assert await app.database.execute(sa.text("INSERT INTO house VALUES (1)")) == 1
    await app.database.close()


def test_silence_counts_beside_what_the_same_process_gets_confirmed(tmp_path):
    """I10, H427: a relay that had nothing but a silent message sent it 159 times, while another's were confirmed."""
    engine = make_engine(f"sqlite:///{tmp_path / 'one.db'}")
    with engine.begin() as connection:
        create_missing(connection)
        log = WireLog(tmp_path / "wire.log")
        state, check = State(connection, log, []), attempts_at_most(3)
        for number in range(20):
            log.write("sent", id="silent", process=1)
            log.write("confirmed", id=f"{number}", process=2)
        check(state)
        for number in range(4):  # with the first three doubts and two further attempts
            log.write("confirmed", id=f"{number}", process=1)
            log.write("sent", id="silent", process=1)
        check(state)
        log.write("confirmed", id="4", process=1)
        log.write("sent", id="silent", process=1)
        with pytest.raises(AssertionError, match="I10: sent more often"):
            check(state)
    engine.dispose()
