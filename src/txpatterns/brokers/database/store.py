"""The statements of the database as a broker, each a transaction by itself."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.brokers.database.schema import PARTS, queue_table, reader_table
from txpatterns.coordination.wakeup import CHANNEL
from txpatterns.database import Database
from txpatterns.database.dialects import insert_into, now_on_postgresql, within
from txpatterns.database.direct import Direct
from txpatterns.database.engines import qualified, sync_side
from txpatterns.messages import Message

NEWS = "queue"
"""The word that says: something was published to a group."""
Part = tuple[str, int]
"""A topic, and a part of its keys."""

_LOCK = 7431
"""Publications come one after the other, so that their rows become visible in the order of their positions: who has
read up to one has missed nothing before it."""
_CARRIED = ("message_id", "topic", "type", "key", "payload", "headers", "content_type", "occurred_at", "part")
_READ = ("position", *_CARRIED)
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_row, _reader = queue_table.c, reader_table.c

_PARAMETER = re.compile(r"\$(\d+)::(\w+(?:\[\])?)")
"""One of the driver's own, with its type."""
_TURN = "pg_advisory_xact_lock({lock})"
_PUBLISH = (
    "WITH turn AS MATERIALIZED (SELECT {turn}, pg_notify('{channel}', '{news}')), "
    "sent AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], "
    "$6::text[], $7::text[], $8::timestamptz[], $9::smallint[]) WITH ORDINALITY AS one({columns}, number)), "
    "stored AS (INSERT INTO {queue} (consumer_group, {columns}, published_at) "
    "SELECT reader.consumer_group, {of_sent}, {now} FROM turn, sent "
    "JOIN {reader} AS reader ON reader.topic = sent.topic ORDER BY sent.number) "
    "SELECT DISTINCT topic FROM sent WHERE NOT EXISTS (SELECT FROM {reader} AS reader WHERE reader.topic = sent.topic)"
)
_PAGE = (
    "SELECT {columns} FROM (SELECT *, sum(length(payload)) OVER (ORDER BY position) - length(payload) AS before "
    "FROM (SELECT {columns} FROM {queue} WHERE consumer_group = $1 AND position > $2{of_parts} "
    "ORDER BY position LIMIT $3) AS page) AS measured WHERE before < $4 ORDER BY position"
)
_OF_TOPICS = " AND topic = ANY($5::text[])"
_OF_PARTS = " AND (topic, part) IN (SELECT * FROM unnest($5::text[], $6::smallint[]))"
_SETTLE = "DELETE FROM {queue} WHERE position = ANY($1::bigint[])"


@dataclass(frozen=True, slots=True)
class Row:
    """One message of one group."""

    position: int
    part: Part
    message: Message


class _Turns:
    """A kept connection whose statements come one after the other, whoever asks for them."""

    def __init__(self, database: Database) -> None:
        self._direct = Direct(database)
        self._lock = asyncio.Lock()

    async def fetch(self, statement: str, *values: object) -> Sequence[Any]:
        async with self._lock:
            return await self._direct.fetch(statement, *values)

    async def close(self) -> None:
        await self._direct.close()


