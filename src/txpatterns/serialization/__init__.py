"""How events become bytes and come back: codecs, the registry of types, upcasters for old versions."""

from txpatterns.serialization.cloudevents import CloudEventsBinary, CloudEventsStructured
from txpatterns.serialization.codec import Codec, Decoded, RawCodec
from txpatterns.serialization.envelope import EnvelopeCodec
from txpatterns.serialization.registry import EventRegistry

__all__ = [
    "CloudEventsBinary",
    "CloudEventsStructured",
    "Codec",
    "Decoded",
    "EnvelopeCodec",
    "EventRegistry",
    "RawCodec",
]
