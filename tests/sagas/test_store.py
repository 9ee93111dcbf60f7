"""The statements about sagas: what they cost does not grow with what rests."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from sagas.support import opened
from txpatterns.coordination import Leases
from txpatterns.sagas.schema import SCOPE
from txpatterns.sagas.store import SagaStore

KNOWN = [("shop.order", 1, 1, "print")]


@pytest.mark.parametrize("asks", ["claim", "next_due", "has_due"])
async def test_what_is_due_is_found_by_its_index(any_database: str, asks: str) -> None:
    """P7, H28: neither what sleeps nor what has ended is looked at, whatever the database knows of its rows."""
    async with opened(any_database) as shop:
        database = shop.app.database
        store, alive = SagaStore(database), Leases(database, SCOPE, slots=0, ttl=timedelta(seconds=15)).alive()
        moment = await database.moment()

        def plan(connection: sa.Connection) -> str:
            sent: list[tuple[str, object]] = []
            sa.event.listen(connection, "before_cursor_execute", lambda *given: sent.append((given[2], given[3])))
            match asks:
                case "claim":
                    store.claim(connection, "me", alive, KNOWN, 10)
                case "next_due":
                    store.next_due(connection, KNOWN, timedelta(seconds=1))
                case _:
                    store.has_due(connection, KNOWN, moment)
            statement, parameters = sent[-1]
            if database.is_sqlite:
                explain = "EXPLAIN QUERY PLAN"
            else:
                explain = "EXPLAIN"
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
                connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
            return "\n".join(str(row) for row in connection.exec_driver_sql(f"{explain} {statement}", parameters))

        told = await database.transact(plan)
    assert "ix_txp_saga_due (due_at<?)" in told or "Index Cond: (due_at <= " in told, told
