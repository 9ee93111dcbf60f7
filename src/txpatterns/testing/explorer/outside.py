"""Somebody else's service that outlives the processes which call it: its memory is a file, and its calls are points."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from txpatterns.testing.explorer.points import Mode, Points
from txpatterns.testing.explorer.wire import WireLog

_KIND = "outside"
_LOST = "the connection was lost (injected)"


class Outside:
    """A provider that does each thing once for its key, as most that take idempotency keys do.

    Before and after each call is a point: the caller may die there, and the answer may be lost.
    """

    def __init__(self, log: WireLog, points: Points) -> None:
        self._log = log
        self._points = points

    async def do(self, what: str, key: str) -> str:
        """Do something; the same key again has no second effect. Gives what was done.

        Raises:
            ConnectionError: injected: it did not come there, or its answer did not come back.
        """
        fault = self._points.arrive(f"outside: {what.split(maxsplit=1)[0]}")
        if fault is Mode.ERROR_BEFORE:
            raise ConnectionError(_LOST)
        with self._points.calling():
            done = done_at(self._log).get(key)
            if done is None:
                done = what
                self._log.write(_KIND, key=key, what=what)
            await asyncio.sleep(0)
        self._points.leave(fault)
        if fault is Mode.REPLY_LOST:
            raise ConnectionError(_LOST)
        return done

    async def look_up(self, key: str) -> str | None:
        """Say what was done for a key; None: nothing.

        Raises:
            ConnectionError: injected.
        """
        fault = self._points.arrive("outside: look up")
        if fault in (Mode.ERROR_BEFORE, Mode.REPLY_LOST):
            raise ConnectionError(_LOST)
        await asyncio.sleep(0)
        return done_at(self._log).get(key)


def done_at(log: WireLog) -> Mapping[str, str]:
    """Give what the provider has done, by key."""
    done: dict[str, str] = {}
    for record in log.records(_KIND):
        done.setdefault(record["key"], record["what"])
    return done
