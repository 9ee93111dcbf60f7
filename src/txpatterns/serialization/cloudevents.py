"""CloudEvents 1.0: the binary form (attributes in headers) and the structured form (one JSON object)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from txpatterns.errors import DecodeError
from txpatterns.messages import Event, EventType, Message
from txpatterns.serialization.codec import Decoded, Encoded, text_of_id
from txpatterns.serialization.exact_json import from_json, json_of_texts, to_json
from txpatterns.transport import text_of_instant

_STRUCTURED = "application/cloudevents+json"


class _CloudEvents:
    """Reads either form, whichever is written: on one topic there may be both."""

    def __init__(self, source: str) -> None:
        self.source = source

    def decode(self, message: Message) -> Decoded:
        if "ce_specversion" in message.headers and not message.content_type.startswith("application/cloudevents"):
            found: Mapping[str, Any] = {name[3:]: v for name, v in message.headers.items() if name.startswith("ce_")}
            data: object = from_json(message.payload)
        else:
            found = from_json(message.payload)
            data = _data_of(found)
        name, schema = found.get("type"), found.get("dataschema")
        if found.get("specversion") != "1.0" or not isinstance(name, str) or not isinstance(data, dict):
            raise DecodeError(f"Message {message.id} has neither the headers nor the form of a CloudEvent 1.0 in JSON.")
        return Decoded(name, _version(schema if isinstance(schema, str) else None), data, _id_of(found))


class CloudEventsBinary(_CloudEvents):
    """The event's JSON is the body; ``ce_…`` headers carry the attributes (Kafka protocol binding).

    ``source`` names the producer, as a URI reference, for example ``/orders``. The structured form is read as well.
    """

    def encode(self, event: Event, spec: EventType, message_id: str, occurred_at: datetime) -> Encoded:
        attributes = _attributes(self.source, event, spec, message_id, occurred_at)
        return Encoded(to_json(event), "application/json", {f"ce_{n}": v for n, v in attributes.items()})


class CloudEventsStructured(_CloudEvents):
    """Attributes and data in one JSON object, content type ``application/cloudevents+json``.

    ``source`` names the producer, as a URI reference, for example ``/orders``. The binary form is read as well.
    """

    def encode(self, event: Event, spec: EventType, message_id: str, occurred_at: datetime) -> Encoded:
        attributes = _attributes(self.source, event, spec, message_id, occurred_at)
        head = json_of_texts({**attributes, "datacontenttype": "application/json"})
        return Encoded(head[:-1].encode() + b', "data": ' + to_json(event) + b"}", _STRUCTURED)


def _data_of(event: Mapping[str, Any]) -> object:
    """Give the data of the structured form, which may be bytes in base64; here these are JSON again."""
    written = event.get("data_base64")
    if "data" in event or not isinstance(written, str):
        return event.get("data")
    try:
        return from_json(base64.b64decode(written, validate=True))
    except ValueError as error:
        raise DecodeError("The data_base64 of the CloudEvent is no base64.") from error


def _id_of(attributes: Mapping[str, Any]) -> str:
    """Give source and id in one: an id is unique only within its source. A source, as a URI, has no spaces."""
    source, own = attributes.get("source"), text_of_id(attributes.get("id"))
    if not isinstance(source, str) or not own:
        return ""
    return f"{source.replace(' ', '%20')} {own}"


def _attributes(source: str, event: Event, spec: EventType, message_id: str, occurred_at: datetime) -> dict[str, str]:
    found = {
        "specversion": "1.0",
        "id": message_id,
        "source": source,
        "type": spec.type,
        "time": text_of_instant(occurred_at),
        "dataschema": f"urn:txpatterns:{spec.type}:{spec.version}",
    }
    key = event.key_of()
    if key is not None:
        found |= {"subject": key, "partitionkey": key}
    return found


def _version(schema: str | None) -> str:
    return schema.rpartition(":")[2] if schema and schema.startswith("urn:txpatterns:") else "1.0"
