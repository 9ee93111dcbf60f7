"""What is reserved for transactions elsewhere, and overdue: whoever runs them is asked, and nobody else decides."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from functools import partial

from txpatterns.clock import Clock
from txpatterns.database.database import Database
from txpatterns.errors import TccDefinitionError
from txpatterns.tcc.barrier import CHUNK, Barrier, Reserved, Verdict
from txpatterns.tcc.decisions import Decided, Decisions
from txpatterns.tcc.serving import Serving
from txpatterns.text import error_line, one_line

logger = logging.getLogger("txpatterns")

_EVERY = timedelta(seconds=30)
_AGAIN = timedelta(minutes=1)
"""How long after a question the same is asked again: by whoever comes then, for who asked may have died."""
_REMEMBERED = 5 * _AGAIN


class Overdue:
    """Asks the coordinators of other applications for what their transactions have left reserved here.

    It gives back or sells nothing by itself: without an answer that says how it ends, it stays reserved.
    """

    def __init__(self, database: Database, barrier: Barrier, serving: Serving) -> None:
        self._database = database
        self._barrier = barrier
        self._serving = serving
        self._sources: dict[str, Decisions] = {}
        self._unknown: dict[str, float] = {}
        """Reservations that a person must look at, and when that was last told."""

    def __bool__(self) -> bool:
        return bool(self._sources)

    def ask(self, app: str, decisions: Decisions) -> None:
        """Ask there for what transactions of this application have reserved.

        Raises:
            TccDefinitionError: somebody else is asked for them already.
        """
        if self._sources.setdefault(app, decisions) is not decisions:
            raise TccDefinitionError(f"Two are to be asked for the transactions of {app}.")

    def take_in(self, other: Overdue) -> None:
        """Ask those that another object asks."""
        self._sources.update(other._sources)

    async def keep(self, clock: Clock, stopping: asyncio.Event) -> None:
        """Ask again and again, until it is stopped."""
        while not stopping.is_set():
            await self.sweep()
            await clock.wait(stopping, _EVERY)

    async def sweep(self) -> int:
        """Ask once for all that is overdue; says how much of it is confirmed or cancelled now."""
        return sum([await self._sweep(app, decisions) for app, decisions in self._sources.items()])

    def attention(self) -> list[str]:
        """Say in words what a person should look at."""
        since = self._database.clock.monotonic() - _REMEMBERED.total_seconds()
        self._unknown = {each: at for each, at in self._unknown.items() if at >= since}
        if not self._unknown:
            return []
        first, *others = sorted(self._unknown)
        more = f" and {len(others)} more" if others else ""
        return [f"nobody knows what became of the reservation {one_line(first)}{more}: it stays as it is"]

    async def _sweep(self, app: str, decisions: Decisions) -> int:
        settled, size = 0, CHUNK
        while size == CHUNK:
            claim = partial(self._barrier.overdue, app=app, again=_AGAIN)
            reserved = await self._database.transact(claim)
            size = len(reserved)
            for each in reserved:
                try:
                    settled += await self._settle(each, decisions)
                except ConnectionError as error:
                    logger.warning("%d reservations stay: %s cannot be asked: %s", size, app, error_line(error))
                    return settled
                except Exception as error:  # noqa: BLE001 - of one: the others are asked for all the same
                    logger.warning("reservation %s stays: %s", one_line(each.id), error_line(error))
        return settled

    async def _settle(self, reserved: Reserved, decisions: Decisions) -> bool:
        told = await decisions.about(reserved.xid, reserved.branch)
        if told.decided is Decided.UNKNOWN:
            logger.warning("reservation %s stays: whoever made it does not know of it", one_line(reserved.id))
            self._unknown[reserved.id] = self._database.clock.monotonic()
            return False
        self._unknown.pop(reserved.id, None)
        if told.asking is None:
            return False
        request = replace(
            told.asking.request, xid=reserved.xid, branch=reserved.branch, participant=reserved.participant
        )
        admission = await self._serving.serve(replace(told.asking, request=request))
        return admission.verdict is Verdict.DONE
