"""The shape of a codec, and the plainest one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from txpatterns.messages import Event, EventType, Message
from txpatterns.serialization.exact_json import from_json, to_json


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a codec makes of an event."""

    payload: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a codec reads out of a message: the event's fields, still unchecked, and what names them."""

    type: str
    version: str
    fields: Mapping[str, Any]
    id: str = ""
    """The message's id, where the format has one: it names the messages of producers who send no ``message-id``."""


def text_of_id(own: object) -> str:
    """Give an id as text: some producers write a number. Empty where there is none."""
    if isinstance(own, int) and not isinstance(own, bool):
        return str(own)
    return own if isinstance(own, str) else ""


@runtime_checkable
class Codec(Protocol):
    """Turns an event into bytes, and bytes into the fields of an event. Which one is a matter of set-up."""

    def encode(self, event: Event, spec: EventType, message_id: str, occurred_at: datetime) -> Encoded:
        """Make the bytes that are stored and sent. Raises PayloadInvalid where something would be lost."""

    def decode(self, message: Message) -> Decoded:
        """Read what ``encode`` wrote. Raises DecodeError."""


class RawCodec:
    """Only the event's own JSON; type and version travel in headers."""

    def encode(self, event: Event, spec: EventType, message_id: str, occurred_at: datetime) -> Encoded:
        return Encoded(to_json(event), "application/json", {"schema-version": spec.version})

    def decode(self, message: Message) -> Decoded:
        version = message.headers.get("schema-version", "1.0")
        return Decoded(message.type, version, from_json(message.payload))
