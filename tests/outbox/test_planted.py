"""The suite itself is tested: each planted bug turns the test that guards against it red."""

import inspect
from contextlib import AsyncExitStack

import pytest
from sqlalchemy.exc import SQLAlchemyError

from coordination.test_leases import Members
from database.test_deferred import opened
from outbox import planted, test_relay
from outbox.support import OffsetClock, open_database
from txpatterns.errors import TxPatternsError
from txpatterns.outbox import Outbox

RED = (AssertionError, pytest.fail.Exception, TimeoutError, SQLAlchemyError, TxPatternsError, ExceptionGroup)


@pytest.mark.parametrize("bug", planted.BUGS, ids=lambda bug: bug.plant.__name__)
async def test_planted_bugs(bug, request, tmp_path, monkeypatch):
    """P1, P3, P7: a guard taken out is noticed by the test that names it."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'planted.db'}"
    if bug.driver != "sqlite":
        url = request.getfixturevalue("database").url(bug.driver)
    wanted = inspect.signature(bug.shows).parameters
    async with AsyncExitStack() as stack:
        given = dict(bug.given)
        clock = OffsetClock()
        if {"store", "outbox"} & wanted.keys():
            given["store"] = await stack.enter_async_context(open_database(url, clock=clock))
            given["outbox"] = Outbox(given["store"])
        if "members" in wanted:
            await stack.enter_async_context(open_database(url))
            given["members"] = members = Members(url)
            stack.push_async_callback(_close, members)
        if "world" in wanted:
            given["world"] = world = await opened(url)
            stack.push_async_callback(world.close)
        makers = {
            "clock": lambda: clock,
            "any_database": lambda: url,
            "tmp_path": lambda: tmp_path,
            "sync_database": lambda: f"sqlite:///{tmp_path / 'plain.db'}",
            "monkeypatch": lambda: monkeypatch,
            "database": lambda: request.getfixturevalue("database"),
        }
        given |= {name: make() for name, make in makers.items() if name in wanted and name not in given}
        bug.plant(monkeypatch)
        monkeypatch.setattr(test_relay, "PATIENCE", 8)  # what a bug keeps away does not come in thirty seconds either
        with pytest.raises(RED):
            await _run(bug.shows, {name: given[name] for name in wanted if name in given})
        monkeypatch.undo()


async def _close(members):
    for database in members.databases:
        await database.close()


async def _run(test, given):
    found = test(**given)
    if inspect.isawaitable(found):
        await found
