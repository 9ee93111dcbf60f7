"""A warehouse that asks for what is overdue and kills itself where it is told to: `python dying_overdue.py …`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from tcc.support import Shop
from txpatterns import Database
from txpatterns.integrations.tcc_http import TccDecisions
from txpatterns.tcc.decisions import Told


class Dying:
    """Asks, and dies before the question or behind the answer."""

    def __init__(self, decisions: TccDecisions, point: str) -> None:
        self._decisions = decisions
        self._point = point

    async def about(self, xid: str, branch: str) -> Told:
        if self._point == "claimed":
            die()
        told = await self._decisions.about(xid, branch)
        if self._point == "answered":
            die()
        return told


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, decisions: str, secret: str, point: str) -> None:
    async with Database(url) as database:
        warehouse = Shop(database)
        if point == "worked":
            warehouse._fail = lambda verb, sku: die()  # type: ignore[method-assign]
        warehouse.app.tcc.overdue.ask("shop", Dying(TccDecisions(decisions, secret), point))
        await warehouse.app.tcc.overdue.sweep()
        die()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
