"""How much of the tables a claim reads, on a real PostgreSQL that keeps its plans."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from inbox.support import Noted, prepared
from txpatterns.database import Database
from txpatterns.inbox import State
from txpatterns.inbox.entries import entry_of
from txpatterns.inbox.lane_store import First, LaneStore

MANY = 20_000
READ = "SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_xact_user_tables WHERE relname = 'txp_inbox_waiting'"
COPIED = "lane, fingerprint, topic, type, key, payload, headers, content_type, occurred_at"
FOLLOWERS = f"""INSERT INTO txp_inbox_waiting (consumer, message_id, {COPIED}, state, attempts)
    SELECT consumer, 'follower-' || n, {COPIED}, 'behind', 0 FROM txp_inbox_waiting, generate_series(1, :many) AS n"""


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("at_once", [1, 20])
async def test_a_claim_reads_few_rows_where_one_key_has_most_of_them(database, driver, at_once):
    """H275: the server knows that nearly all rows are of one key, and keeps a plan that expects those of any other."""
    async with Database(database.url(driver)) as ours:
        world = await prepared(ours)
        lanes = LaneStore(ours)
        entries = [
            entry_of("app.noted", world.message(Noted(book=f"book {n}", number=n), f"message {n}")) for n in range(200)
        ]
        head = First(State.RETRYING, 1, timedelta(hours=1))
        await ours.transact(lambda connection: lanes.admit(connection, entries[0], head))
        await ours.transact(lambda connection: connection.execute(sa.text(FOLLOWERS), {"many": MANY}))
        async with ours.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.exec_driver_sql("ANALYZE txp_inbox_waiting")
        async with ours.engine.connect() as connection:
            for start in range(0, len(entries), at_once):
                await connection.run_sync(lanes.claims.take_all, entries[start : start + at_once], None) if (
                    at_once > 1
                ) else await connection.run_sync(lanes.claims.take, entries[start], None)
            claimed = (await connection.exec_driver_sql("SELECT count(*) FROM txp_inbox")).scalar_one()
            read = (await connection.exec_driver_sql(READ)).scalar_one()
    assert claimed == len(entries) - 1
    assert read < MANY
