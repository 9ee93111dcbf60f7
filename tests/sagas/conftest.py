"""The shops that most tests of sagas run in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sagas.support import Shop, opened


@pytest.fixture
async def shop(any_database: str) -> AsyncIterator[Shop]:
    """An empty shop, once on each database and driver."""
    async with opened(any_database) as shop:
        yield shop


@pytest.fixture
async def sqlite_shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """The same on a file, where the database does not matter."""
    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db") as shop:
        yield shop