class QueueStore:
    """Reads and writes the queues of all groups in one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        direct = Direct.serves(database)
        self._publisher, self._reader, self._settler = (_Turns(database) if direct else None for _ in range(3))

    @cached_property
    def _texts(self) -> dict[str, str]:
        engine = sync_side(self.database.home.own)
        names = {"queue": qualified(queue_table, engine), "reader": qualified(reader_table, engine)}
        publish = _PUBLISH.format(
            **names,
            turn=_TURN.format(lock=_LOCK),
            channel=CHANNEL,
            news=NEWS,
            columns=", ".join(_CARRIED),
            of_sent=", ".join(f"sent.{name}" for name in _CARRIED),
            now=now_on_postgresql("$10::float"),
        )
        pages = {
            f"page of {which}": _PAGE.format(**names, columns=", ".join(_READ), of_parts=condition)
            for which, condition in (("topics", _OF_TOPICS), ("parts", _OF_PARTS))
        }
        return {"publish": publish, **pages, "settle": _SETTLE.format(**names)}

    async def declare(self, declared: Mapping[str, Collection[str]]) -> None:
        """Make sure that each group gets what is published to its topics from now on, and note that it is read."""

        def work(connection: Connection) -> None:
            now = self.database.now()
            statement = insert_into(reader_table, on_sqlite=self.database.is_sqlite)
            statement = statement.on_conflict_do_update(
                index_elements=["topic", "consumer_group"], set_={"read_at": now}
            )
            for topic, group in sorted((topic, group) for group, topics in declared.items() for topic in topics):
                connection.execute(statement.values(topic=topic, consumer_group=group, declared_at=now, read_at=now))

        await self.database.transact(work)

    async def publish(self, messages: Sequence[Message]) -> set[str]:
        """Store a copy for every group of each message's topic, all or none; gives the topics that have no group."""
        if self._publisher is not None:
            rows = [_stored(message) for message in messages]
            columns = [list(column) for column in zip(*rows, strict=True)]
            found = await self._publisher.fetch(self._texts["publish"], *columns, self.database.seconds())
            return {topic for (topic,) in found}
        return await self.database.transact(lambda connection: self.store(connection, messages), single=True)

    def store(self, connection: Connection, messages: Sequence[Message]) -> set[str]:
        """Do what ``publish`` does, in a transaction of the library's own, which should end soon.

        On PostgreSQL it is one statement: a process that is stopped between two would keep its turn from all others.
        """
        rows = [_stored(message) for message in messages]
        if not self.database.is_sqlite:
            values = [*(list(column) for column in zip(*rows, strict=True)), self.database.seconds()]
            named = {f"given_{number}": value for number, value in enumerate(values, 1)}
            statement = sa.text(_PARAMETER.sub(r"CAST(:given_\1 AS \2)", self._texts["publish"]))
            return set(connection.execute(statement, named).scalars())
        topics = {message.topic for message in messages}
        query = sa.select(_reader.topic, _reader.consumer_group).where(within(_reader.topic, topics))
        groups: dict[str, list[str]] = {}
        for topic, group in connection.execute(query):
            groups.setdefault(topic, []).append(group)
        copies = [
            {"consumer_group": group, **dict(zip(_CARRIED, row, strict=True))}
            for row in rows
            for group in groups.get(row[1], ())
        ]
        if copies:
            moment = connection.execute(sa.select(sa.type_coerce(self.database.now(), _row.published_at.type))).scalar()
            connection.execute(sa.insert(queue_table), [{**copy, "published_at": moment} for copy in copies])
        return topics - set(groups)

    async def page(
        self, group: str, parts: Sequence[Part], whole: bool, after: int, limit: int, room: int
    ) -> list[Row]:
        """Read what comes next behind a position, in order; ends early with the row that fills ``room`` bytes.

        ``whole``: these are all parts of their topics.
        """
        topics = [topic for topic, _ in parts]
        if self._reader is not None:
            of_parts: list[Any] = [sorted(set(topics))] if whole else [topics, [number for _, number in parts]]
            text = self._texts["page of topics" if whole else "page of parts"]
            return _rows(await self._reader.fetch(text, group, after, limit, room, *of_parts))
        chosen = within(_row.topic, set(topics))
        if not whole:
            pairs = [f"{number} {topic}" for topic, number in parts]
            chosen = sa.and_(chosen, (sa.cast(_row.part, sa.String) + " " + _row.topic).in_(pairs))
        page = sa.select(*(_row[name] for name in _READ)).where(
            _row.consumer_group == group, _row.position > after, chosen
        )
        read = page.order_by(_row.position).limit(limit).subquery()
        size = sa.func.length(read.c.payload)
        before = (sa.func.sum(size).over(order_by=read.c.position, rows=(None, 0)) - size).label("before")
        measured = sa.select(read, before).subquery()
        query = sa.select(*(measured.c[name] for name in _READ)).where(measured.c.before < room)
        query = query.order_by(measured.c.position)
        return _rows(await self.database.read(lambda connection: connection.execute(query).all()))

    async def settle(self, positions: Sequence[int]) -> None:
        """Forget what was handled. Harmless when done twice, and by whom the message is no longer with."""
        if self._settler is not None:
            await self._settler.fetch(self._texts["settle"], positions)
        else:
            await self.database.execute(sa.delete(queue_table).where(_row.position.in_(positions)))

    async def close(self) -> None:
        """Close the connections that are kept."""
        for kept in (self._publisher, self._reader, self._settler):
            if kept is not None:
                await kept.close()


def _stored(message: Message) -> tuple[Any, ...]:
    """Give the values of ``_CARRIED``. Raises ValueError where a text cannot be stored as it is."""
    message_id, topic, type_, key, *_ = message.id, message.topic, message.type, message.key
    for text in (message_id, topic, type_, key or "", message.content_type):
        text.encode()
        if "\x00" in text:
            raise ValueError("a zero character cannot be stored in a text")
    headers = json.dumps(dict(message.headers)) if message.headers else "{}"
    return (
        message_id,
        topic,
        type_,
        key,
        message.payload,
        headers,
        message.content_type,
        message.occurred_at,
        message.bucket % PARTS,
    )


def _rows(found: Sequence[Any]) -> list[Row]:
    rows = []
    for position, message_id, topic, type_, key, payload, headers, content_type, occurred_at, part in found:
        told = _NO_HEADERS if headers == "{}" else json.loads(headers)
        message = Message(message_id, topic, type_, payload, key, told, content_type, occurred_at)
        rows.append(Row(position, (topic, part), message))
    return rows
