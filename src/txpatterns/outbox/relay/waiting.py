"""The relay's SQL on messages that wait: scheduled ones, failing ones, and those behind a failing one.

Every write here is made under the lease of its bucket, locked in the same transaction, so that a relay that was
paused and replaced changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.database.dialects import insert_into, is_sqlite, within
from txpatterns.database.leases import Held, Leases
from txpatterns.database.stored import message_of
from txpatterns.deadletters.letter import has_dead_letter
from txpatterns.deadletters.store import bury, scrub
from txpatterns.errors import LeaseLost
from txpatterns.messages import BUCKETS
from txpatterns.outbox.relay.rows import Lane, Row, bucket_of_lane, lane_of
from txpatterns.outbox.schema import COLUMNS, Waiting, outbox_table, waiting_table
from txpatterns.retries import FailurePolicies, OnFailure

T = TypeVar("T")
_SHARED = ("position", *COLUMNS)
_ID = ("message_id",)
_CHUNK = 2000
_LONGEST_LOOK = 60.0


@dataclass(frozen=True, slots=True)
class Due:
    """A failing message whose next attempt is due; the attempt is counted already."""

    row: Row
    attempts: int
    state: Waiting
    dead: bool = False
    """It had no attempt left, because processes died during the last ones; it is a dead letter already."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes that do not flow freely."""

    held: set[Lane]
    orphaned: list[tuple[int, Lane]]
    """Followers wait, but what they waited for is gone: a crash came between the two."""


