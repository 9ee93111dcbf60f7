"""Whether a service can work."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from shop.problems import Problem
from txpatterns import App


async def check(app: App) -> None:
    """Ask the service's database something.

    Raises:
        Problem: ``unavailable`` when it does not answer.
    """
    try:
        async with app.session() as session:
            await session.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError) as error:
        raise Problem("unavailable", "The database does not answer.") from error
