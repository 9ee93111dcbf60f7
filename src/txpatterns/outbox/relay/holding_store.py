"""The relay's SQL on lanes that do not flow: a failing message goes out of the outbox, its followers wait behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination import Held
from txpatterns.database.dialects import insert_into, is_sqlite, moment, within
from txpatterns.deadletters.letter import has_dead_letter
from txpatterns.deadletters.store import bury
from txpatterns.outbox.relay.rows import Lane, Row
from txpatterns.outbox.relay.waiting import (
    CHUNK,
    ID,
    SHARED,
    WaitingTable,
    death_of,
    in_buckets,
    in_lane,
    said,
    slots_of,
)
from txpatterns.outbox.schema import Waiting, outbox_table, waiting_table
from txpatterns.retries import OnFailure

_FAILED = (
    sa.update(waiting_table)
    .where(waiting_table.c.message_id == sa.bindparam("id"))
    .values(attempts=1, due_at=moment("after"), error=sa.bindparam("said"))
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A message that is to leave the outbox; ``permanent`` when no further attempt makes sense."""

    row: Row
    error: Exception | None
    permanent: bool


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

    async def fail(self, held: Held, failures: Sequence[Failure]) -> set[Lane]:
        """Take failing messages, each of a lane of its own, out of the outbox; gives the lanes that are held up now.

        Raises LeaseLost.
        """
        dead: list[Failure] = []
        retried: list[Failure] = []
        skipped: list[Failure] = []
        for failure in failures:
            policy = self.policies.of(failure.row.message.topic)
            if failure.permanent or policy.ladder.attempts == 1:
                dead.append(failure)
            else:
                (skipped if policy.on_failure is OnFailure.SKIP else retried).append(failure)

        def work(connection: Connection) -> set[Lane]:
            rows = self._end(connection, dead) + self._wait(connection, retried, Waiting.RETRYING)
            self._wait(connection, skipped, Waiting.SKIPPED)
            return {row.lane for row in rows if row.message.key is not None}

        return await self._guarded(slots_of(held, *(failure.row.bucket for failure in failures)), work)

    def _end(self, connection: Connection, failures: Sequence[Failure]) -> list[Row]:
        """Make dead letters of messages of the outbox; gives those whose lanes wait on for an operator."""
        if not failures:
            return []
        deaths = [death_of(each.row, 1, said(each.error), permanent=each.permanent) for each in failures]
        bury(connection, deaths, now=self.database.now())
        ids = [each.row.message.id for each in failures]
        connection.execute(sa.delete(outbox_table).where(within(outbox_table.c.message_id, ids)))
        return [each.row for each in failures if self._parks(each.row.message.topic)]

    def _wait(self, connection: Connection, failures: Sequence[Failure], state: Waiting) -> list[Row]:
        """Let messages of the outbox wait for their second attempt; gives those that do.

        The others have the id of a message that is failing already, and goes on as it was.
        """
        if not failures:
            return []
        moved = self._move_out(connection, [each.row.message.id for each in failures], state)
        waiting = [each for each in failures if each.row.message.id in moved]
        if waiting:
            connection.execute(_FAILED, [self._failed(each) for each in waiting])
        return [each.row for each in waiting]

    def _failed(self, failure: Failure) -> dict[str, object]:
        message, error = failure.row.message, failure.error
        delay = self.policies.of(message.topic).ladder.delay_for_ever(1, self.random)
        return {"id": message.id, "after": self.database.seconds(delay), "said": said(error)}

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

    def _move_out(self, connection: Connection, ids: Sequence[str], state: Waiting) -> set[str]:
        """Move rows of the outbox to those that wait; gives the ids of those that went.

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
        settled = move.on_conflict_do_update(index_elements=ID, set_=instead, where=scheduled)
        moved = set(connection.execute(settled.returning(waiting_table.c.message_id)).scalars())
        connection.execute(sa.delete(outbox_table).where(mine))
        return moved
