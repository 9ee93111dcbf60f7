"""The relay's SQL on the outbox proper: read ahead, settle, and where a rescan may begin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.engine import Row as SqlRow

from txpatterns.database.database import Database
from txpatterns.database.dialects import is_sqlite, within
from txpatterns.messages import BUCKETS, Message
from txpatterns.outbox.backlog import Row
from txpatterns.outbox.schema import outbox_table, sent_table

_MESSAGE = ("topic", "type", "key", "bucket", "payload", "headers", "content_type", "occurred_at")
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_PAGE = [outbox_table.c[name] for name in ("position", "message_id", *_MESSAGE)]


def message_of(row: SqlRow[Any]) -> Message:
    """Make the message that a row of any of our tables holds, byte for byte."""
    return Message(
        id=row.message_id,
        topic=row.topic,
        type=row.type,
        payload=row.payload,
        key=row.key,
        headers=json.loads(row.headers),
        content_type=row.content_type,
        occurred_at=row.occurred_at,
    )


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the table, and the transaction number from which on nothing older can still commit below it."""

    position: int
    transaction: int


class OutboxStore:
    """The statements of the relay, each a short transaction by itself."""

    def __init__(self, database: Database, *, keep_sent: bool = False) -> None:
        self.database = database
        self.keep_sent = keep_sent

    async def page(self, after: int, buckets: Sequence[int], limit: int) -> list[Row]:
        """Read the next rows of these buckets, in the order of their positions."""
        table = outbox_table
        query = sa.select(*_PAGE).where(table.c.position > after).order_by(table.c.position).limit(limit)
        if len(buckets) < BUCKETS:
            query = query.where(table.c.bucket.in_(sorted(buckets)))

        def work(connection: Connection) -> list[Row]:
            return [_row(found) for found in connection.execute(query).all()]

        return await self.database.read(work)

    async def settle(self, rows: Sequence[Row]) -> None:
        """Delete confirmed rows, by message id: positions are only a hint, and SQLite may use them again.

        Harmless under a lost lease, and when done twice.
        """
        ids = [row.message.id for row in rows]
        if not self.keep_sent:
            await self.database.execute(sa.delete(outbox_table).where(within(outbox_table.c.message_id, ids)))
            return
        await self.database.transact(lambda connection: self._keep(connection, ids))

    def _keep(self, connection: Connection, ids: Sequence[str]) -> None:
        columns = ["position", "message_id", *_MESSAGE]
        mine = within(outbox_table.c.message_id, ids)
        chosen = sa.select(*(outbox_table.c[name] for name in columns), self.database.now()).where(mine)
        connection.execute(sa.insert(sent_table).from_select([*columns, "sent_at"], chosen))
        connection.execute(sa.delete(outbox_table).where(mine))

    async def mark(self, position: int) -> Mark:
        """Note the present transaction horizon beside a position that was read up to."""
        if self.database.is_sqlite:
            return Mark(position, 0)
        query = sa.text("SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint)")
        return Mark(position, await self.database.read(lambda connection: connection.execute(query).scalar_one()))

    async def is_past(self, mark: Mark) -> bool:
        """Whether every transaction that ran at the mark has ended, so that nothing new can appear below it."""
        if self.database.is_sqlite:
            return True
        query = sa.text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")
        horizon = await self.database.read(lambda connection: connection.execute(query).scalar_one())
        return bool(horizon >= mark.transaction)

    async def forget_sent(self, older_than: Any, limit: int) -> int:
        """Delete a small batch of kept rows that were sent before an instant."""

        def work(connection: Connection) -> int:
            old = sa.select(sent_table.c.position).where(sent_table.c.sent_at < older_than)
            batch = old.order_by(sent_table.c.sent_at).limit(limit)
            if not is_sqlite(connection):
                batch = batch.with_for_update(skip_locked=True)
            return connection.execute(sa.delete(sent_table).where(sent_table.c.position.in_(batch))).rowcount

        return await self.database.transact(work)


def _row(found: Any) -> Row:
    # The hottest lines of the relay: unpacked by place, because every attribute of an SQL row costs a look-up.
    position, message_id, topic, type_, key, bucket, payload, headers, content_type, occurred_at = found
    told = _NO_HEADERS if headers == "{}" else json.loads(headers)
    message = Message(message_id, topic, type_, payload, key, told, content_type, occurred_at)
    return Row(position, bucket, message, (topic, "k" + key) if key is not None else ("", message_id))
