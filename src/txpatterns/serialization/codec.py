"""The shape of a codec, the plainest one, and strict JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from pydantic_core import PydanticSerializationError

from txpatterns.errors import DecodeError, PayloadInvalid
from txpatterns.messages import Event, EventType, Message

# A model inside an event may have a configuration of its own, by which NaN is written as null.
_SUSPECT = re.compile(rb"[:\[,]\s*(?:-?(?:\d{16}|NaN|Infinity)|null)")
_LARGEST_EXACT = 2**53


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


def to_json(event: Event) -> bytes:
    """Write an event as JSON in which nothing is lost: no integer above 2**53 as a bare number, no NaN.

    Raises:
        PayloadInvalid: the event cannot be written so.
    """
    try:
        payload = event.__pydantic_serializer__.to_json(event)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise PayloadInvalid(f"{type(event).__name__} cannot be written as JSON: {error}") from error
    if _SUSPECT.search(payload) and _has_inexact_number(event.__pydantic_serializer__.to_python(event, mode="json")):
        raise PayloadInvalid(
            f"{type(event).__name__} holds a number that JSON readers do not read exactly: "
            "an integer above 2**53, NaN or an infinity."
        )
    return payload


def from_json(payload: bytes) -> Mapping[str, Any]:
    """Read a JSON object. Raises DecodeError for anything else, deep nesting and huge numbers included."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"The payload is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DecodeError("The payload is not a JSON object.")
    return found


def _has_inexact_number(value: object) -> bool:
    match value:
        case dict():
            return any(map(_has_inexact_number, value.values()))
        case list():
            return any(map(_has_inexact_number, value))
        case bool():
            return False
        case float():
            return not math.isfinite(value)
        case int():
            return abs(value) > _LARGEST_EXACT
    return False
