"""Messages to and from AMQP's form. Strict on the way out, tolerant on the way in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

from txpatterns.messages import Message, new_id
from txpatterns.transport import from_wire, to_wire_headers

SLOT, TAG = "txp-slot", "txp-tag"
"""Headers that say which of the queues a message belongs to, and which of our publications one is that comes back."""
SLOTS = 16

LARGEST_HEADERS = 100_000
"""Bytes: all headers of a message go in one frame of 131,072, and a larger one ends the connection for all."""
_AROUND = 8
"""Bytes that AMQP puts around a header, at most."""


class Properties(Protocol):
    """What AMQP tells of a message beside its body."""

    headers: Mapping[str, object] | None
    content_type: str | None
    message_id: str | None
    type: str | None
    timestamp: object


def slot_of(message: Message) -> int:
    """Say which slot a message belongs to: that of its key, or of its id if it has none."""
    return message.bucket % SLOTS


def headers_of(message: Message, tag: int) -> dict[str, str]:
    """Give all headers under which a message is published."""
    headers = to_wire_headers(message)
    headers[SLOT], headers[TAG] = str(slot_of(message)), str(tag)
    return headers


def refusal_of(message: Message, largest: int) -> str | None:
    """Say why a message cannot be carried, if that is so."""
    if len(message.payload) > largest or message.size > largest:
        return f"The message has {message.size} bytes, {largest} are allowed."
    if message.size - len(message.payload) + _AROUND * len(message.headers) > LARGEST_HEADERS:
        return f"The headers have more than {LARGEST_HEADERS} bytes together."
    return None


def from_amqp(topic: str, body: bytes, properties: Properties) -> Message:
    """Make a message of what came: of ours, or of a producer that knows nothing of this library.

    AMQP's own properties count where our headers are missing. A message without any id gets a new one each time that
    it comes: nothing else tells two that look alike apart.
    """
    headers = {name: as_text(value) for name, value in (properties.headers or {}).items()}
    for name, found in (
        ("message-id", properties.message_id),
        ("message-type", properties.type),
        ("content-type", properties.content_type),
        ("occurred-at", _instant(properties.timestamp)),
    ):
        if found and name not in headers:
            headers[name] = as_text(found)
    return from_wire(topic, body, headers, fallback_id="" if headers.get("message-id") else new_id())


def as_text(value: object) -> str:
    """Read a header's value: it may be a number, a time, a table, a list. NUL, which databases refuse, is escaped."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bytes):
        text = value.decode("utf-8", "backslashreplace")
    elif isinstance(value, datetime):
        text = _instant(value)
    else:
        text = "" if value is None else str(value)
    return text if "\0" not in text else text.replace("\0", "\\x00")


def _instant(value: object) -> str:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, int) and value:
        try:
            return datetime.fromtimestamp(value, UTC).isoformat()
        except (ValueError, OverflowError, OSError):  # a producer may write any number
            return ""
    return ""
