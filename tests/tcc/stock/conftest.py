"""A stock of each kind, for what all of them must do alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path

import pytest

from rig.lookup import Missing
from rig.servers.redis import Redis
from rig.watchdog import Watchdog
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
        pytest.param("asyncpg session", marks=SERVER),
        pytest.param("psycopg plain session", marks=SERVER),
        pytest.param("redis before sqlite", marks=SERVER),
        pytest.param("redis before asyncpg", marks=SERVER),
    ]
)
async def stock(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Stock]:
    kind: str = request.param
    url = f"sqlite+aiosqlite:///{tmp_path / 'stock.db'}"
    database = next((each for each in ("asyncpg", "psycopg") if each in kind), None)
    if database is not None:
        url = request.getfixturevalue("database").url(database)
    opening: AbstractAsyncContextManager[Stock]
    if kind == "memory":
        opening = open_memory(clock)
    elif kind.startswith("redis"):
        opening = open_redis(request.getfixturevalue("redis_url"), url, clock)
    elif "session" in kind:
        opening = open_in_sessions(url, clock, plain="plain" in kind)
    else:
        opening = open_sql(url, clock)
    async with opening as opened:
        yield opened


@pytest.fixture
def start_redis(watchdog: Watchdog) -> Iterator[Callable[..., Redis]]:
    """`start_redis("--save", "")` starts a server of the test's own, to be killed and started on what it has saved."""
    with ExitStack() as servers:

        def start(*options: str) -> Redis:
            class OwnRedis(Redis):
                OPTIONS = options

            try:
                server = OwnRedis.take(watchdog)
            except Missing as missing:
                raise pytest.skip.Exception(str(missing)) from None
            servers.callback(server.close)
            server.start()
            return server

        yield start
