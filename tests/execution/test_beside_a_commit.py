"""Code that runs for the first time on an engine while a commit of it is under way: neither breaks the other."""

import asyncio
from contextlib import nullcontext

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import await_only

from database.kinds import NOTES, Notes, metadata
from outbox.support import ORDERS, Order, open_database, rows
from txpatterns.errors import ConfigurationError, HandlerTimeout
from txpatterns.execution import Came, Execution, Origin, Run
from txpatterns.outbox import Outbox

ORIGIN = Origin("shop.packed", "order 1", "", misfit=ConfigurationError, over_limit=HandlerTimeout)


async def pack(session):
    session.add(Order(id="packed"))


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_what_begins_during_a_commit_disturbs_it_not(database, driver):
    """P1, P2, H440: what takes note of commits joins no commit that is being told of just then."""
    async with open_database(database.url(driver)) as ours:
        came = []

        async def run():
            code = Run(ORIGIN, pack, in_loop=True, opening=_looks, stands=_looks, around=nullcontext)
            came.append((await Execution(ours).run(code)).came)

        Outbox(ours)  # it listens to commits
        notes = Notes(ours, meanwhile=lambda _: await_only(asyncio.create_task(run())))
        async with ours.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        async with AsyncSession(ours.engine) as session, session.begin():
            session.add(Order(id="placed"))
            notes.add(session, "note")
        assert came == [Came.DONE]
        assert [row.id for row in await rows(ours, NOTES)] == ["note"]
        assert {row.id for row in await rows(ours, ORDERS)} == {"packed", "placed"}


def _looks(connection):
    return connection.execute(ORDERS) is not None
