"""Writing for many sagas at once: while one write is under way others gather, and go together as the next.

On PostgreSQL that is one statement for all of them, and on SQLite one transaction. A write of its own commits by
itself; so what commits is the same as if each had been written alone, only sooner.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection

from txpatterns.causes import one_of
from txpatterns.database.dialects import is_disconnect, now_plus
from txpatterns.errors import LeaseLost
from txpatterns.sagas.facts import written
from txpatterns.sagas.schema import saga_journal_table, saga_table
from txpatterns.sagas.store import Claimed, SagaStore, Write
from txpatterns.text import storable

logger = logging.getLogger("txpatterns")

_MOST = 256


class Member(NamedTuple):
    """One saga's write among others."""

    saga: Claimed
    n: int
    write: Write
    done: asyncio.Future[None]


class GroupWriter:
    """Writes for all sagas of an engine. What cannot be one statement is not for it."""

    def __init__(self, store: SagaStore) -> None:
        self._store = store
        self._waiting: list[Member] = []
        self._is_under_way = False
        self._task: asyncio.Task[None] | None = None

    async def write(self, saga: Claimed, n: int, write: Write) -> None:
        """Do what ``SagaStore.write`` does, in a transaction of the library's own.

        Raises:
            LeaseLost: somebody else has claimed the saga since.
        """
        if saga.crashes:  # its first write says that it gets on
            await self._alone(saga, n, write)
            return
        if self._is_under_way:
            member = Member(saga, n, write, asyncio.get_running_loop().create_future())
            self._waiting.append(member)
            await member.done
            return
        self._is_under_way = True
        try:
            await self._alone(saga, n, write)
        finally:
            self._pass_on()

    async def finish(self) -> None:
        """Wait until nothing is under way, when nobody writes any more."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    def _pass_on(self) -> None:
        """Let those go next that have gathered meanwhile."""
        members = [member for member in self._waiting if not member.done.done()]
        together, self._waiting = members[:_MOST], members[_MOST:]
        self._is_under_way = bool(together)
        if together:
            self._task = asyncio.create_task(self._write_together(together), name=f"{len(together)} sagas' writes")

    async def _write_together(self, members: Sequence[Member]) -> None:
        try:
            await self._settle(members)
        except BaseException as error:  # noqa: BLE001 - it is raised by whoever waits for it
            for member in members:
                if not member.done.done():
                    member.done.set_exception(error)
        finally:
            self._pass_on()

    async def _settle(self, members: Sequence[Member]) -> None:
        """Write for all of them; and alone for each that was not written with the others."""
        try:
            written = await self._store.database.transact(partial(self._all, members=members), single=True)
        except Exception as error:
            if is_disconnect(error):  # nobody knows whether it is committed
                raise
            logger.warning("%d sagas cannot be written together, so each is alone: %s", len(members), one_of(error))
            written = set()
        alone = [member for member in members if member.saga.number not in written]
        for member in members:
            if member.saga.number in written and not member.done.done():
                member.done.set_result(None)
        await asyncio.gather(*(self._tell(member) for member in alone))

    async def _tell(self, member: Member) -> None:
        try:
            await self._alone(member.saga, member.n, member.write)
        except Exception as error:  # noqa: BLE001 - it is raised by whoever waits for it
            if not member.done.done():
                member.done.set_exception(error)
        else:
            if not member.done.done():
                member.done.set_result(None)

    async def _alone(self, saga: Claimed, n: int, write: Write) -> None:
        await self._store.database.transact(partial(self._store.write, saga=saga, n=n, write=write), single=True)

    def _all(self, connection: Connection, members: Sequence[Member]) -> set[int]:
        """Write for all of them in one transaction; says of which sagas."""
        if not self._store.database.is_sqlite:
            given = {"now": self._store.database.seconds(), **_columns(members)}
            return set(self._store.database.execute_beside(connection, _STATEMENT, given).scalars())
        found = set()
        for member in members:
            try:
                self._store.write(connection, member.saga, member.n, member.write)
            except LeaseLost:
                continue
            found.add(member.saga.number)
        return found


_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "number": sa.BigInteger(),
    "epoch": sa.BigInteger(),
    "run": sa.Integer(),
    "n": sa.Integer(),
    "facts": sa.Text(),
    "status": sa.Text(),
    "due": sa.Float(),
    "is_owned": sa.Boolean(),
    "is_end": sa.Boolean(),
    "attention": sa.Text(),
    "diverged": sa.Text(),
    "error": sa.Text(),
    "result": sa.Text(),
}
"""What is given of each write. Where the saga stays as it stands, its status is NULL."""


def _columns(members: Sequence[Member]) -> dict[str, list[Any]]:
    rows = [_row(member) for member in members]
    return {f"all_{name}": [row[name] for row in rows] for name in _TYPES}


def _row(member: Member) -> dict[str, Any]:
    saga, write = member.saga, member.write
    row: dict[str, Any] = dict.fromkeys(_TYPES) | {"number": saga.number, "epoch": saga.epoch, "run": saga.run}
    row |= {"n": member.n, "facts": written(write.facts) if write.facts else None}
    standing = write.standing
    if standing is not None:
        row |= {
            "status": standing.status.value,
            "due": None if standing.due is None else standing.due.total_seconds(),
            "is_owned": standing.is_owned,
            "is_end": standing.is_end,
            "attention": standing.attention and storable(standing.attention),
            "diverged": standing.diverged,
            "error": standing.error,
            "result": standing.result,
        }
    return row


def _statement() -> sa.Select[tuple[int]]:
    """Make the statement that writes for many. It gives the sagas that were still theirs, and that nobody has locked.

    Who is left out writes alone, and so waits for a lock without keeping the others waiting.
    """
    arrays = [sa.bindparam(f"all_{name}", type_=ARRAY(type_)) for name, type_ in _TYPES.items()]
    columns = [sa.column(name, type_) for name, type_ in _TYPES.items()]
    given = sa.select(sa.func.unnest(*arrays).table_valued(*columns, name="rows").render_derived()).cte("given")
    saga, g = saga_table.c, given.c
    fits = sa.and_(saga.number == g.number, saga.epoch == g.epoch)
    mine = sa.select(saga.number).join(given, fits).order_by(saga.number)
    locked = mine.with_for_update(key_share=True, skip_locked=True, of=saga_table).cte("mine")
    now = now_plus(sa.bindparam("now", type_=sa.Float))
    facts = sa.select(g.number, g.run, g.n, g.facts, now).join(locked, locked.c.number == g.number)
    noted = sa.insert(saga_journal_table).from_select(
        ["saga", "run", "n", "facts", "at"], facts.where(g.facts.is_not(None))
    )
    stood = (
        sa.update(saga_table)
        .where(saga.number == g.number, g.number == locked.c.number, g.status.is_not(None))
        .values(
            status=g.status,
            due_at=sa.case((g.due.is_(None), None), else_=now_plus(sa.bindparam("now", type_=sa.Float) + g.due)),
            attention=g.attention,
            crashes=sa.literal_column("0"),
            owner=sa.case((g.is_owned, saga.owner), else_=None),
            diverged=sa.func.coalesce(g.diverged, saga.diverged),
            error=sa.func.coalesce(g.error, saga.error),
            result=sa.func.coalesce(g.result, saga.result),
            ended_at=sa.case((g.is_end, now), else_=saga.ended_at),
        )
    )
    return sa.select(locked.c.number).add_cte(noted.cte("noted"), stood.cte("stood"))


_STATEMENT = _statement()
