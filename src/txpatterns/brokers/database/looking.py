"""What can be seen of the queues: who reads what, how much waits, what a person should look at; and a group's end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.brokers.database.member import scope_of
from txpatterns.brokers.database.schema import queue_table, reader_table
from txpatterns.coordination.schema import member_table
from txpatterns.database import Database
from txpatterns.database.engines import schema_of
from txpatterns.database.queues import MOST
from txpatterns.database.schema import Instant
from txpatterns.findings import Finding, Severity
from txpatterns.text import one_line
from txpatterns.transport import Depth

_LONG = timedelta(days=1)
"""After so long without a member, a group that has messages waiting is told of."""
_row, _reader = queue_table.c, reader_table.c


@dataclass(frozen=True, slots=True)
class Reading:
    """One topic of one group."""

    group: str
    topic: str
    waiting: int
    """Messages that are published and not handled; counted up to 100,000."""
    oldest: timedelta | None
    """How long the oldest of them has waited."""
    members: int
    """Processes that read it now."""
    silent: timedelta
    """How long ago a member was last known to read it, to the hour."""


def readings(connection: Connection, database: Database, group: str | None = None) -> list[Reading]:
    """Look at each topic that a group reads, or every group."""
    now = connection.execute(sa.select(sa.type_coerce(database.now(), Instant))).scalar_one()
    query = sa.select(_reader.consumer_group, _reader.topic, _reader.read_at)
    query = query.order_by(_reader.consumer_group, _reader.topic)
    if group is not None:
        query = query.where(_reader.consumer_group == group)
    return [_reading(connection, now, *found) for found in connection.execute(query)]


def _reading(connection: Connection, now: datetime, group: str, topic: str, read_at: datetime) -> Reading:
    mine = sa.select(_row.published_at).where(_row.consumer_group == group, _row.topic == topic).limit(MOST).subquery()
    figures = sa.select(sa.func.count(), sa.func.min(mine.c.published_at, type_=Instant)).select_from(mine)
    waiting, oldest = connection.execute(figures).one()
    member = member_table.c
    living = sa.select(sa.func.count()).where(member.scope == scope_of(group, topic), member.expires_at > now)
    members = connection.execute(living).scalar_one()
    silent = timedelta(0) if members else now - read_at
    return Reading(group, topic, waiting, None if oldest is None else now - oldest, members, silent)


def depths(connection: Connection, database: Database, topics: Sequence[str], group: str) -> list[Depth]:
    """Say how much waits for a group in these topics."""
    found = readings(connection, database, group)
    return [
        Depth(each.topic, group, each.topic, ready=each.waiting, oldest=each.oldest, readers=each.members)
        for each in found
        if each.topic in topics
    ]


def findings(connection: Connection, database: Database, topics: Sequence[str], group: str | None) -> list[Finding]:
    """Tell of tables that are missing, topics that nobody reads, and queues that grow because nobody runs."""
    schema = schema_of(connection, queue_table)
    if not sa.inspect(connection).has_table(queue_table.name, schema=schema):
        words = f"The table {queue_table.name} is missing."
        return [Finding(Severity.ERROR, "database://", words, "Run: txp db upgrade")]
    found = readings(connection, database)
    read = {each.topic for each in found}
    told = [
        Finding(
            Severity.WARNING,
            f"topic {one_line(topic)}",
            "No group has ever read it: what is published to it waits in the outbox.",
            "Start a consumer of it once.",
        )
        for topic in topics
        if topic not in read
    ]
    for each in found:
        if each.group == group and each.topic not in topics:
            told.append(_not_handled(each))
        elif each.silent > _LONG and each.waiting:
            told.append(_silent(each))
    return told


def _not_handled(each: Reading) -> Finding:
    return Finding(
        Severity.WARNING,
        f"group {one_line(each.group)}",
        f"It gets what is published to {one_line(each.topic)} and has no handler for it: {each.waiting} wait.",
        f"If that is for good: txp group remove {each.group} --topic {each.topic} --reason TEXT",
    )


def _silent(each: Reading) -> Finding:
    return Finding(
        Severity.WARNING,
        f"group {one_line(each.group)}",
        f"Nobody has read {one_line(each.topic)} for it since {each.silent.days} d: {each.waiting} wait.",
        f"Start it; if it has gone for good: txp group remove {each.group} --reason TEXT",
    )


def remove(connection: Connection, group: str, topic: str | None = None) -> tuple[int, int]:
    """End a group, or its reading of one topic, with all that waits for it; says how many topics and messages."""
    of_group = [_reader.consumer_group == group, *([] if topic is None else [_reader.topic == topic])]
    of_rows = [_row.consumer_group == group, *([] if topic is None else [_row.topic == topic])]
    topics = connection.execute(sa.delete(reader_table).where(*of_group)).rowcount
    return topics, connection.execute(sa.delete(queue_table).where(*of_rows)).rowcount


def living(connection: Connection, database: Database, group: str, topic: str | None = None) -> int:
    """Say how many members of a group run now."""
    found = readings(connection, database, group)
    return max([0, *(each.members for each in found if topic in (None, each.topic))])
