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
from txpatterns.database.dialects import within
from txpatterns.database.direct import Direct
from txpatterns.database.engines import qualified, sync_side
from txpatterns.messages import BUCKETS, Message
from txpatterns.outbox.backlog import Row
from txpatterns.outbox.schema import COLUMNS, outbox_table, sent_table

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
# Built once: making a statement costs more than running it.
_READ = ("position", *COLUMNS)
_PAGE = (
    sa.select(*(outbox_table.c[name] for name in _READ))
    .where(outbox_table.c.position > sa.bindparam("after"))
    .order_by(outbox_table.c.position)
    .limit(sa.bindparam("limit"))
)
_PAGE_OF_BUCKETS = _PAGE.where(outbox_table.c.bucket.in_(sa.bindparam("buckets", expanding=True)))


def _until_full(page: sa.Select[Any]) -> sa.Select[Any]:
    """Cut a page off behind the row that fills the room for payloads, so that memory is bounded in bytes too."""
    read = page.subquery()
    size = sa.func.length(read.c.payload)
    before = sa.func.sum(size).over(order_by=read.c.position, rows=(None, 0)) - size
    measured = sa.select(read, before.label("before")).subquery()
    query = sa.select(*(measured.c[name] for name in _READ))
    return query.where(measured.c.before < sa.bindparam("room")).order_by(measured.c.position)


_UNTIL_FULL, _UNTIL_FULL_OF_BUCKETS = _until_full(_PAGE), _until_full(_PAGE_OF_BUCKETS)
# The same for the bare driver.
_DIRECT_PAGE = (
    f"SELECT {', '.join(_READ)} FROM (SELECT *, sum(length(payload)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING)"
    " - length(payload) AS before FROM (SELECT * FROM {table} WHERE position > $1{buckets} ORDER BY position LIMIT $2)"
    " AS page) AS measured WHERE before < $3 ORDER BY position"
)
_DIRECT_DELETE = "DELETE FROM {table} WHERE message_id = ANY($1::text[])"
_DIRECT_KEEP = (
    f"WITH done AS ({_DIRECT_DELETE} RETURNING *) "
    f"INSERT INTO {{sent}} ({', '.join(_READ)}, sent_at) "
    f"SELECT {', '.join(_READ)}, clock_timestamp() + make_interval(secs => $2) FROM done"
)


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
        self._reader = Direct(database) if Direct.serves(database) else None
        self._settler = Direct(database) if Direct.serves(database) else None
        engine = sync_side(database.engine)
        self._tables = {"table": qualified(outbox_table, engine), "sent": qualified(sent_table, engine)}
        self._whole_page = _DIRECT_PAGE.format(**self._tables, buckets="")

    async def page(self, after: int, buckets: Sequence[int], limit: int, room: int) -> list[Row]:
        """Read the next rows of these buckets, in the order of their positions: ``limit`` of them at most.

        It ends early with the row whose payload fills ``room`` bytes.
        """
        if self._reader is not None:
            return await self._page_directly(self._reader, after, buckets, limit, room)
        parameters: dict[str, Any] = {"after": after, "limit": limit, "room": room}
        query = _UNTIL_FULL
        if len(buckets) < BUCKETS:
            query, parameters["buckets"] = _UNTIL_FULL_OF_BUCKETS, sorted(buckets)
        found = await self.database.read(lambda connection: connection.execute(query, parameters).all())
        return _rows(found)

    async def _page_directly(
        self, reader: Direct, after: int, buckets: Sequence[int], limit: int, room: int
    ) -> list[Row]:
        if len(buckets) < BUCKETS:
            query = _DIRECT_PAGE.format(**self._tables, buckets=" AND bucket = ANY($4::smallint[])")
            return _rows(await reader.fetch(query, after, limit, room, list(buckets)))
        return _rows(await reader.fetch(self._whole_page, after, limit, room))

    async def settle(self, rows: Sequence[Row]) -> None:
        """Delete confirmed rows, by message id: positions are only a hint, and SQLite may use them again.

        Harmless under a lost lease, and when done twice.
        """
        ids = [row.message.id for row in rows]
        if self._settler is not None:
            statement = _DIRECT_KEEP if self.keep_sent else _DIRECT_DELETE
            await self._settler.execute(statement.format(**self._tables), ids, *self._sent_at())
        elif self.keep_sent:
            await self.database.transact(lambda connection: self._keep(connection, ids))
        else:
            await self.database.execute(sa.delete(outbox_table).where(within(outbox_table.c.message_id, ids)))

    def _sent_at(self) -> list[float]:
        return [self.database.clock.offset.total_seconds()] if self.keep_sent else []

    def _keep(self, connection: Connection, ids: Sequence[str]) -> None:
        mine = within(outbox_table.c.message_id, ids)
        chosen = sa.select(*(outbox_table.c[name] for name in _READ), self.database.now()).where(mine)
        connection.execute(sa.insert(sent_table).from_select([*_READ, "sent_at"], chosen))
        connection.execute(sa.delete(outbox_table).where(mine))

    async def close(self) -> None:
        """Close the connections that are kept for reading and settling."""
        for direct in (self._reader, self._settler):
            if direct is not None:
                await direct.close()

    async def horizon(self) -> tuple[int, int]:
        """Give the oldest transaction that still runs and the next one to come, by number.

        On SQLite there is one writer, so that positions become visible in order: both are the same.
        """
        if self.database.is_sqlite:
            return 0, 0
        found = await self.database.read(lambda connection: connection.execute(_HORIZON).one())
        return found.oldest, found.newest


def _rows(found: Sequence[Any]) -> list[Row]:
    # The hottest lines of the relay: unpacked by place, because every attribute of an SQL row costs a look-up.
    rows = []
    for position, message_id, topic, type_, key, bucket, payload, headers, content_type, occurred_at in found:
        told = _NO_HEADERS if headers == "{}" else json.loads(headers)
        message = Message(message_id, topic, type_, payload, key, told, content_type, occurred_at)
        rows.append(Row(position, bucket, message, (topic, "k" + key) if key is not None else ("", message_id)))
    return rows
