"""The shops that tests of TCC run in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tcc.support import Shop, opened


@pytest.fixture
async def shop(any_database: str) -> AsyncIterator[Shop]:
    """A shop with ten pieces of A and of B, once on each database and driver."""
    async with opened(any_database) as shop:
        yield shop


@pytest.fixture
async def sqlite_shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """The same on a file, where the database does not matter."""
    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db") as shop:
        yield shop
