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
from txpatterns.outbox.schema import COLUMNS, outbox_table, sent_table

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
# Built once: making a statement costs more than running it.
_PAGE = (
    sa.select(*(outbox_table.c[name] for name in ("position", *COLUMNS)))
    .where(outbox_table.c.position > sa.bindparam("after"))
    .order_by(outbox_table.c.position)
    .limit(sa.bindparam("limit"))
)
_PAGE_OF_BUCKETS = _PAGE.where(outbox_table.c.bucket.in_(sa.bindparam("buckets", expanding=True)))


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


_HORIZON = sa.text(
    "SELECT CAST(CAST(pg_snapshot_xmin(s) AS text) AS bigint) AS oldest, "
    "CAST(CAST(pg_snapshot_xmax(s) AS text) AS bigint) AS newest FROM pg_current_snapshot() AS s"
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
        parameters: dict[str, Any] = {"after": after, "limit": limit}
        query = _PAGE
        if len(buckets) < BUCKETS:
            query, parameters["buckets"] = _PAGE_OF_BUCKETS, sorted(buckets)
        found = await self.database.read(lambda connection: connection.execute(query, parameters).all())
        return [_row(row) for row in found]

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
        columns = ["position", *COLUMNS]
        mine = within(outbox_table.c.message_id, ids)
        chosen = sa.select(*(outbox_table.c[name] for name in columns), self.database.now()).where(mine)
        connection.execute(sa.insert(sent_table).from_select([*columns, "sent_at"], chosen))
        connection.execute(sa.delete(outbox_table).where(mine))

    async def horizon(self) -> tuple[int, int]:
        """Give the oldest transaction that still runs and the next one to come, by number.

        On SQLite there is one writer, so that positions become visible in order: both are the same.
        """
        if self.database.is_sqlite:
            return 0, 0
        found = await self.database.read(lambda connection: connection.execute(_HORIZON).one())
        return found.oldest, found.newest

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
