"""A relay that is killed at the worst moment, and one that is pointed at the wrong server."""

import asyncio
from collections import Counter

import pytest
import sqlalchemy as sa

from outbox.relaying import SETTINGS, FileBroker
from outbox.support import ids, open_database
from outbox.test_relay import fill
from txpatterns.errors import WrongDatabase
from txpatterns.outbox import Outbox, Relay


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_killed_between_confirmation_and_note(database, child, tmp_path, driver):
    """P1, P3, H20, H30: by SIGKILL, twice; what was confirmed is sent again, the same bytes, in order; none is lost."""
    url, broker = database.url(driver), FileBroker(tmp_path / "stored")
    async with open_database(url) as store:
        added = await fill(store, Outbox(store), ["a", "b", "c"], 10)
        for life in (1, 2):
            process = child("-m", "outbox.relaying", url, broker.path, "stop")
            await asyncio.to_thread(process.wait_for, "confirmed")
            process.kill9()
            assert len(broker.lines) >= SETTINGS.batch * life
            assert len(await ids(store)) == 30, "nothing was settled"
        async with asyncio.timeout(120):
            while await ids(store):  # the leases of the dead run out by the database's clock
                await Relay(store, broker, settings=SETTINGS).run_once()
        sent = broker.lines
        firsts = {key: list(dict.fromkeys(found for name, found, _ in sent if name == key)) for key in added}
        assert firsts == added
        assert max(Counter(found for _, found, _ in sent).values()) > 1, "the kill came after a confirmation"
        assert len({(found, payload) for _, found, payload in sent}) == 30


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_standby_is_refused(database, driver):
    """H32: on a server in recovery the relay does not begin: it would see the past, and could settle nothing."""
    async with open_database(database.url(driver)) as store:
        name = sa.make_url(database.url(driver)).database
        for statement in (
            "CREATE FUNCTION public.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
            f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog',
        ):
            await store.transact(lambda connection, text=statement: connection.exec_driver_sql(text))
    async with open_database(database.url(driver)) as store:
        with pytest.raises(WrongDatabase, match="standby"):
            await Relay(store, FileBroker("/nowhere")).run_once()
