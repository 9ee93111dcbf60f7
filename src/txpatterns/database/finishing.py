"""Work that must not be cut off in the middle: a connection that is being made, a COMMIT, a close."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger("txpatterns")

_PATIENCE = 10.0


class Breakable:
    """The part of some work that may be cancelled although the work is brought to its end: a ``with`` block in it."""

    def __init__(self) -> None:
        self._within: asyncio.Task[Any] | None = None
        self.asked = False
        """Whether it was cancelled by us, and not by what runs in it."""

    def cancel(self) -> None:
        """Cancel the block, at its beginning if it has not begun."""
        self.asked = True
        if self._within is not None:
            self._within.cancel()

    def __enter__(self) -> None:
        if self.asked:
            raise asyncio.CancelledError
        self._within = asyncio.current_task()

    def __exit__(self, *exception: object) -> None:
        self._within = None


async def finish(work: Coroutine[Any, Any, T], breakable: Breakable | None = None) -> T:
    """Bring this to its end though the caller is cancelled meanwhile, however often; then the cancellation goes on.

    Cut off in the middle, a connection can only be thrown away, one that is just being made belongs to nobody who
    could close it, and a COMMIT may or may not have happened. What takes longer than ten seconds is cut off after all,
    and the part that is ``breakable`` at once.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if breakable is not None:
            breakable.cancel()
        if not await _ends(task):
            task.cancel()
            await _ends(task)
        if task.done() and not task.cancelled() and task.exception() is not None:
            logger.warning("what a cancelled task waited for ended with %r", task.exception())
        raise


async def _ends(task: asyncio.Task[Any]) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    while not task.done() and (left := deadline - loop.time()) > 0:
        with suppress(asyncio.CancelledError):  # told already; the one who waits raises it when this is over
            await asyncio.wait({task}, timeout=left)
    return task.done()
