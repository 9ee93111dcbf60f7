"""How many of something are done in a second, several at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


def rate(total: int, concurrency: int, one: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[float]]:
    """Do something so many times; gives how many that were in a second."""

    async def run() -> float:
        numbers = iter(range(total))

        async def work() -> None:
            for _ in numbers:
                await one()

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return total / (time.perf_counter() - began)

    return run
