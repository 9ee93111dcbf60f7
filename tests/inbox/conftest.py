from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from inbox.support import World, prepared
from rig.servers import postgres
from txpatterns.database import Database


@pytest.fixture
async def world(any_database: str) -> AsyncIterator[World]:
    """A fresh database of each kind, with a broker in memory."""
    async with Database(any_database) as database:
        yield await prepared(database)


@pytest.fixture
async def sqlite_world(tmp_path: Path) -> AsyncIterator[World]:
    async with Database(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}") as database:
        yield await prepared(database)


@pytest.fixture
async def postgres_world(database: postgres.Database) -> AsyncIterator[World]:
    async with Database(database.url("asyncpg")) as ours:
        yield await prepared(ours)
