"""The relay's SQL on the outbox proper: read ahead, settle, and where a rescan may begin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.database.dialects import now_on_postgresql, within
from txpatterns.database.direct import Direct
from txpatterns.database.engines import qualified, sync_side
from txpatterns.messages import BUCKETS, Message
from txpatterns.outbox.relay.rows import Row
from txpatterns.outbox.relay.unseen import Snapshot, Unseen
from txpatterns.outbox.schema import COLUMNS, outbox_table, sent_table, waiting_table

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
# Built once: making a statement costs more than running it.
_READ = ("position", *COLUMNS)
_PAGE = (
    sa.select(*(outbox_table.c[name] for name in _READ))
    .where(outbox_table.c.position > sa.bindparam("after"))
    .order_by(outbox_table.c.position)
    .limit(sa.bindparam("limit"))
)
_IN_BUCKETS = outbox_table.c.bucket.in_(sa.bindparam("buckets", expanding=True))
_OTHER_TOPICS = outbox_table.c.topic.not_in(sa.bindparam("but", expanding=True))


def _until_full(page: sa.Select[Any]) -> sa.Select[Any]:
    """Cut a page off behind the row that fills the room for payloads, so that memory is bounded in bytes too."""
    read = page.subquery()
    size = sa.func.length(read.c.payload)
    before = sa.func.sum(size).over(order_by=read.c.position, rows=(None, 0)) - size
    measured = sa.select(read, before.label("before")).subquery()
    query = sa.select(*(measured.c[name] for name in _READ), sa.null().label("snapshot"), sa.null().label("given"))
    return query.where(measured.c.before < sa.bindparam("room")).order_by(measured.c.position)


_ON_SQLITE = {
    (some, but): _until_full(_PAGE.where(*([_IN_BUCKETS] if some else []), *([_OTHER_TOPICS] if but else [])))
    for some in (False, True)
    for but in (False, True)
}
# The same on PostgreSQL, where transactions become visible in another order than that of their positions. In one
# statement, hence one snapshot, it gives what lies behind `after`, and what has come to light before that: of the
# transactions that ran at the last look and may have ended. The first row, which is there even if nothing else is,
# also says what runs now. How old a number is can be asked in the list only: planning a condition would ask too early.
_ON_POSTGRESQL = (
    f"SELECT {', '.join(_READ)}, CASE WHEN coalesce(n, 1) = 1 THEN CAST(now AS text) END AS snapshot, "
    "CASE WHEN coalesce(n, 1) = 1 THEN age(CAST(pg_snapshot_xmax(now) AS xid)) END AS given "
    "FROM (SELECT pg_current_snapshot() AS now) AS always LEFT JOIN (SELECT *, row_number() OVER in_order AS n, "
    "sum(length(payload)) OVER in_order - length(payload) AS before "
    "FROM (SELECT * FROM {table} WHERE position > least(CAST({after} AS bigint), (SELECT min(low) "
    "FROM unnest(CAST({numbers} AS bigint[]), CAST({lows} AS bigint[])) AS ran(number, low) "
    "WHERE pg_visible_in_snapshot(CAST(CAST(number AS text) AS xid8), pg_current_snapshot())), "
    "CASE WHEN CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) > CAST({first} AS bigint) "
    "THEN CAST({low} AS bigint) END) "
    "AND position NOT IN (SELECT unnest(CAST({known} AS bigint[]))){of_buckets}{other_topics} "
    "ORDER BY position LIMIT {limit}) AS page WINDOW in_order AS (ORDER BY position "
    "ROWS UNBOUNDED PRECEDING)) AS measured ON before < {room}"
)
_OF_BUCKETS = " AND bucket = ANY(CAST({buckets} AS smallint[]))"
_OF_OTHER_TOPICS = " AND topic <> ALL(CAST({but} AS text[]))"
_PARAMETERS = ("after", "limit", "room", "numbers", "lows", "first", "low", "known")
_TYPED = (*(outbox_table.c[name] for name in _READ), sa.column("snapshot", sa.Text), sa.column("given", sa.BigInteger))
# By the message ids alone it takes the server more than twice as long: they are all over their index. A position that
# has come to be another message's deletes nothing.
_DIRECT_DELETE = (
    "WITH done AS (DELETE FROM {table} AS kept USING unnest($1::bigint[], $2::text[]) AS sent(position, message_id) "
    "WHERE kept.position = sent.position AND kept.message_id = sent.message_id{returning})"
)
# Only where they are kept are the rows read once more: to form them, payload and all, is a fifth of a settling.
_DIRECT_KEEP = (
    f", moved AS (INSERT INTO {{sent}} ({', '.join(_READ)}, sent_at) "
    f"SELECT {', '.join(_READ)}, {now_on_postgresql('$3::float')} FROM done)"
)
_DIRECT_NUMBER = " SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint)"


@dataclass(frozen=True, slots=True)
class Place:
    """Where to read on: behind a position, and before it for what has come to light late."""

    after: int
    unseen: Unseen = field(default_factory=Unseen)
    known: list[int] = field(default_factory=list)
    """Positions of rows that were read before, and need not be read again."""
    but: list[str] = field(default_factory=list)
    """Topics to leave out."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows in the order of their positions, all of one snapshot."""

    rows: list[Row]
    snapshot: Snapshot | None = None
    """None on SQLite, where positions become visible in their order: there is one writer at a time."""


