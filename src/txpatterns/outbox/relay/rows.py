"""One message as the relay has read it, and the lane that it belongs to.

A lane is the messages of one key in one topic; a message without a key is a lane of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from txpatterns.messages import Message, bucket_of

Lane = tuple[str, str]


@dataclass(slots=True)
class Row:
    """One message as it was read, and its place."""

    position: int
    bucket: int
    message: Message
    lane: Lane


def lane_of(message: Message) -> Lane:
    """Give the lane of a message."""
    return (message.topic, "k" + message.key) if message.key is not None else ("", message.id)


def bucket_of_lane(lane: Lane) -> int:
    """Give the bucket that a lane belongs to."""
    topic, name = lane
    return bucket_of(name[1:] if topic else name)
