"""The relay's SQL on what waits for a time: scheduled messages, and failing ones that are tried again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination import Held
from txpatterns.database.dialects import insert_into, is_sqlite, moment, within
from txpatterns.database.stored import message_of
from txpatterns.deadletters.store import bury
from txpatterns.outbox.queues import WAITING
from txpatterns.outbox.relay.rows import Row, lane_of
from txpatterns.outbox.relay.waiting import CHUNK, ID, WaitingTable, death_of, in_buckets, said, slots_of
from txpatterns.outbox.schema import COLUMNS, Waiting, outbox_table, waiting_table

_LONGEST_LOOK = 60.0


_NEXT = (
    sa.select(waiting_table.c.bucket, waiting_table.c.due_at, moment("now").label("now"))
    .where(waiting_table.c.due_at <= moment("within"))
    .order_by(waiting_table.c.due_at)
    .limit(CHUNK)
)


@dataclass(frozen=True, slots=True)
class Due:
    """A failing message whose next attempt is due; the attempt is counted already."""

    row: Row
    attempts: int
    state: Waiting
    dead: bool = False
    """It had no attempt left, because processes died during the last ones; it is a dead letter already."""


class DueStore(WaitingTable):
    """What is due in the buckets that this process owns. An attempt is counted when its message is claimed."""

    async def due(self, held: Held, but: Iterable[str], resting: Sequence[str] = ()) -> tuple[set[int], float]:
        """Say which buckets have something due, and in how many seconds the next thing is due (at most 60).

        ``but`` are messages that are being tried again at this moment, ``resting`` topics that are not to be tried now.
        """
        if not held:
            return set(), _LONGEST_LOOK
        seconds = self.database.seconds
        given = {"now": seconds(), "within": seconds(timedelta(seconds=_LONGEST_LOOK))}
        query = _NEXT.where(*in_buckets(held), *_not_in(but, resting))
        found = await self.database.read(lambda connection: connection.execute(query, given).all())
        buckets = {row.bucket for row in found if row.due_at <= row.now}
        later = [(row.due_at - row.now).total_seconds() for row in found if row.due_at > row.now]
        return buckets, min(later, default=_LONGEST_LOOK)

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
                    .on_conflict_do_nothing(index_elements=ID)
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
                    self._end(connection, due, row.error or said(None), permanent=False)
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
            slots_of(held, due.row.bucket),
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
                values = {"due_at": self.database.now(delay), "error": said(error)}
                connection.execute(self._update(due.row.message.id).values(**values))
                return False
            self._end(connection, due, said(error), permanent=permanent)
            return True

        return await self._guarded(slots_of(held, due.row.bucket), work)

    async def published(self, held: Held, due: Due) -> None:
        """Forget a message whose retry the broker has confirmed."""
        await self._guarded(
            slots_of(held, due.row.bucket), lambda connection: self._delete(connection, [due.row.message.id])
        )

    def _due(
        self,
        connection: Connection,
        held: Held,
        states: Sequence[Waiting],
        limit: int,
        but: Sequence[sa.ColumnElement[bool]] = (),
    ) -> Sequence[sa.Row[Any]]:
        wanted = (waiting_table.c.state.in_(states), *in_buckets(held), *but)
        due = WAITING.due_rows(self.database.now(), *wanted).order_by(waiting_table.c.message_id)
        return connection.execute(due.limit(limit)).all()

    def _delete(self, connection: Connection, ids: Sequence[str]) -> None:
        if ids:
            connection.execute(sa.delete(waiting_table).where(within(waiting_table.c.message_id, ids)))

    def _end(self, connection: Connection, due: Due, error: str, *, permanent: bool) -> None:
        """Make a failing message a dead letter; its followers wait on where the policy says so."""
        self._delete(connection, [due.row.message.id])
        death = death_of(due.row, due.attempts, error, permanent=permanent)
        bury(connection, [death], now=self.database.now())
        if self._parks(due.row.message.topic):
            self._park(connection, due.row.lane)


def _not_in(ids: Iterable[str], topics: Sequence[str]) -> list[sa.ColumnElement[bool]]:
    left_out = (waiting_table.c.message_id, list(ids)), (waiting_table.c.topic, list(topics))
    return [sa.not_(within(column, listed)) for column, listed in left_out if listed]
