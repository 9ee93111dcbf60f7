"""Processes of the application beside servers that are killed: starting them, waiting with them, telling of them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from rig.process import Child
from txpatterns import App
from txpatterns.coordination.schema import member_table

STUCK = timedelta(minutes=4)
"""Kafka gives a dead member's share away after 45 seconds; with nothing new for much longer, something is wrong."""
START = timedelta(minutes=3)

EFFECTS = "SELECT coalesce(max(id), 0) FROM effect"
"""About how many effects there are: a number is drawn for each, also for one that was rolled back."""

STANDING = {
    "committed": "SELECT count(*) FROM ledger",
    "effects": "SELECT count(*) FROM effect",
    "to be published": "SELECT count(*) FROM txp_outbox",
    "waiting to be published": "SELECT state, attempts, count(*), max(error) FROM txp_outbox_waiting GROUP BY 1, 2",
    "waiting to be handled": "SELECT state, attempts, count(*), max(error) FROM txp_inbox_waiting GROUP BY 1, 2",
    "dead letters": "SELECT consumer, reason, count(*), max(error) FROM txp_dead_letter GROUP BY 1, 2",
    "leases": "SELECT owner, count(*) FROM txp_lease GROUP BY 1",
    "members": "SELECT scope, label, expires_at, CURRENT_TIMESTAMP FROM txp_member",
    "in the database": "SELECT state, wait_event, query FROM pg_stat_activity WHERE datname = current_database()",
}


@dataclass
class Fleet:
    """The processes of a run, by name; the first word of a name is the process's part."""

    app: App
    run: Callable[[str], Child]
    members: dict[str, Child] = field(default_factory=dict)
    ended: list[Child] = field(default_factory=list)

    async def start(self, name: str) -> None:
        """Start a process, and wait until its parts run: before that, a server that is away ends it, as it should."""
        role = name.split(maxsplit=1)[0]
        self.members[name] = process = self.run(name)
        await asyncio.to_thread(process.wait_for, f"{role} runs", within=START)

    async def kill(self, name: str) -> None:
        """SIGKILL to a process, and start another in its place."""
        process = self.members.pop(name)
        await asyncio.to_thread(process.kill9)
        self.ended.append(process)
        await self.start(name)

    async def restart(self, name: str) -> None:
        """Ask a process to end, as a deployment does, and start another in its place."""
        await self.stop(name)
        await self.start(name)

    async def pause_beyond_lease(self, name: str) -> None:
        """SIGSTOP to a process until the others count it out, and then go on."""
        process = self.members[name]
        mine = member_table.c.label.endswith(f":{process.pid}")
        live = sa.select(sa.func.count()).where(mine, member_table.c.expires_at > self.app.database.now())
        await asyncio.to_thread(process.stop)
        try:
            await self.until(live, lambda n: n == 0, f"the leases of {name} to run out")
        finally:
            process.cont()

    async def stop(self, *names: str) -> None:
        """Ask some, or all, to end, as a deployment does; their exit code must be 0."""
        leaving = names or tuple(self.members)
        for name in leaving:
            self.members[name].sigterm()
        for name in leaving:
            process = self.members.pop(name)
            self.ended.append(process)
            code = await asyncio.to_thread(process.wait, within=START)
            assert code == 0, f"{name} left with code {code}\n{process.output}"

    def said(self, words: str) -> list[str]:
        """The lines with these words of every process there was."""
        everybody = [*self.ended, *self.members.values()]
        return [line for process in everybody for line in process.lines if words in line]

    async def until(self, query: str | sa.Select[Any], reached: Callable[[int], bool], what: str) -> int:
        """Ask the database until the answer is right, and give it.

        Raises:
            AssertionError: a process ended by itself, or neither the answer nor the effects change any more; the
                text has where everything stands.
        """
        last, changed_at = (-1, -1), time.monotonic()
        while True:
            for name, process in self.members.items():
                if process.ended:
                    raise AssertionError(f"{name} ended by itself:\n{process.output}")
            found = await self.figure(query), await self.figure(EFFECTS)
            if reached(found[0]):
                return found[0]
            if found != last:
                last, changed_at = found, time.monotonic()
            if time.monotonic() - changed_at > STUCK.total_seconds():
                raise AssertionError(f"nothing new for {STUCK}, while waiting for {what}\n{await self.report()}")
            await asyncio.sleep(0.25)

    async def figure(self, query: str | sa.Select[Any]) -> int:
        """One number from the database; -1 while it is away."""
        asked = sa.text(query) if isinstance(query, str) else query
        try:
            return int(await self.app.database.read(lambda c: c.execute(asked).scalar_one()))
        except (DBAPIError, OSError):
            return -1

    async def report(self) -> str:
        """Where everything stands, what every process waits for, and what it said last."""
        found = [f"{what}: {await self._told(query)}" for what, query in STANDING.items()]
        for process in self.members.values():
            if not process.ended:
                os.kill(process.pid, signal.SIGUSR1)
        await asyncio.sleep(2)
        for name, process in self.members.items():
            found += [f"--- {name}{' (ended)' if process.ended else ''}", *process.lines[-150:]]
        return "\n".join(found)

    async def _told(self, query: str) -> object:
        try:
            return await self.app.database.read(lambda c: [tuple(row) for row in c.execute(sa.text(query))])
        except (DBAPIError, OSError) as error:
            return repr(error)
