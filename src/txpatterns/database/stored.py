"""A message as any of our tables keeps it."""

from __future__ import annotations

import json

from sqlalchemy.engine import RowMapping

from txpatterns.messages import Message


def message_of(row: RowMapping) -> Message:
    """Make the message that a row holds, byte for byte."""
    return Message(
        id=row["message_id"],
        topic=row["topic"],
        type=row["type"],
        payload=row["payload"],
        key=row["key"],
        headers=json.loads(row["headers"]),
        content_type=row["content_type"],
        occurred_at=row["occurred_at"],
    )