class OutboxStore:
    """The statements of the relay, each a short transaction by itself."""

    def __init__(self, database: Database, *, keep_sent: bool = False) -> None:
        self.database = database
        self.keep_sent = keep_sent
        self._reader = Direct(database) if Direct.serves(database) else None
        self._settler = Direct(database) if Direct.serves(database) else None

    @cached_property
    def _tables(self) -> dict[str, str]:
        engine = sync_side(self.database.home.own)
        return {"table": qualified(outbox_table, engine), "sent": qualified(sent_table, engine)}

    @cached_property
    def _settling(self) -> str:
        """The statement that settles on PostgreSQL, straight to the driver."""
        kept, returning = (_DIRECT_KEEP, " RETURNING kept.*") if self.keep_sent else ("", "")
        return (_DIRECT_DELETE + kept + _DIRECT_NUMBER).format(**self._tables, returning=returning)

    @cached_property
    def _pages(self) -> dict[tuple[bool, bool], tuple[str, Sequence[str]]]:
        return {(some, but): self._statement(some, but) for some in (False, True) for but in (False, True)}

    def _statement(self, some: bool, but: bool) -> tuple[str, Sequence[str]]:
        """Make the statement that reads a page, of some buckets or all, of all topics but some; and its parameters."""
        names = [*_PARAMETERS, *(["buckets"] if some else []), *(["but"] if but else [])]
        marks = {name: f"${n}" if self._reader else f":{name}" for n, name in enumerate(names, 1)}
        parts = {"of_buckets": _OF_BUCKETS if some else "", "other_topics": _OF_OTHER_TOPICS if but else ""}
        text = _ON_POSTGRESQL
        for part, condition in parts.items():
            text = text.replace(f"{{{part}}}", condition)
        table = self._tables["table"] if self._reader else self._tables["table"].replace(":", r"\:")
        return text.format(table=table, **marks), names

    async def page(self, place: Place, buckets: Sequence[int], limit: int, room: int) -> Page:
        """Read the next rows of these buckets, in the order of their positions: ``limit`` of them at most.

        It ends early with the row whose payload fills ``room`` bytes. No row comes before one of its key that was
        committed earlier, in this page and those before it, when `Place.unseen` is what those left open.
        """
        kind = len(buckets) < BUCKETS, bool(place.but)
        given: dict[str, Any] = {"after": place.after, "limit": limit, "room": room}
        given |= ({"buckets": list(buckets)} if kind[0] else {}) | ({"but": place.but} if kind[1] else {})
        if self.database.is_sqlite:
            query = _ON_SQLITE[kind]
            return Page(_rows(await self.database.read(lambda connection: connection.execute(query, given).all())))
        unseen = place.unseen
        given |= {"numbers": [*unseen.listed], "lows": [*unseen.listed.values()]}
        given |= {"first": unseen.first, "low": unseen.low, "known": place.known}
        text, names = self._pages[kind]
        if self._reader is not None:
            return _page(await self._reader.fetch(text, *(given[name] for name in names)))
        statement = sa.text(text).columns(*_TYPED)
        return _page(await self.database.read(lambda connection: connection.execute(statement, given).all()))

    async def settle(self, rows: Sequence[Row]) -> int | None:
        """Delete confirmed rows, by message id; where it is cheaper, by position and id.

        Harmless under a lost lease, and when done twice. Gives the number of the transaction, where that is known: it
        has ended, and has written nothing to the outbox.
        """
        ids = [row.message.id for row in rows]
        if self._settler is not None:
            values = [row.position for row in rows], ids, *self._sent_at()
            [(number,)] = await self._settler.fetch(self._settling, *values)
            return int(number)
        if self.keep_sent:
            await self.database.transact(lambda connection: self._keep(connection, ids))
        else:
            await self.database.execute(sa.delete(outbox_table).where(within(outbox_table.c.message_id, ids)))
        return None

    def _sent_at(self) -> list[float]:
        return [self.database.seconds()] if self.keep_sent else []

    def _keep(self, connection: Connection, ids: Sequence[str]) -> None:
        mine = within(outbox_table.c.message_id, ids)
        chosen = sa.select(*(outbox_table.c[name] for name in _READ), self.database.now()).where(mine)
        connection.execute(sa.insert(sent_table).from_select([*_READ, "sent_at"], chosen))
        connection.execute(sa.delete(outbox_table).where(mine))

    async def left(self) -> tuple[int, int, bool]:
        """Say what is not published yet, in all buckets: its lowest and highest position, and whether any retry is due.

        Without anything, the lowest is above every position and the highest below.
        """
        due = sa.exists().where(waiting_table.c.due_at <= self.database.now())
        query = sa.select(sa.func.min(outbox_table.c.position), sa.func.max(outbox_table.c.position), due)
        lowest, highest, is_due = await self.database.read(lambda connection: tuple(connection.execute(query).one()))
        return (1 << 62, 0, bool(is_due)) if lowest is None else (lowest, highest, bool(is_due))

    async def close(self) -> None:
        """Close the connections that are kept for reading and settling."""
        for direct in (self._reader, self._settler):
            if direct is not None:
                await direct.close()


def _page(found: Sequence[Any]) -> Page:
    *_, snapshot, given = found[0]
    return Page(_rows(found if found[0][0] is not None else ()), Snapshot.of(snapshot, given))


def _rows(found: Sequence[Any]) -> list[Row]:
    # The hottest lines of the relay: unpacked by place, because every attribute of an SQL row costs a look-up.
    # A message is a tuple, and made as one: its own constructor takes three times as long.
    rows, new = [], tuple.__new__
    for position, message_id, topic, type_, key, bucket, payload, headers, content_type, occurred_at, _, _ in found:
        told = _NO_HEADERS if headers == "{}" else json.loads(headers)
        message = new(Message, (message_id, topic, type_, payload, key, told, content_type, occurred_at))
        rows.append(Row(position, bucket, message, (topic, "k" + key) if key is not None else ("", message_id)))
    return rows
