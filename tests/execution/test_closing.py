"""What closes a transaction of ours: it has what the code returned, and stands or falls with the code's work."""

from contextlib import nullcontext

import pytest

from outbox.support import ORDERS, Order, open_database, rows
from txpatterns.errors import ConfigurationError, HandlerTimeout
from txpatterns.execution import Came, Execution, Origin, Run

ORIGIN = Origin("shop.packed", "order 1", "", misfit=ConfigurationError, over_limit=HandlerTimeout)


async def in_loop(session):
    session.add(Order(id="packed"))
    return "in a box"


def in_thread(session):
    session.add(Order(id="packed"))
    return "in a box"


def run_of(call, closing):
    is_async = call is in_loop
    return Run(ORIGIN, call, is_async, opening=_looks, stands=_looks, around=nullcontext, closing=closing)


def _looks(connection):
    return connection.execute(ORDERS).first() is None


CODE = pytest.mark.parametrize("call", [in_loop, in_thread], ids=["async def", "def"])


@CODE
async def test_closing_comes_last_with_what_the_code_returned(any_database, call):
    """P2: what the code left to its session to write is written when the closing runs; both commit together."""
    async with open_database(any_database) as database:
        seen = []

        def closing(connection, value):
            seen.append((value, connection.execute(ORDERS).scalars().all()))

        result = await Execution(database).run(run_of(call, closing))
        assert (result.came, result.value) == (Came.DONE, "in a box")
        assert seen == [("in a box", ["packed"])]
        assert [row.id for row in await rows(database, ORDERS)] == ["packed"]


@CODE
async def test_a_closing_that_fails_undoes_the_code(any_database, call):
    """P2: the code's work does not stay without its record."""

    def closing(connection, value):
        raise ValueError(value)

    async with open_database(any_database) as database:
        result = await Execution(database).run(run_of(call, closing))
        assert result.came is Came.FAILED
        assert str(result.error) == "in a box"
        assert await rows(database, ORDERS) == []
