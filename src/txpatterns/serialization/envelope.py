"""The default wire form: an envelope of six fields around the event's own JSON."""

from __future__ import annotations

from datetime import datetime

from txpatterns.errors import DecodeError
from txpatterns.messages import Event, EventType, Message
from txpatterns.serialization.codec import Decoded, Encoded, text_of_id
from txpatterns.serialization.exact_json import from_json, quoted, to_json
from txpatterns.transport import text_of_instant


class EnvelopeCodec:
    """``event_type, event_id, occurred_at, aggregate_id, schema_version, payload``, as one JSON object."""

    def encode(self, event: Event, spec: EventType, message_id: str, occurred_at: datetime) -> Encoded:
        key = event.key_of()
        head = (
            f'{{"event_type":{quoted(spec.type)},"event_id":{quoted(message_id)},'
            f'"occurred_at":"{text_of_instant(occurred_at)}","aggregate_id":{"null" if key is None else quoted(key)},'
            f'"schema_version":{quoted(spec.version)},"payload":'
        )
        return Encoded(head.encode() + to_json(event) + b"}", "application/json")

    def decode(self, message: Message) -> Decoded:
        envelope = from_json(message.payload)
        fields = envelope.get("payload")
        name, version = envelope.get("event_type"), envelope.get("schema_version", "1.0")
        if not isinstance(fields, dict) or not isinstance(name, str) or not isinstance(version, str):
            raise DecodeError(f"Message {message.id} is not an envelope with event_type and payload.")
        return Decoded(name, version, fields, text_of_id(envelope.get("event_id")))
