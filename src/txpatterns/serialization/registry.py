"""Which class reads which message type, and how old versions become new ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from txpatterns.errors import ConfigurationError, DecodeError, EventDefinitionError, PayloadInvalid, UnknownType
from txpatterns.messages import LONGEST_ID, TOMBSTONE, Event, EventType, Message, describe, written_as
from txpatterns.serialization.cloudevents import CloudEventsBinary, CloudEventsStructured
from txpatterns.serialization.codec import Codec, Decoded, Encoded, RawCodec
from txpatterns.serialization.envelope import EnvelopeCodec
from txpatterns.serialization.exact_json import brief, event_of, refuse_another
from txpatterns.text import storable
from txpatterns.transport import Place, named_by_place

Upcaster = Callable[[Mapping[str, Any]], Mapping[str, Any]]

_READ_BACK = (EnvelopeCodec, RawCodec, CloudEventsBinary, CloudEventsStructured)
"""Codecs that read back what they have written; of others that is done here."""
_NOBODYS = "(tombstone)"
"""The type of a tombstone on a topic without a class for it: nobody handles it."""


@dataclass(frozen=True, slots=True)
class _Upcast:
    to_version: str
    change: Upcaster


class EventRegistry:
    """The event classes of one application, by wire type and topic, with the codec that reads and writes them.

    Only registered classes are ever made of incoming bytes: nothing in a message can name other code.
    """

    def __init__(self, codec: Codec | None = None) -> None:
        if codec is not None and (isinstance(codec, type) or not isinstance(codec, Codec)):
            raise ConfigurationError(
                f"{codec!r} is no codec: it has no encode and decode to call.",
                fix='Give an object, for example CloudEventsBinary(source="/orders").',
            )
        self.codec: Codec = codec or EnvelopeCodec()
        self._specs: dict[type[Event], EventType] = {}
        self._classes: dict[str, dict[str, type[Event]]] = {}
        """By type, and then by topic: one type may stand for another class on each topic."""
        self._tombstones: dict[str, type[Event]] = {}
        self._upcasters: dict[tuple[str, str], _Upcast] = {}

    def register(self, event: type[Event]) -> EventType:
        """Make a class known by its type and topic. The same class twice is harmless.

        Raises:
            EventDefinitionError: another class has this type on this topic already, the class has no type, or a field
                of it could not be read back.
        """
        spec = self._specs.get(event)
        if spec is None:
            spec = describe(event)
            if event.__pydantic_complete__:
                written_as(event)
            _keep(self._classes.setdefault(spec.type, {}), spec, event, f"{spec.type!r} is the type")
            if spec.tombstone:
                _keep(self._tombstones, spec, event, "a tombstone is the sign")
            self._specs[event] = spec
        return spec

    def upcast(self, type_: str, *, from_version: str, to_version: str) -> Callable[[Upcaster], Upcaster]:
        """Register, as a decorator, the change from one version's fields to the next version's."""

        def keep(change: Upcaster) -> Upcaster:
            if (type_, from_version) in self._upcasters:
                raise EventDefinitionError(f"{type_} {from_version} has an upcaster already.")
            self._upcasters[type_, from_version] = _Upcast(to_version, change)
            return change

        return keep

    def take_in(self, other: EventRegistry) -> None:
        """Know all that another registry knows, its upcasters included, and read and write with its codec."""
        self.codec = other.codec
        for event in other._specs:
            self.register(event)
        self._upcasters.update(other._upcasters)

    @property
    def types(self) -> list[str]:
        """The wire types that can be read, sorted."""
        return sorted(self._classes)

    def knows(self, type_: str) -> bool:
        """Say whether a class reads this wire type."""
        return type_ in self._classes

    @property
    def topics(self) -> set[str]:
        """The topics of all events that are known."""
        return {topic for by_topic in self._classes.values() for topic in by_topic}

    def topics_of(self, type_: str) -> list[str]:
        """Give the topics that a wire type has a class for, sorted."""
        return sorted(self._classes.get(type_, ()))

    def find(self, type_: str, topic: str | None = None) -> type[Event] | None:
        """Give the class that reads this wire type on this topic; where the type has one class only, that one."""
        by_topic = self._classes.get(type_, {})
        found = None if topic is None else by_topic.get(topic)
        return next(iter(by_topic.values())) if found is None and len(by_topic) == 1 else found

    def encode(self, event: Event, message_id: str, occurred_at: datetime) -> Encoded:
        """Make the bytes of an event.

        Raises:
            PayloadInvalid: something would be lost, or would come back as something else.
        """
        spec = self.register(type(event))
        return _tombstone(event) if spec.tombstone else self.codec.encode(event, spec, message_id, occurred_at)

    def read_back(self, event: Event, message: Message) -> None:
        """Make sure that a message just encoded is read as the same event, whatever its codec is.

        Raises:
            PayloadInvalid: it is not.
        """
        if type(self.codec) in _READ_BACK:
            return
        try:
            read = self.read(message)
        except DecodeError as error:
            raise PayloadInvalid(
                f"{type(self.codec).__name__} cannot read what it has written: {error.message}",
                fix="Let decode read what encode writes.",
            ) from error
        refuse_another(event, read)

    def named(self, message: Message) -> Message:
        """Give a message of a producer who knows nothing of this library the id and the type that its body has.

        A broker's place is no id while the body has one: a producer that repeats itself uses two places. A type in a
        header gives way when no class has it, and a class has that of the body; but not where headers and body have
        the same id, because whoever writes both knows what the headers mean. The type of a tombstone is that of its
        topic's class. What cannot be decoded keeps its type: reading it says why.
        """
        if message.is_tombstone:
            known = self._tombstones.get(message.topic)
            type_, own = _NOBODYS if known is None else describe(known).type, ""
        elif message.type in self._classes and not isinstance(message.id, Place):
            return message
        else:
            told = self._decoded(message)
            type_, own = ("", "") if told is None else (told.type, told.id)
            is_sure = message.type in self._classes or type_ not in self._classes or own == message.id
            if message.type and is_sure:
                type_ = message.type
        if isinstance(message.id, Place):
            message = message._replace(id=storable(own or named_by_place(message), LONGEST_ID))
        return message if message.type == type_ else message._replace(type=type_)

    def _decoded(self, message: Message) -> Decoded | None:
        try:
            return self.codec.decode(message)
        except Exception:  # noqa: BLE001 - a codec of the user's may raise anything; so will `read`, which tells it
            return None

    def read(self, message: Message) -> Event:
        """Make the event of a message, through the upcasters when it is of an older version.

        Raises:
            UnknownType: no class is registered for its type.
            DecodeError: the bytes do not fit the class, or the codec, an upcaster or a validator failed on them.
        """
        try:
            return self._read(message)
        except DecodeError:
            raise
        except Exception as error:
            raise DecodeError(f"Message {message.id} cannot be read: {brief(error)}") from error

    def _read(self, message: Message) -> Event:
        if message.is_tombstone:
            tombstone = self._tombstones.get(message.topic)
            if tombstone is None:
                raise UnknownType(f"No tombstone class is registered for topic {message.topic!r}.")
            return _of_key(tombstone, message.key)
        decoded = self.codec.decode(message)
        event = self.find(decoded.type, message.topic)
        if event is None:
            raise self._unknown(decoded.type, message)
        fields = self._upcasted(decoded, describe(event).version)
        try:
            return event_of(event, fields)
        except Exception as error:  # a validator may raise anything; only a ValueError comes as ValidationError
            raise DecodeError(f"Message {message.id} does not fit {event.__name__}: {brief(error)}") from error

    def _unknown(self, type_: str, message: Message) -> UnknownType:
        if not type_:
            return UnknownType(
                f"Message {message.id} on {message.topic!r} names no type, in no header and not in its body.",
                fix="Have message-type sent with it, or give App(codec=...) a codec that knows the topic's type.",
            )
        topics = self.topics_of(type_)
        known = f"; it is known on {', '.join(topics)}" if topics else ""
        return UnknownType(
            f"No event class is registered for type {type_!r} on {message.topic!r} (message {message.id}){known}."
        )

    def _upcasted(self, decoded: Decoded, version: str) -> Mapping[str, Any]:
        fields, at, seen = decoded.fields, decoded.version, {decoded.version}
        while at != version and (step := self._upcasters.get((decoded.type, at))):
            try:
                fields = step.change(fields)
            except Exception as error:
                raise DecodeError(f"The upcaster of {decoded.type} {at} failed: {error!r}") from error
            at = step.to_version
            if at in seen:
                raise DecodeError(f"The upcasters of {decoded.type} go in a circle at {at}.")
            seen.add(at)
        return fields


def _keep(known: dict[str, type[Event]], spec: EventType, event: type[Event], what: str) -> None:
    """Note the class for its topic. Raises EventDefinitionError when there is another."""
    before = known.setdefault(spec.topic, event)
    if before is not event:
        raise EventDefinitionError(
            f"On {spec.topic}, {what} of both {before.__name__} and {event.__name__}.",
            fix="Give one of them another type= or topic=.",
        )


def _tombstone(event: Event) -> Encoded:
    """Make what has a key and no value. Raises PayloadInvalid when there is no key, or not the event in it."""
    key = event.key_of()
    if key is None:
        raise PayloadInvalid(f"{type(event).__name__} has no key.", fix="Give its key field a value.")
    try:
        read = _of_key(type(event), key)
    except DecodeError as error:
        raise PayloadInvalid(error.message, fix="Give the key field a type that is read from text.") from error
    refuse_another(event, read)
    return Encoded(b"", TOMBSTONE)


def _of_key(event: type[Event], key: str | None) -> Event:
    """Make a tombstone's event. Raises DecodeError when the key does not fit its field."""
    try:
        return event.model_validate_strings({describe(event).key: key}, by_alias=False, by_name=True)
    except Exception as error:
        raise DecodeError(f"A tombstone's key does not fit {event.__name__}: {brief(error)}") from error
