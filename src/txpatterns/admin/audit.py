"""What operators did to messages: who, when, to which, and why. Written in the transaction of the deed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.expression import ColumnElement

from txpatterns.database.engines import schema_of
from txpatterns.database.schema import BigIdentity, Instant, metadata
from txpatterns.deadletters.letter import DeadLetter
from txpatterns.deadletters.store import scrub
from txpatterns.errors import SchemaError

audit_table = sa.Table(
    "txp_audit",
    metadata,
    sa.Column("id", BigIdentity, sa.Identity(), primary_key=True),
    sa.Column("done_at", Instant, nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("action", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, comment="why, in the operator's words"),
    sa.Column("dead_letter", sa.BigInteger, nullable=False, comment="the id that it had"),
    sa.Column("consumer", sa.String(200), comment="who could not handle it; NULL: it could not be published"),
    sa.Column("message_id", sa.String(200), nullable=False),
    sa.Column("topic", sa.String(200), nullable=False),
    sa.Column("type", sa.String(200), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("died_of", sa.String(50), nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sqlite_autoincrement=True,
    comment="what operators did to dead letters; it holds no payload and no key",
)


class Action(StrEnum):
    """What can be done to a dead letter."""

    RETRY = "retry"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Deed:
    """Who does it, and why."""

    who: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One deed, with what the dead letter was."""

    id: int
    done_at: datetime
    who: str
    action: str
    reason: str | None
    dead_letter: int
    consumer: str | None
    message_id: str
    topic: str
    type: str
    attempts: int
    died_of: str
    error: str


def refuse_without_audit(connection: Connection) -> None:
    """Refuse to act where it could not be written down.

    Raises:
        SchemaError: the tables are those of the release before.
    """
    if not sa.inspect(connection).has_table(audit_table.name, schema=schema_of(connection)):
        raise SchemaError("The table txp_audit is missing, in which this would be written down.")


def write_down(
    connection: Connection, action: Action, deed: Deed, letter: DeadLetter, now: ColumnElement[datetime]
) -> None:
    """Note a deed, in the transaction that does it."""
    connection.execute(
        sa.insert(audit_table).values(
            done_at=now,
            who=scrub(deed.who)[:200],
            action=action,
            reason=None if deed.reason is None else scrub(deed.reason),
            dead_letter=letter.id,
            consumer=letter.consumer,
            message_id=letter.message_id,
            topic=letter.topic,
            type=letter.type,
            attempts=letter.attempts,
            died_of=letter.reason,
            error=letter.error,
        )
    )


def read_audit(connection: Connection, *, message_id: str | None = None, limit: int = 50) -> list[AuditEntry]:
    """List what was done, the newest first; to one message only, where its id is given."""
    if not sa.inspect(connection).has_table(audit_table.name, schema=schema_of(connection)):
        return []
    query = sa.select(*audit_table.columns).order_by(audit_table.c.id.desc()).limit(limit)
    if message_id is not None:
        query = query.where(audit_table.c.message_id == message_id)
    return [AuditEntry(**row) for row in connection.execute(query).mappings()]