class WaitingStore:
    """What waits in the buckets that this process owns."""

    def __init__(self, database: Database, leases: Leases, policies: FailurePolicies, random: Random) -> None:
        self.database = database
        self.leases = leases
        self.policies = policies
        self.random = random

    async def lanes(self, buckets: Sequence[int]) -> Lanes:
        """Read which lanes are held up in these buckets, and which were left half-way through their release."""
        table = waiting_table
        blocked = sa.func.count().filter(table.c.state.in_((Waiting.RETRYING, Waiting.PARKED)))
        query = (
            sa.select(table.c.bucket, table.c.topic, table.c.key, blocked.label("blocked"))
            .where(table.c.key.is_not(None), *_in_buckets(buckets))
            .where(table.c.state.in_((Waiting.RETRYING, Waiting.BEHIND, Waiting.PARKED)))
            .group_by(table.c.bucket, table.c.topic, table.c.key)
        )
        found = await self.database.read(lambda connection: connection.execute(query).all())
        return Lanes(
            held={(row.topic, "k" + row.key) for row in found if row.blocked},
            orphaned=[(row.bucket, (row.topic, "k" + row.key)) for row in found if not row.blocked],
        )

    async def due(self, held: Held, but: Iterable[str], resting: Sequence[str] = ()) -> tuple[set[int], float]:
        """Say which buckets have something due, and in how many seconds the next thing is due (at most 60).

        ``but`` are messages that are being tried again at this moment, ``resting`` topics that are not to be tried now.
        """
        if not held:
            return set(), _LONGEST_LOOK
        table, limit = waiting_table, self.database.now(timedelta(seconds=_LONGEST_LOOK))
        query = (
            sa.select(table.c.bucket, table.c.due_at, self.database.now().label("now"))
            .where(table.c.due_at <= limit, *_in_buckets(held), *_not_in(but, resting))
            .order_by(table.c.due_at)
            .limit(_CHUNK)
        )
        found = await self.database.read(lambda connection: connection.execute(query).all())
        buckets = {row.bucket for row in found if row.due_at <= row.now}
        later = [(row.due_at - row.now).total_seconds() for row in found if row.due_at > row.now]
        return buckets, min(later, default=_LONGEST_LOOK)

    async def set_aside(self, held: Held, rows: Sequence[Row]) -> set[Lane]:
        """Put rows behind the failing message of their lane; gives the lanes that an operator lets go on.

        Raises LeaseLost.
        """
        slots = {row.bucket: held.get(row.bucket, -1) for row in rows}
        ids = [row.message.id for row in rows]
        lanes = {row.lane for row in rows if self._parks(row.message.topic)}

        def work(connection: Connection) -> set[Lane]:
            self._move_out(connection, ids, Waiting.BEHIND)
            free: set[Lane] = set()
            for lane in lanes:
                query = sa.select(waiting_table.c.state).where(_in_lane(lane, (Waiting.RETRYING, Waiting.PARKED)))
                states = set(connection.execute(query.distinct()).scalars())
                if Waiting.RETRYING in states:
                    continue
                if states or has_dead_letter(connection, lane[0], lane[1][1:]):
                    self._park(connection, lane)  # what they would wait for is a dead letter already
                else:
                    free.add(lane)  # and that is gone, too
            return free

        return await self._guarded(slots, work)

    async def fail(self, held: Held, row: Row, error: Exception | None, *, permanent: bool) -> bool:
        """Take a failing message out of the outbox; gives whether its lane is held up now. Raises LeaseLost."""
        policy = self.policies.of(row.message.topic)
        delay = None if permanent else policy.ladder.delay(1, self.random)

        def work(connection: Connection) -> bool:
            if delay is None:
                self._delete_from_outbox(connection, row)
                self._bury(connection, row, 1, _said(error), permanent=permanent)
                return self._parks(row.message.topic) and row.message.key is not None
            state = Waiting.SKIPPED if policy.on_failure is OnFailure.SKIP else Waiting.RETRYING
            if not self._move_out(connection, [row.message.id], state):
                return False  # another one of this id is failing already, and goes on as it was
            connection.execute(
                self._update(row.message.id).values(attempts=1, due_at=self.database.now(delay), error=_said(error))
            )
            return state is Waiting.RETRYING and row.message.key is not None

        return await self._guarded({row.bucket: held.get(row.bucket, -1)}, work)

    async def enter_scheduled(self, held: Held, limit: int) -> int:
        """Let scheduled messages that are due enter the outbox, in the order of their due times.

        One whose id is in the outbox already is the same message: it is not sent a second time.
        """

        def work(connection: Connection) -> int:
            found = self._due(connection, held, (Waiting.SCHEDULED,), limit)
            for row in found:
                values = {name: getattr(row, name) for name in COLUMNS}
                connection.execute(
                    insert_into(outbox_table, on_sqlite=is_sqlite(connection))
                    .inline()
                    .values(**values)
                    .on_conflict_do_nothing(index_elements=_ID)
                )
            self._delete(connection, [row.message_id for row in found])
            return len(found)

        return await self._guarded(held, work) if held else 0

    async def claim_due(self, held: Held, limit: int, but: Iterable[str], resting: Sequence[str] = ()) -> list[Due]:
        """Take failing messages whose attempt is due, and count the attempt before it is made.

        One that was counted to the end, by processes that died before they could tell, is buried.
        """

        def work(connection: Connection) -> list[Due]:
            claimed = []
            for row in self._due(connection, held, (Waiting.RETRYING, Waiting.SKIPPED), limit, _not_in(but, resting)):
                message, policy = message_of(row._mapping), self.policies.of(row.topic)  # noqa: SLF001 - SQLAlchemy documents it
                found = Row(row.position, row.bucket, message, lane_of(message))
                if row.attempts >= policy.ladder.attempts:
                    due = Due(found, row.attempts, Waiting(row.state), dead=True)
                    self._end(connection, due, row.error or _said(None), permanent=False)
                else:
                    due = Due(found, row.attempts + 1, Waiting(row.state))
                    delay = policy.ladder.delay(due.attempts, self.random) or timedelta(minutes=1)
                    values = {"attempts": due.attempts, "due_at": self.database.now(delay)}
                    connection.execute(self._update(row.message_id).values(**values))
                claimed.append(due)
            return claimed

        return await self._guarded(held, work) if held else []

    async def give_back(self, held: Held, due: Due, pause: timedelta) -> None:
        """Uncount an attempt that decided nothing: the broker was away."""
        await self._guarded(
            _slot(held, due),
            lambda connection: connection.execute(
                self._update(due.row.message.id).values(attempts=due.attempts - 1, due_at=self.database.now(pause))
            ),
        )

    async def conclude_due(self, held: Held, due: Due, error: Exception | None, *, permanent: bool) -> bool:
        """Record a failed attempt; gives whether the message is a dead letter now."""
        policy = self.policies.of(due.row.message.topic)
        delay = None if permanent else policy.ladder.delay(due.attempts, self.random)

        def work(connection: Connection) -> bool:
            if delay is not None:
                values = {"due_at": self.database.now(delay), "error": _said(error)}
                connection.execute(self._update(due.row.message.id).values(**values))
                return False
            self._end(connection, due, _said(error), permanent=permanent)
            return True

        return await self._guarded(_slot(held, due), work)

    async def published(self, held: Held, due: Due) -> None:
        """Forget a message whose retry the broker has confirmed."""
        await self._guarded(_slot(held, due), lambda connection: self._delete(connection, [due.row.message.id]))

    async def release(self, held: Held, bucket: int, lane: Lane) -> tuple[int | None, bool]:
        """Let followers of a lane back into the outbox at their old positions, a chunk at a time.

        Gives the lowest position that came back, and whether the lane is free now: none wait any more.
        """

        def work(connection: Connection) -> tuple[int | None, bool]:
            behind = _in_lane(lane, (Waiting.BEHIND,))
            query = sa.select(waiting_table.c.message_id, waiting_table.c.position).where(behind)
            found = connection.execute(query.order_by(waiting_table.c.position).limit(_CHUNK)).all()
            ids = within(waiting_table.c.message_id, [row.message_id for row in found])
            if found:
                chosen = sa.select(*(waiting_table.c[name] for name in _SHARED)).where(ids)
                back = insert_into(outbox_table, on_sqlite=is_sqlite(connection)).inline().from_select(_SHARED, chosen)
                connection.execute(back.on_conflict_do_nothing(index_elements=_ID))
                connection.execute(sa.delete(waiting_table).where(ids))
            rest = sa.select(sa.literal(1)).where(_in_lane(lane, (Waiting.RETRYING, Waiting.BEHIND, Waiting.PARKED)))
            return (found[0].position if found else None), connection.execute(rest.limit(1)).first() is None

        return await self._guarded({bucket: held.get(bucket, -1)}, work)

    async def _guarded(self, slots: Held, work: Callable[[Connection], T]) -> T:
        def guarded(connection: Connection) -> T:
            if len(self.leases.guard(connection, slots)) < len(slots):
                raise LeaseLost("Another relay has taken over a bucket.")
            return work(connection)

        return await self.database.transact(guarded)

    def _due(
        self,
        connection: Connection,
        held: Held,
        states: Sequence[Waiting],
        limit: int,
        but: Sequence[sa.ColumnElement[bool]] = (),
    ) -> Sequence[sa.Row[Any]]:
        table = waiting_table
        query = (
            sa.select(table)
            .where(table.c.due_at <= self.database.now(), table.c.state.in_(states), *_in_buckets(held), *but)
            .order_by(table.c.due_at, table.c.message_id)
            .limit(limit)
        )
        if not is_sqlite(connection):
            query = query.with_for_update(skip_locked=True)
        return connection.execute(query).all()

    def _move_out(self, connection: Connection, ids: Sequence[str], state: Waiting) -> int:
        """Move rows of the outbox to those that wait; gives how many went.

        Where an id waits already, it is the same message: one that was scheduled goes on in this one's place, one
        that is in trouble stays as it is.
        """
        mine = within(outbox_table.c.message_id, ids)
        chosen = sa.select(*(outbox_table.c[name] for name in _SHARED), sa.literal(state.value)).where(mine)
        move = (
            insert_into(waiting_table, on_sqlite=is_sqlite(connection))
            .inline()
            .from_select([*_SHARED, "state"], chosen)
        )
        instead = {name: move.excluded[name] for name in (*_SHARED, "state", "due_at")}
        scheduled = waiting_table.c.state == Waiting.SCHEDULED
        moved = connection.execute(
            move.on_conflict_do_update(index_elements=_ID, set_=instead, where=scheduled)
        ).rowcount
        connection.execute(sa.delete(outbox_table).where(mine))
        return moved

    def _end(self, connection: Connection, due: Due, error: str, *, permanent: bool) -> None:
        """Make a failing message a dead letter; its followers wait on where the policy says so."""
        self._delete(connection, [due.row.message.id])
        self._bury(connection, due.row, due.attempts, error, permanent=permanent)
        if self._parks(due.row.message.topic):
            self._park(connection, due.row.lane)

    def _bury(self, connection: Connection, row: Row, attempts: int, error: str, *, permanent: bool) -> None:
        bury(
            connection,
            row.message,
            now=self.database.now(),
            attempts=attempts,
            reason="rejected" if permanent else "attempts used up",
            error=error,
            origin=row.position,
        )

    def _delete_from_outbox(self, connection: Connection, row: Row) -> None:
        connection.execute(sa.delete(outbox_table).where(outbox_table.c.message_id == row.message.id))

    def _delete(self, connection: Connection, ids: Sequence[str]) -> None:
        if ids:
            connection.execute(sa.delete(waiting_table).where(within(waiting_table.c.message_id, ids)))

    def _update(self, message_id: str) -> sa.Update:
        return sa.update(waiting_table).where(waiting_table.c.message_id == message_id)

    def _parks(self, topic: str) -> bool:
        return self.policies.of(topic).on_failure is OnFailure.PARK

    def _park(self, connection: Connection, lane: Lane) -> None:
        behind = _in_lane(lane, (Waiting.BEHIND,))
        connection.execute(sa.update(waiting_table).where(behind).values(state=Waiting.PARKED))


def _in_lane(lane: Lane, states: Sequence[Waiting]) -> sa.ColumnElement[bool]:
    topic, key = lane
    place = (waiting_table.c.bucket == bucket_of_lane(lane), waiting_table.c.topic == topic)
    return sa.and_(*place, waiting_table.c.key == key[1:], waiting_table.c.state.in_(states))


def _in_buckets(buckets: Collection[int]) -> list[sa.ColumnElement[bool]]:
    """Say that a row is in one of these buckets: nothing, where they are all."""
    return [] if len(buckets) == BUCKETS else [waiting_table.c.bucket.in_(sorted(buckets))]


def _not_in(ids: Iterable[str], topics: Sequence[str]) -> list[sa.ColumnElement[bool]]:
    left_out = (waiting_table.c.message_id, list(ids)), (waiting_table.c.topic, list(topics))
    return [sa.not_(within(column, listed)) for column, listed in left_out if listed]


def _slot(held: Held, due: Due) -> dict[int, int]:
    return {due.row.bucket: held.get(due.row.bucket, -1)}


def _said(error: Exception | None) -> str:
    return scrub(f"{type(error).__name__}: {error}") if error is not None else "the broker gave no answer"
