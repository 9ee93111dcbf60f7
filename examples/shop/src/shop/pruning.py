"""Deleting what has served its time: a batch at a time, so that nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from txpatterns import App

logger = logging.getLogger("shop.pruning")

EVERY = timedelta(hours=1)
BATCH = 500

Prune = Callable[[App, datetime], Awaitable[int]]
"""Deletes what is too old at a moment, in short transactions, and says how many rows that were."""


async def prune_once(app: App, prunes: Sequence[Prune], now: datetime) -> int:
    """Delete a batch of each kind; gives the number of rows."""
    return sum([await prune(app, now) for prune in prunes])


async def prune_forever(app: App, prunes: Sequence[Prune]) -> None:
    """Delete what grows old, until cancelled. A database that is away now is asked again later."""
    while prunes:
        try:
            gone = await prune_once(app, prunes, datetime.now(UTC))
        except (SQLAlchemyError, OSError) as error:
            logger.warning("old rows could not be deleted: %s", error)
            gone = 0
        if not gone:
            await asyncio.sleep(EVERY.total_seconds())
