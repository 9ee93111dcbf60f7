"""Calls that wait, in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger("txpatterns.runtime")

T = TypeVar("T")


async def in_thread(work: Callable[[], T], *, name: str) -> T:
    """Run a call that waits. Cancelling leaves it to itself: neither the loop nor the process waits for its end.

    ``asyncio.to_thread`` is no way to call a server that may be away: the end of the loop waits for its threads.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            tell(loop, _fail, done, error)
        else:
            tell(loop, _settle, done, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done


def tell(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *arguments: object) -> None:
    """Call something in the loop from a thread, if the loop is still there."""
    try:
        loop.call_soon_threadsafe(what, *arguments)
    except RuntimeError:
        logger.debug("an answer came when the event loop was closed")


def _settle(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[T], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
