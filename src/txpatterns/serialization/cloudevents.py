"""CloudEvents 1.0: the binary form (attributes in headers) and the structured form (one JSON object)."""

from __future__ import annotations

import json
from datetime import datetime

from txpatterns.errors import DecodeError
from txpatterns.messages import Event, EventType, Message
from txpatterns.serialization.codec import Decoded, Encoded, from_json, to_json

_STRUCTURED = "application/cloudevents+json"


class CloudEventsBinary:
    """The event's JSON is the body; ``ce_…`` headers carry the attributes (Kafka protocol binding).

    ``source`` names the producer, as a URI reference, for example ``/orders``.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def encode(self, event: Event, spec: EventType, message_id: str, occurred_at: datetime) -> Encoded:
        attributes = _attributes(self.source, event, spec, message_id, occurred_at)
        return Encoded(to_json(event), "application/json", {f"ce_{n}": v for n, v in attributes.items()})

    def decode(self, message: Message) -> Decoded:
        name = message.headers.get("ce_type")
        if name is None or message.headers.get("ce_specversion") != "1.0":
            raise DecodeError(f"Message {message.id} has no CloudEvents 1.0 headers.")
        return Decoded(name, _version(message.headers.get("ce_dataschema")), from_json(message.payload))


class CloudEventsStructured:
    """Attributes and data in one JSON object, content type ``application/cloudevents+json``."""

    def __init__(self, source: str) -> None:
        self.source = source

    def encode(self, event: Event, spec: EventType, message_id: str, occurred_at: datetime) -> Encoded:
        attributes = _attributes(self.source, event, spec, message_id, occurred_at)
        head = json.dumps({**attributes, "datacontenttype": "application/json"})
        return Encoded(head[:-1].encode() + b', "data": ' + to_json(event) + b"}", _STRUCTURED)

    def decode(self, message: Message) -> Decoded:
        found = from_json(message.payload)
        name, data, schema = found.get("type"), found.get("data"), found.get("dataschema")
        if found.get("specversion") != "1.0" or not isinstance(name, str) or not isinstance(data, dict):
            raise DecodeError(f"Message {message.id} is not a CloudEvents 1.0 object with JSON data.")
        return Decoded(name, _version(schema if isinstance(schema, str) else None), data)


def _attributes(source: str, event: Event, spec: EventType, message_id: str, occurred_at: datetime) -> dict[str, str]:
    found = {
        "specversion": "1.0",
        "id": message_id,
        "source": source,
        "type": spec.type,
        "time": occurred_at.isoformat(),
        "dataschema": f"urn:txpatterns:{spec.type}:{spec.version}",
    }
    key = event.key_of()
    if key is not None:
        found |= {"subject": key, "partitionkey": key}
    return found


def _version(schema: str | None) -> str:
    return schema.rpartition(":")[2] if schema and schema.startswith("urn:txpatterns:") else "1.0"
