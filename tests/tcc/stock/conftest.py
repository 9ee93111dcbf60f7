"""A stock of each kind, for what all of them must do alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tcc.stock.support import open_in_sessions, open_memory, open_redis, open_sql
from txpatterns.tcc.stock import Stock
from txpatterns.testing.clock import ManualClock

SERVER = pytest.mark.server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        "sqlite session",
        "sqlite plain session",
        pytest.param("asyncpg", marks=SERVER),
        pytest.param("asyncpg session", marks=SERVER),
        pytest.param("psycopg", marks=SERVER),
        pytest.param("psycopg plain session", marks=SERVER),
        pytest.param("redis before sqlite", marks=SERVER),
        pytest.param("redis before asyncpg", marks=SERVER),
    ]
)
async def stock(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Stock]:
    kind: str = request.param
    if kind == "memory":
        opening = open_memory(clock)
    else:
        database = next(each for each in ("sqlite", "asyncpg", "psycopg") if each in kind)
        url = f"sqlite+aiosqlite:///{tmp_path / 'stock.db'}"
        if database != "sqlite":
            url = request.getfixturevalue("database").url(database)
        if kind.startswith("redis"):
            opening = open_redis(request.getfixturevalue("redis_url"), url, clock)
        elif "session" in kind:
            opening = open_in_sessions(url, clock, plain="plain" in kind)
        else:
            opening = partial(open_sql, url, clock)()
    async with opening as opened:
        yield opened
