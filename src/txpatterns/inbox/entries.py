"""A message as one consumer sees it: its lane, its fingerprint, and in a form that a database can hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from txpatterns import text
from txpatterns.messages import LONGEST_ID, Message


@dataclass(frozen=True, slots=True)
class Entry:
    """One message for one consumer."""

    consumer: str
    message: Message
    lane: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class WaitingEntry:
    """A message that waits in the database, as it was when its attempt began."""

    id: int
    entry: Entry
    attempts: int
    state: str


def entry_of(consumer: str, message: Message) -> Entry:
    """Describe a message for a consumer."""
    return Entry(consumer, message, lane_of(message.topic, message.key, message.id), fingerprint_of(message))


def lane_of(topic: str, key: str | None, message_id: str) -> str:
    """Name what is handled in order: the messages of one topic and key. One without a key has a lane of its own."""
    if key is None:
        return solitary_lane(topic, message_id)
    return _digest("key", topic, key)


def solitary_lane(topic: str, message_id: str) -> str:
    """Name the lane that holds only this message: it waits for nothing and nothing waits for it."""
    return _digest("message", topic, message_id)


def fingerprint_of(message: Message) -> str:
    """Give a digest of what a message says, to tell a repeat from another message under the same id."""
    digest = hashlib.blake2b(message.payload, digest_size=16)
    for part in (message.type, message.key):
        digest.update(b"\x00" if part is None else b"\x01" + part.encode())
    return digest.hexdigest()


def storable(message: Message) -> Message:
    """Give the message as a database can hold it; the same object when it was so already.

    Texts from outside may be too long, hold NUL or half of a surrogate pair; stored as they are they would fail
    every transaction, for ever. What is cut keeps a digest, so that two of them stay two.
    """
    clean = message._replace(
        id=text.storable(message.id, LONGEST_ID),
        type=text.storable(message.type, 200),
        content_type=text.storable(message.content_type, 100),
        key=None if message.key is None else text.storable(message.key),
    )
    return message if clean == message else clean


def _digest(*parts: str) -> str:
    # Lengths go in, so that no two lists of parts read the same.
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(joined.encode(errors="surrogatepass"), digest_size=16).hexdigest()
