"""What version 0.1.0 called a message that had come without an id: its place in the broker.

The same message may come once more to this version, which calls it otherwise. Then it is known by its place and by what
it says; by the place alone it is not, because a topic that was made anew has other messages there.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.inbox.entries import Entry
from txpatterns.inbox.schema import inbox_table, inbox_waiting_table
from txpatterns.transport import PLACE


def has_former_name(entry: Entry) -> bool:
    """Whether the message had another id in version 0.1.0."""
    return PLACE in entry.message.headers


def former_values(entry: Entry) -> dict[str, Any]:
    """Give the values of the parameters that the conditions below have."""
    return {
        "consumer": entry.consumer,
        "former_id": entry.message.headers[PLACE],
        "fingerprint": entry.fingerprint,
        "payload": entry.message.payload,
    }


def was_handled() -> sa.Exists:
    """Make the condition that its effect is committed under its former name."""
    inbox = inbox_table.c
    return sa.exists().where(
        inbox.consumer == _text("consumer"),
        inbox.message_id == _text("former_id"),
        inbox.fingerprint == _text("fingerprint"),
    )


def is_stored() -> tuple[sa.Exists, sa.Exists]:
    """Make the conditions that it waits, or is a dead letter, under its former name."""
    waiting, dead = inbox_waiting_table.c, dead_letter_table.c
    return (
        sa.exists().where(
            waiting.consumer == _text("consumer"),
            waiting.message_id == _text("former_id"),
            waiting.fingerprint == _text("fingerprint"),
        ),
        sa.exists().where(
            dead.consumer == _text("consumer"),
            dead.message_id == _text("former_id"),
            dead.payload == sa.bindparam("payload", type_=sa.LargeBinary),
        ),
    )


def _text(name: str) -> sa.BindParameter[str]:
    return sa.bindparam(name, type_=sa.String)
