"""`txp ids`: an id taken apart, and who makes ids."""

import asyncio
import os
import socket

import pytest
import sqlalchemy as sa

from ids.support import prepared
from txpatterns import Database
from txpatterns.ids import DatabaseBlocks, SnowflakeGenerator, WorkerNumbers

URL = "sqlite+aiosqlite:///plain.db"
ID = "252620073519284224"


def test_an_id_is_explained(txp):
    """P6: by whoever finds it in a table."""
    assert txp("ids", "explain", ID).out.splitlines() == [
        "made at   2026-11-29 02:21:58.981+00:00",
        "worker    0",
        "sequence  0",
    ]
    data = {"id": ID, "at": "2026-11-29T02:21:58.981000+00:00", "worker": 0, "sequence": 0}
    assert txp("ids", "explain", ID, "--json").json == data
    assert "a block of the database" in txp("ids", "explain", str(1023 << 12)).out


@pytest.mark.parametrize("wrong", ["x", "9223372036854775808", "1.5"])
def test_what_is_no_id_is_said_to_be_none(txp, wrong):
    """H140: with exit code 3."""
    assert "that is no id" in txp("ids", "explain", wrong, code=3).out
    assert txp("ids", "explain", wrong, "--json", code=3).json is None


def test_who_makes_ids(txp, project):
    """P6, H305: each held number with its process; those that nobody has with --all."""
    database = asyncio.run(made(project))
    assert txp("ids", "workers", "--database", URL).out == "nobody makes ids now\n"
    with WorkerNumbers(database) as numbers, DatabaseBlocks(database) as blocks:
        assert SnowflakeGenerator(numbers).next_id()
        assert blocks.next_id()
        (held,) = txp("ids", "workers", "--database", URL, "--json").json
        label = f"{socket.gethostname()}:{os.getpid()}"
        assert (held["worker"], held["state"], held["label"], held["ahead"]) == (0, "held", label, False)
        assert label in txp("ids", "workers", "--database", URL, "--all").out
        assert txp("ids", "workers", "--database", URL, "--all", "--json").json[1]["state"] == "blocks"
    states = [each["state"] for each in txp("ids", "workers", "--database", URL, "--all", "--json").json]
    assert states == ["free", "blocks"]


def test_tables_that_are_older_than_ids(txp, project):
    """H100: the error says which command makes them."""
    asyncio.run(made(project, "DROP TABLE txp_id_worker"))
    told = txp("ids", "workers", "--database", URL, code=1).err
    assert "txp_id_worker is missing here. Fix: Run: txp db upgrade" in told


async def made(project, *statements: str) -> Database:
    async with await prepared(f"sqlite+aiosqlite:///{project}/plain.db") as database:
        for statement in statements:
            await database.execute(sa.text(statement))
        return database
