"""Databases on a server: one for each service."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine


async def make_database(url: str) -> None:
    """Make a service's database on a PostgreSQL server, where it is missing."""
    wanted = make_url(url)
    engine = create_async_engine(wanted.set(database="postgres"), isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            query = text("SELECT 1 FROM pg_database WHERE datname = :name")
            if await connection.scalar(query, {"name": wanted.database}) is None:
                quoted = engine.dialect.identifier_preparer.quote(str(wanted.database))
                await connection.exec_driver_sql(f"CREATE DATABASE {quoted}")
    finally:
        await engine.dispose()
