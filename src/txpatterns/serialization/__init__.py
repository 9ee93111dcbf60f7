"""How events become bytes and come back: codecs, the registry of types, upcasters for old versions."""

from txpatterns.serialization.cloudevents import CloudEventsBinary, CloudEventsStructured
from txpatterns.serialization.codec import Codec, Decoded, Encoded, RawCodec
from txpatterns.serialization.envelope import EnvelopeCodec
from txpatterns.serialization.exact_json import from_json, to_json
from txpatterns.serialization.registry import EventRegistry

__all__ = [
    "CloudEventsBinary",
    "CloudEventsStructured",
    "Codec",
    "Decoded",
    "Encoded",
    "EnvelopeCodec",
    "EventRegistry",
    "RawCodec",
    "from_json",
    "to_json",
]
