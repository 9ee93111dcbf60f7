"""What a consumer does beside handling: it forgets what is old."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from txpatterns.clock import Clock
from txpatterns.inbox.inbox import Inbox

_CLEANING_INTERVAL = timedelta(minutes=1)


async def keep_clean(inbox: Inbox, retention: timedelta, clock: Clock, stopping: asyncio.Event) -> None:
    """Forget what was handled before the retention, again and again, until the consumer stops."""
    while not await clock.wait(stopping, _CLEANING_INTERVAL):
        await inbox.clean(retention)
