"""Being a member of a scope, and owning slots of it, fenced by epochs.

A member renews one row. Its slots are free for others when that row has expired by the database's clock and was
deleted; the takeover raises the epoch. Whoever changes anything on the strength of a slot first locks the lease
row at its own epoch: a zombie finds another epoch, even while the takeover is still uncommitted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination.census import SHOWN_FOR, Census, alive, asked_by, counts
from txpatterns.coordination.schema import lease_table, member_table
from txpatterns.coordination.slots import Held, Slots
from txpatterns.database.database import Database
from txpatterns.database.dialects import is_sqlite, moment
from txpatterns.database.engines import IDLE
from txpatterns.errors import LeaseLost
from txpatterns.messages import new_id

T = TypeVar("T")


class Leases:
    """The slots of one scope, and this process's membership in it.

    ``ttl`` is how long a silent owner keeps its slots; renew at a third of it. ``announce`` is called in each
    transaction after which the others may have slots to take or to give.
    """

    def __init__(
        self,
        database: Database,
        scope: str,
        *,
        slots: int,
        ttl: timedelta,
        announce: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        self.database = database
        self.scope = scope
        self.slots = Slots(scope, slots)
        self.ttl = ttl
        self.announce = announce
        self.owner = ""
        self._ours: list[str] = []
        """The memberships that this process may have: of a transaction that failed it is not known."""
        self._renewed_at = float("-inf")

    @property
    def safe_until(self) -> float:
        """Until when, by the monotonic clock, the lease holds for certain: counted from the request, less a margin."""
        return self._renewed_at + self.ttl.total_seconds() * 0.9

    @property
    def is_safe(self) -> bool:
        """Whether this process may still act on what it owns without asking the database."""
        return bool(self.owner) and self.database.clock.monotonic() < self.safe_until

    async def join(self) -> Census:
        """Become a member; says how many live and how many died without leaving.

        Who joins again after losing its lease did not die: its former membership ends here.
        """
        owner, former, started = new_id(), list(self._ours), self.database.clock.monotonic()
        self._ours.append(owner)
        label = f"{socket.gethostname()}:{os.getpid()}"
        member = {"scope": self.scope, "owner": owner, "label": label}

        def work(connection: Connection) -> Census:
            self.slots.make(connection)
            self._end(connection, former)
            times = {"started_at": self.database.now(), "expires_at": self.database.now(self.ttl)}
            connection.execute(sa.insert(member_table).values(**member, **times))
            self.announce(connection)
            return Census.of(connection.execute(sa.select(*counts(self.scope)), asked_by(owner, self.database)).one())

        census = await self._transact(work, urgent=True)
        self.owner, self._ours, self._renewed_at = owner, [owner], started
        return census

    async def renew(self) -> Census:
        """Stay a member for another ttl.

        Raises:
            LeaseLost: the lease had run out; join again and start from what the database says.
        """
        started = self.database.clock.monotonic()

        def work(connection: Connection) -> Census:
            given = {**asked_by(self.owner, self.database), "until": self.database.seconds(self.ttl)}
            renewed = connection.execute(self._renewal, given).one_or_none()
            if renewed is None:
                raise LeaseLost(f"The lease of {self.scope} ran out before it was renewed.")
            return Census.of(renewed)

        census = await self._transact(work, urgent=True, single=True)
        self._renewed_at = started
        return census

    def alive(self) -> sa.Select[tuple[str]]:
        """Give the owners that live, as a subquery: ``owner.not_in(leases.alive())`` in another statement."""
        return alive(self.scope, self.database.now())

    def sign(self) -> sa.Select[Any]:
        """Select what changes when a member comes, goes or gives up slots: for ``Hearing.on``."""
        members = sa.select(sa.func.group_concat(member_table.c.owner)).where(self._scope())
        free = sa.select(sa.func.count()).where(lease_table.c.scope == self.scope, lease_table.c.owner.is_(None))
        return sa.select(members.scalar_subquery(), free.scalar_subquery())

    def is_settled(self, held: Held, census: Census) -> bool:
        """Whether ``acquire`` would change nothing: nothing is free that is due to us, gone from us, or to forget."""
        lacks = census.free > 0 and len(held) < self.slots.share(census.live)
        return not lacks and census.owned == len(held) and census.forgettable == 0

    def surplus(self, held: Held, live: int) -> list[int]:
        """Say which slots are above a fair share among so many members."""
        return sorted(held)[self.slots.share(live) :]

    async def release(self, slots: Iterable[int]) -> None:
        """Give some slots back, once nothing of theirs is under way any more."""

        def work(connection: Connection) -> None:
            self.slots.free(connection, [self.owner], list(slots))
            self.announce(connection)

        await self._transact(work)

    async def acquire(self, live: int) -> dict[int, int]:
        """Take free slots, those of the dead included, up to a fair share; gives all that is owned now."""

        def work(connection: Connection) -> dict[int, int]:
            self._bury(connection)
            mine = self.slots.owned_by(connection, self.owner)
            self.slots.take(connection, self.owner, max(self.slots.share(live) - len(mine), 0))
            return self.slots.owned_by(connection, self.owner)

        return await self._transact(work, urgent=True)

    async def owned(self) -> dict[int, int]:
        """Ask the database which slots are ours now."""
        return await self.database.read(lambda connection: self.slots.owned_by(connection, self.owner))

    async def leave(self) -> None:
        """Hand everything over at once. Harmless when the lease is gone."""
        if not self._ours:
            return

        def work(connection: Connection) -> None:
            self._end(connection, self._ours)
            self.announce(connection)

        await self._transact(work)
        self.owner, self._ours, self._renewed_at = "", [], float("-inf")

    def guard(self, connection: Connection, slots: Held) -> set[int]:
        """Lock the leases of these slots until the transaction ends; gives those that are still ours.

        Write only for those: at another epoch somebody else owns the slot.
        """
        self._bound(connection)
        return self.slots.lock(connection, self.owner, slots)

    async def _transact(self, work: Callable[[Connection], T], *, urgent: bool = False, single: bool = False) -> T:
        def bounded(connection: Connection) -> T:
            self._bound(connection)
            return work(connection)

        return await self.database.transact(bounded, urgent=urgent, single=single)

    def _bound(self, connection: Connection) -> None:
        """Let the server end a transaction that locks leases and then does nothing for the length of one.

        A process that is stopped in the middle of it keeps its connection, and with that would keep others out of
        slots that are no longer its own.
        """
        if is_sqlite(connection) or connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            return
        if self.ttl < IDLE or self.database.home.is_pooled:
            milliseconds = int(self.ttl.total_seconds() * 1000)
            connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}")

    @cached_property
    def _renewal(self) -> sa.Executable:
        """The statement of ``renew``."""
        mine = sa.and_(self._scope(), member_table.c.owner == sa.bindparam("me"))
        renewal = sa.update(member_table).where(mine, member_table.c.expires_at > moment("now"))
        return renewal.values(expires_at=moment("until")).returning(*counts(self.scope))

    def _scope(self) -> sa.ColumnElement[bool]:
        return member_table.c.scope == self.scope

    def _bury(self, connection: Connection) -> None:
        """Lock and forget the members whose lease ran out; one that is renewing at this moment survives."""
        dead = sa.and_(self._scope(), member_table.c.expires_at <= self.database.now())
        query = sa.select(member_table.c.owner).where(dead)
        if not is_sqlite(connection):
            query = query.with_for_update(skip_locked=True)
        owners = list(connection.execute(query).scalars())
        if owners:
            self.slots.free(connection, owners)
        old = member_table.c.expires_at <= self.database.now(-SHOWN_FOR)
        connection.execute(sa.delete(member_table).where(dead, old))

    def _end(self, connection: Connection, owners: Sequence[str]) -> None:
        """End memberships, and with them what they own."""
        if owners:
            self.slots.free(connection, owners)
            connection.execute(sa.delete(member_table).where(self._scope(), member_table.c.owner.in_(owners)))
