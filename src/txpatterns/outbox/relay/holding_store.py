"""The relay's SQL on lanes that do not flow: a failing message goes out of the outbox, its followers wait behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination import Held
from txpatterns.database.dialects import insert_into, is_sqlite, within
from txpatterns.deadletters.letter import has_dead_letter
from txpatterns.outbox.relay.rows import Lane, Row
from txpatterns.outbox.relay.waiting import CHUNK, ID, SHARED, WaitingTable, in_buckets, in_lane, said, slots_of
from txpatterns.outbox.schema import Waiting, outbox_table, waiting_table
from txpatterns.retries import OnFailure


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes that do not flow freely."""

    held: set[Lane]
    orphaned: list[tuple[int, Lane]]
    """Followers wait, but what they waited for is gone: a crash came between the two."""


class HoldingStore(WaitingTable):
    """Holds up lanes, and lets them go, in the buckets that this process owns."""

    async def lanes(self, buckets: Sequence[int]) -> Lanes:
        """Read which lanes are held up in these buckets, and which were left half-way through their release."""
        table = waiting_table
        blocked = sa.func.count().filter(table.c.state.in_((Waiting.RETRYING, Waiting.PARKED)))
        query = (
            sa.select(table.c.bucket, table.c.topic, table.c.key, blocked.label("blocked"))
            .where(table.c.key.is_not(None), *in_buckets(buckets))
            .where(table.c.state.in_((Waiting.RETRYING, Waiting.BEHIND, Waiting.PARKED)))
            .group_by(table.c.bucket, table.c.topic, table.c.key)
        )
        found = await self.database.read(lambda connection: connection.execute(query).all())
        return Lanes(
            held={(row.topic, "k" + row.key) for row in found if row.blocked},
            orphaned=[(row.bucket, (row.topic, "k" + row.key)) for row in found if not row.blocked],
        )

    async def set_aside(self, held: Held, rows: Sequence[Row]) -> set[Lane]:
        """Put rows behind the failing message of their lane; gives the lanes that an operator lets go on.

        Raises LeaseLost.
        """
        slots = slots_of(held, *(row.bucket for row in rows))
        ids = [row.message.id for row in rows]
        lanes = {row.lane for row in rows if self._parks(row.message.topic)}

        def work(connection: Connection) -> set[Lane]:
            self._move_out(connection, ids, Waiting.BEHIND)
            free: set[Lane] = set()
            for lane in lanes:
                query = sa.select(waiting_table.c.state).where(in_lane(lane, (Waiting.RETRYING, Waiting.PARKED)))
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
                self._bury(connection, row, 1, said(error), permanent=permanent)
                return self._parks(row.message.topic) and row.message.key is not None
            state = Waiting.SKIPPED if policy.on_failure is OnFailure.SKIP else Waiting.RETRYING
            if not self._move_out(connection, [row.message.id], state):
                return False  # another one of this id is failing already, and goes on as it was
            connection.execute(
                self._update(row.message.id).values(attempts=1, due_at=self.database.now(delay), error=said(error))
            )
            return state is Waiting.RETRYING and row.message.key is not None

        return await self._guarded(slots_of(held, row.bucket), work)

    async def release(self, held: Held, bucket: int, lane: Lane) -> tuple[int | None, bool]:
        """Let followers of a lane back into the outbox at their old positions, a chunk at a time.

        Gives the lowest position that came back, and whether the lane is free now: none wait any more.
        """

        def work(connection: Connection) -> tuple[int | None, bool]:
            behind = in_lane(lane, (Waiting.BEHIND,))
            query = sa.select(waiting_table.c.message_id, waiting_table.c.position).where(behind)
            found = connection.execute(query.order_by(waiting_table.c.position).limit(CHUNK)).all()
            ids = within(waiting_table.c.message_id, [row.message_id for row in found])
            if found:
                chosen = sa.select(*(waiting_table.c[name] for name in SHARED)).where(ids)
                back = insert_into(outbox_table, on_sqlite=is_sqlite(connection)).inline().from_select(SHARED, chosen)
                connection.execute(back.on_conflict_do_nothing(index_elements=ID))
                connection.execute(sa.delete(waiting_table).where(ids))
            rest = sa.select(sa.literal(1)).where(in_lane(lane, (Waiting.RETRYING, Waiting.BEHIND, Waiting.PARKED)))
            return (found[0].position if found else None), connection.execute(rest.limit(1)).first() is None

        return await self._guarded(slots_of(held, bucket), work)

    def _move_out(self, connection: Connection, ids: Sequence[str], state: Waiting) -> int:
        """Move rows of the outbox to those that wait; gives how many went.

        Where an id waits already, it is the same message: one that was scheduled goes on in this one's place, one
        that is in trouble stays as it is.
        """
        mine = within(outbox_table.c.message_id, ids)
        chosen = sa.select(*(outbox_table.c[name] for name in SHARED), sa.literal(state.value)).where(mine)
        move = (
            insert_into(waiting_table, on_sqlite=is_sqlite(connection)).inline().from_select([*SHARED, "state"], chosen)
        )
        instead = {name: move.excluded[name] for name in (*SHARED, "state", "due_at")}
        scheduled = waiting_table.c.state == Waiting.SCHEDULED
        moved = connection.execute(
            move.on_conflict_do_update(index_elements=ID, set_=instead, where=scheduled)
        ).rowcount
        connection.execute(sa.delete(outbox_table).where(mine))
        return moved

    def _delete_from_outbox(self, connection: Connection, row: Row) -> None:
        connection.execute(sa.delete(outbox_table).where(outbox_table.c.message_id == row.message.id))
