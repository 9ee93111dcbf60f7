import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, what: str, within: timedelta = timedelta(minutes=2)) -> T:
    """Ask again and again until the answer is true, and return it.

    Raises:
        TimeoutError: naming `what` was waited for, when `within` has passed.
    """
    deadline = time.monotonic() + within.total_seconds()
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within.total_seconds():g} s for {what}")
        time.sleep(0.02)


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """The same for an answer that has to be awaited, two minutes at most."""
    try:
        async with asyncio.timeout(120):
            while not await condition():  # noqa: ASYNC110 - a server's state; it tells nobody
                await asyncio.sleep(0.02)
    except TimeoutError as late:
        raise TimeoutError(f"waited 120 s for {what}") from late
