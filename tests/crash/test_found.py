"""What the explorer found, each as small as it can be."""

import asyncio
import sqlite3
from datetime import timedelta

import pytest

from txpatterns.database.engines import make_engine
from txpatterns.outbox.backlog import Backlog
from txpatterns.runtime.supervisor import Supervisor


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
    assert backlog.next_pass_from() is not None
    backlog.begin_pass(1)
    assert backlog.next_pass_from() is None


async def test_a_supervisor_that_is_cancelled_while_it_stops_leaves_no_part_behind():
    """H142, I14: a second interrupt during the stop left the relay running behind its caller's back."""
    supervisor = Supervisor()
    started = asyncio.Event()

    async def part() -> None:
        started.set()
        await asyncio.Event().wait()

    supervisor.start("part", part, stop=started.set)
    await started.wait()
    stopping = asyncio.ensure_future(supervisor.stop(timedelta(minutes=1)))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert asyncio.all_tasks() == {asyncio.current_task()}
