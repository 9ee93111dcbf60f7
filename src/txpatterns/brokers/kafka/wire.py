"""Messages to and from Kafka's form. Strict on the way out, tolerant on the way in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE
from confluent_kafka import Message as KafkaMessage

from txpatterns.messages import TOMBSTONE, Message
from txpatterns.transport import from_wire

Header = tuple[str, str | bytes | None]


def from_kafka(found: KafkaMessage) -> Message:
    """Make a message of a record, whoever wrote it.

    Its id is the header, or topic/partition/offset; its key the header, or the record's key as text; its time the
    header, or, where there is no id either, the record's. A key without a value is a tombstone.
    """
    topic = found.topic() or ""
    try:
        headers = found.headers()
    except UnicodeDecodeError:  # a header's name that is not UTF-8 spoils the whole list
        headers = None
    named = tolerant(headers or ())  # type: ignore[arg-type]  # what was received is never a dict
    if "ordering-key" not in named and (key := found.key()) is not None:
        named["ordering-key"] = as_text(key)
    value = found.value()
    if value is None and "ordering-key" in named:
        named["content-type"] = TOMBSTONE
    fallback_id = ""
    if not named.get("message-id"):
        fallback_id = f"{topic}/{found.partition()}/{found.offset()}"
        named.setdefault("occurred-at", _stored_at(found))
    return from_wire(topic, value or b"", named, fallback_id=fallback_id)


def value_of(message: Message) -> bytes | None:
    """Give the value of a message's record: none is how Kafka has a tombstone."""
    return None if message.is_tombstone else message.payload


def _stored_at(found: KafkaMessage) -> str:
    kind, milliseconds = found.timestamp()
    if kind == TIMESTAMP_NOT_AVAILABLE:
        return ""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # a producer may write any number
        return ""


def tolerant(headers: Sequence[Header]) -> dict[str, str]:
    """Give headers as text: the last of a name counts, none is empty, and odd bytes are written out."""
    try:
        named = {name: value.decode() for name, value in headers}  # type: ignore[union-attr]  # the usual, at once
    except (AttributeError, UnicodeDecodeError):
        named = {name: as_text(value) for name, value in headers}
    return named if "\0" not in "".join(named.values()) else {name: as_text(text) for name, text in named.items()}


def as_text(value: str | bytes | None) -> str:
    """Read bytes as UTF-8; what is not, and NUL, which databases refuse, is written as an escape."""
    if value is None:
        return ""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    return text if "\0" not in text else text.replace("\0", "\\x00")
