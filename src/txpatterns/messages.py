"""What is sent: events as users define them, messages as they are stored and published."""

from __future__ import annotations

import hashlib
import inspect
import os
import time
import zlib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from txpatterns.errors import AddRefused, EventDefinitionError
from txpatterns.fields import Form, form_of

BUCKETS = 256
"""Into how many parts the keys are divided. A constant of the schema: only the ownership of buckets moves."""

EPOCH = datetime.fromtimestamp(0, UTC)
"""Stands for "not told" where a producer gave no time."""

BigInt = Annotated[int, Field(strict=False), PlainSerializer(str, return_type=str, when_used="json")]
"""A 64-bit integer that travels as a string, because JavaScript loses digits above 2**53."""

TOMBSTONE = "application/vnd.txpatterns.tombstone"
"""The content type of a message that has a key and no value; the payload is empty."""

LONGEST_ID = 200
"""Characters of a message's id that the tables hold."""

Ordering = Literal["position", "strict"]


def new_id() -> str:
    """Make an id that is unique and grows with time (UUID version 7, RFC 9562 method 3).

    It is known before the transaction commits, and sorts by creation to about a quarter of a microsecond.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    return _uuid7(milliseconds, rest * 4096 // 1_000_000, os.urandom(8))


def derived_id(scope: str, origin: str, path: str, milliseconds: int) -> str:
    """Make the id of a message that is sent by what runs in ``scope`` for ``origin``, at a place in it.

    Always the same for the same four, so that code which runs twice sends the same ids. ``path`` says which of its
    messages it is, as ``"0"`` or ``"2.gather.1"``; ``milliseconds`` since 1970 is the time that the id sorts by.
    """
    digest = hashlib.sha256(f"{scope}\x00{origin}\x00{path}".encode()).digest()
    return _uuid7(milliseconds, int.from_bytes(digest[:2], "big") & 0xFFF, digest[2:10])


def milliseconds_of(message_id: str) -> int:
    """Give the time in an id of ours, in milliseconds since 1970; 0 for an id that has none."""
    prefix = message_id.replace("-", "")[:12]
    try:
        return int(prefix, 16) if len(message_id) == 36 and message_id[14] == "7" else 0
    except ValueError:
        return 0


def _uuid7(milliseconds: int, fraction: int, random: bytes) -> str:
    when, rest = f"{milliseconds & (1 << 48) - 1:012x}", random.hex()
    return f"{when[:8]}-{when[8:]}-7{fraction:03x}-{random[0] & 0x3F | 0x80:02x}{rest[2:4]}-{rest[4:]}"


def bucket_of(key: str) -> int:
    """Say which of the buckets a key belongs to: CRC-32 of its UTF-8 form, the same in every process for ever."""
    return zlib.crc32(key.encode()) % BUCKETS


class Message(NamedTuple):
    """What is stored in the outbox, published, and given to a handler: the same id and bytes on every copy."""

    id: str
    topic: str
    type: str
    payload: bytes
    key: str | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    content_type: str = "application/json"
    occurred_at: datetime = EPOCH

    def __repr__(self) -> str:
        # The payload may be personal data, which has no place in logs and tracebacks.
        return f"Message(id={self.id!r}, topic={self.topic!r}, type={self.type!r}, key={self.key!r})"

    @property
    def is_tombstone(self) -> bool:
        """Whether it says that its key is gone: a key without a value."""
        return self.content_type == TOMBSTONE and not self.payload and self.key is not None

    @property
    def bucket(self) -> int:
        """The part of the keys that this message belongs to; one without a key is spread by its id."""
        return bucket_of(self.id if self.key is None else self.key)

    @property
    def size(self) -> int:
        """Bytes on the wire, headers included, as brokers count them."""
        headers = sum(len(name.encode()) + len(value.encode()) for name, value in self.headers.items())
        return len(self.payload) + len((self.key or "").encode()) + headers


@dataclass(frozen=True, slots=True)
class EventType:
    """Where an event class goes and what it is called on the wire."""

    topic: str
    type: str
    key: str | None
    version: str
    order: Ordering
    tombstone: bool = False
    """Whether it says that its key is gone: on the wire a key without a value."""


class Event(BaseModel):
    """A fact that other parts of the system may react to: a frozen pydantic model with a topic and a type.

    ``class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id")``. ``key`` names the
    field that gives the ordering key: messages with one key are published and handled in order.
    ``order="strict"`` takes a lock on the key in the database, for writers that share no row. ``tombstone=True``
    makes an event without content: it says that its key is gone, as compacted topics have it. A class below another
    event keeps what that one says, each argument by itself, unless it says something else; one with a topic and no
    type is a base for others.

    Every field must come back from JSON as it was; an alias is the field's name on the wire.

    Raises:
        EventDefinitionError: at import, when a class argument is missing, ``key`` is no field and no property, or a
            field holds what JSON cannot carry.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")
    event_type: ClassVar[EventType | None] = None
    __txp_told__: ClassVar[EventType] = EventType(topic="", type="", key=None, version="1.0", order="position")
    __txp_form__: ClassVar[Form | None] = None

    def __init_subclass__(
        cls,
        *,
        topic: str | None = None,
        type: str | None = None,
        key: str | None = None,
        version: str | None = None,
        order: Ordering | None = None,
        tombstone: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        topic: str | None = None,
        type: str | None = None,
        key: str | None = None,
        version: str | None = None,
        order: Ordering | None = None,
        tombstone: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        arguments = {
            "topic": topic,
            "type": type,
            "key": key,
            "version": version,
            "order": order,
            "tombstone": tombstone,
        }
        given: dict[str, Any] = {name: value for name, value in arguments.items() if value is not None}
        cls.__txp_form__ = None
        if given:
            cls.__txp_told__ = replace(cls.__txp_told__, **given)
            _check_names(
                cls, cls.__txp_told__, ("topic", "type", "version") if "type" in given else ("topic", "version")
            )
        if cls.__txp_told__.type:
            _check_key(cls, cls.__txp_told__)
            cls.event_type = cls.__txp_told__
            if cls.__pydantic_complete__:
                written_as(cls)

    def key_of(self) -> str | None:
        """Give this event's ordering key, as text; None when the class has no key, or the event no value for it.

        Raises:
            AddRefused: the text of such a value is another one in each process.
        """
        spec = describe(type(self))
        key: Any = None if spec.key is None else getattr(self, spec.key)
        if key is None:
            return None
        if not isinstance(key, str) and _has_no_lasting_text(key):
            raise AddRefused(
                f"The key of {spec.type} is a {type(key).__name__}, whose text differs from process to process.",
                fix="Name a property that gives the key as text.",
            )
        return str(key)


def _has_no_lasting_text(key: object) -> bool:
    """Whether the text of a value differs from process to process: by hashes, or by its place in memory."""
    kind: Any = type(key)
    return isinstance(key, Set) or (kind.__str__, kind.__repr__) == (object.__str__, object.__repr__)


def _check_names(event: type[Event], spec: EventType, names: Iterable[str]) -> None:
    """Refuse a description that makes no sense by itself."""
    name = event.__name__
    if not spec.topic:
        raise EventDefinitionError(f"{name} needs both topic= and type=.")
    for argument in names:
        text = getattr(spec, argument)
        if not isinstance(text, str):
            raise EventDefinitionError(f"{name}: {argument}={text!r} is not text.", fix=f'Write {argument}="{text}".')
        if not text or not text.isprintable() or text != text.strip() or len(text) > 200:
            raise EventDefinitionError(f"{name}: {argument} {text[:40]!r} is not a plain, short name.")
    if spec.order not in ("position", "strict"):
        raise EventDefinitionError(f'{name}: order={spec.order!r} is neither "position" nor "strict".')


def _check_key(event: type[Event], spec: EventType) -> None:
    """Refuse a description that does not fit the class."""
    name = event.__name__
    if spec.key is not None and not _gives_key(event, spec.key):
        raise EventDefinitionError(
            f"{name}: key={spec.key!r} is none of its fields or properties.",
            fix="Name the field, or a property, that holds the ordering key.",
        )
    if spec.order == "strict" and spec.key is None:
        raise EventDefinitionError(f'{name}: order="strict" orders by key, so it needs key=.')
    if spec.tombstone and list(event.model_fields) != [spec.key]:
        raise EventDefinitionError(
            f"{name}: a tombstone is a key without a value, so its key is its only field.",
            fix='Write: class Forgotten(Event, topic="…", type="…", key="id", tombstone=True): id: str',
        )


def _gives_key(event: type[Event], key: object) -> bool:
    if not isinstance(key, str):
        return False
    if key in event.model_fields:
        return True
    # What every event has, its methods included, says nothing about this one.
    found = None if hasattr(Event, key) else inspect.getattr_static(event, key, None)
    return isinstance(found, property | cached_property)


def written_as(event: type[Event]) -> Form:
    """Say how events of a class are written as JSON.

    Raises:
        EventDefinitionError: it has a field that could not be read back.
    """
    if event.__txp_form__ is None:
        event.__txp_form__ = form_of(event)
    return event.__txp_form__


def _not_sendable(event: object) -> EventDefinitionError:
    """Say what a thing lacks to be an event class that can be sent or handled."""
    told, name = getattr(event, "__txp_told__", None), getattr(event, "__name__", repr(event))
    if not isinstance(event, type) or not isinstance(told, EventType):
        return EventDefinitionError(
            f"{name} is no event class.",
            fix="Give one class below Event; for several, once for each: @app.on(A) @app.on(B).",
        )
    if told.topic:
        return EventDefinitionError(
            f"{name} has no type, so it is a base for others, and cannot be sent or handled itself.",
            fix="Use the classes below it, or give it a type=.",
        )
    return EventDefinitionError(f"{name} has no topic and type, so it cannot be sent or handled.")


def describe(event: type[Event]) -> EventType:
    """Give the topic, type and key of an event class.

    Raises:
        EventDefinitionError: the class is a base without a type.
    """
    spec = getattr(event, "event_type", None)
    if not isinstance(spec, EventType):
        raise _not_sendable(event)
    return spec


LONGEST_KEY = 1024
"""Bytes of an ordering key in UTF-8: what can be indexed beside the longest topic."""

NO_DELAY = timedelta(0)
