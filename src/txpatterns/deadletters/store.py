"""Writing a dead letter, in the transaction that closes its last attempt."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.expression import ColumnElement

from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.messages import Message
from txpatterns.text import without_secrets

_ERROR_LENGTH = 8000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Death:
    """A message that is given up, after so many attempts, and why.

    ``origin`` is the consumer's name, or the position in the outbox of a message that could not be published.
    """

    message: Message
    attempts: int
    reason: str
    error: str
    origin: str | int | None


def bury(connection: Connection, deaths: Sequence[Death], *, now: ColumnElement[datetime]) -> None:
    """Keep messages as dead letters, byte for byte and in this order, in the caller's transaction."""
    if deaths:
        connection.execute(sa.insert(dead_letter_table).values(died_at=now), [_row(death) for death in deaths])


def _row(death: Death) -> dict[str, object]:
    message, origin = death.message, death.origin
    return {
        "consumer": origin if isinstance(origin, str) else None,
        "position": origin if isinstance(origin, int) else None,
        "message_id": message.id,
        "topic": message.topic,
        "type": message.type,
        "key": message.key,
        "payload": message.payload,
        "headers": json.dumps(dict(message.headers)),
        "content_type": message.content_type,
        "occurred_at": message.occurred_at,
        "attempts": death.attempts,
        "reason": death.reason,
        "error": scrub(death.error),
    }


def scrub(error: str) -> str:
    """Shorten an error text, take out control characters and what looks like a secret, and write out half characters.

    What comes of it can be stored: a text that no database takes would fail each time that its message is put away.
    """
    whole = error.encode(errors="backslashreplace").decode()
    return _CONTROL.sub(" ", without_secrets(whole))[:_ERROR_LENGTH]
