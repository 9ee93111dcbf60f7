"""What an operator does with the groups of database://: end one that is gone for good, and see who ended which."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.admin.audit import Deed
from txpatterns.admin.hands import need_tables, written_down
from txpatterns.brokers.database.looking import living, remove
from txpatterns.brokers.database.schema import QUEUE_TABLES, queue_audit_table
from txpatterns.database import Database
from txpatterns.errors import ConfigurationError

_audit = queue_audit_table.c


@dataclass(frozen=True, slots=True)
class GroupDeed:
    """What an operator did to a group: to one topic of it, or to all where ``topic`` is None."""

    done_at: datetime
    who: str
    action: str
    reason: str
    group: str
    topic: str | None
    topics: int
    messages: int
    """How many waited for it, and are lost."""


async def remove_group(database: Database, group: str, topic: str | None, deed: Deed) -> tuple[int, int]:
    """End a group, or its reading of one topic, with all that waits for it; says how many topics and messages.

    What is done is written down in the same transaction. Where there is no such group nothing is done or written.

    Raises:
        ConfigurationError: the group runs; nothing was changed.
        SchemaError: there are no tables of database://, or none to write it down.
    """
    return await database.transact(partial(_remove, database=database, group=group, topic=topic, deed=deed))


def _remove(connection: Connection, database: Database, group: str, topic: str | None, deed: Deed) -> tuple[int, int]:
    need_tables(connection, (*QUEUE_TABLES, queue_audit_table.name))
    if living(connection, database, group, topic):
        raise ConfigurationError(f"The group {group} runs.", fix="Stop its processes first.")
    topics, messages = remove(connection, group, topic)
    if topics or messages:
        row = {**written_down(database, deed, "remove"), "consumer_group": group, "topic": topic}
        connection.execute(sa.insert(queue_audit_table).values({**row, "topics": topics, "messages": messages}))
    return topics, messages


def read_group_audit(connection: Connection, limit: int = 50) -> list[GroupDeed]:
    """List what was done to groups, the newest first.

    Raises:
        SchemaError: there is no table of it.
    """
    need_tables(connection, (queue_audit_table.name,))
    columns = [
        _audit.consumer_group.label("group") if name == "group" else _audit[name] for name in GroupDeed.__slots__
    ]
    query = sa.select(*columns).order_by(_audit.id.desc()).limit(limit)
    return [GroupDeed(**row) for row in connection.execute(query).mappings()]
