"""Writing a dead letter, in the transaction that closes its last attempt."""

from __future__ import annotations

import json
import re
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.expression import ColumnElement

from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.messages import Message
from txpatterns.text import without_secrets

_ERROR_LENGTH = 8000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def bury(
    connection: Connection,
    message: Message,
    *,
    now: ColumnElement[datetime],
    attempts: int,
    reason: str,
    error: str,
    origin: str | int | None,
) -> None:
    """Keep a message as a dead letter, byte for byte, in the caller's transaction.

    ``origin`` is the consumer's name, or the position in the outbox of a message that could not be published.
    """
    connection.execute(
        sa.insert(dead_letter_table).values(
            consumer=origin if isinstance(origin, str) else None,
            position=origin if isinstance(origin, int) else None,
            message_id=message.id,
            topic=message.topic,
            type=message.type,
            key=message.key,
            payload=message.payload,
            headers=json.dumps(dict(message.headers)),
            content_type=message.content_type,
            occurred_at=message.occurred_at,
            attempts=attempts,
            reason=reason,
            error=scrub(error),
            died_at=now,
        )
    )


def scrub(error: str) -> str:
    """Shorten an error text, take out control characters and what looks like a secret, and write out half characters.

    What comes of it can be stored: a text that no database takes would fail each time that its message is put away.
    """
    whole = error.encode(errors="backslashreplace").decode()
    return _CONTROL.sub(" ", without_secrets(whole))[:_ERROR_LENGTH]
