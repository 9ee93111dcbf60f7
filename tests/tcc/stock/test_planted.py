"""The tests of stock are tested: each planted bug turns the one that guards against it red."""

import inspect
from contextlib import AsyncExitStack

import pytest
from sqlalchemy.exc import SQLAlchemyError

from tcc.stock import planted
from tcc.stock.support import open_memory, open_redis, open_sql
from txpatterns.errors import TxPatternsError

RED = (AssertionError, pytest.fail.Exception, TimeoutError, SQLAlchemyError, TxPatternsError, ExceptionGroup)
OF_PYTEST = ("tmp_path", "clock", "redis_url", "start_redis", "database")


@pytest.mark.server
@pytest.mark.parametrize("bug", planted.BUGS, ids=lambda bug: bug.plant.__name__)
async def test_planted_bugs(bug, request, tmp_path, clock, monkeypatch):
    """P5: a guard taken out is noticed by the test that names it."""
    wanted = inspect.signature(bug.shows).parameters
    given = dict(bug.given) | {name: request.getfixturevalue(name) for name in OF_PYTEST if name in wanted}
    async with AsyncExitStack() as stack:
        if "stock" in wanted:
            url = f"sqlite+aiosqlite:///{tmp_path / 'planted.db'}"
            opening = {
                "memory": lambda: open_memory(clock),
                "sqlite": lambda: open_sql(url, clock),
                "redis": lambda: open_redis(request.getfixturevalue("redis_url"), url, clock),
            }
            given["stock"] = await stack.enter_async_context(opening[bug.on]())
        bug.plant(monkeypatch)
        with pytest.raises(RED):
            await bug.shows(**given)
        monkeypatch.undo()
