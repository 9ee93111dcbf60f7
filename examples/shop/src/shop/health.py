"""Whether a service can work."""

from __future__ import annotations

import asyncio

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from shop.problems import Problem
from txpatterns import App

ANSWER_WITHIN = 2.0
"""Seconds that a probe waits for the database."""


async def check(app: App) -> None:
    """Ask the service's database something.

    Raises:
        Problem: ``unavailable`` when it does not answer.
    """
    try:
        async with asyncio.timeout(ANSWER_WITHIN), app.session() as session:
            await session.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError) as error:  # a time-out is one of the latter
        raise Problem("unavailable", "The database does not answer.") from error
