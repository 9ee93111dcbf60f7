"""Which class reads which message type, and how old versions become new ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from txpatterns.errors import DecodeError, EventDefinitionError, UnknownType
from txpatterns.messages import Event, EventType, Message, describe
from txpatterns.serialization.codec import Codec, Decoded
from txpatterns.serialization.envelope import EnvelopeCodec

Upcaster = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Upcast:
    to_version: str
    change: Upcaster


class EventRegistry:
    """The event classes of one application, by wire type, with the codec that reads and writes them.

    Only registered classes are ever made of incoming bytes: nothing in a message can name other code.
    """

    def __init__(self, codec: Codec | None = None) -> None:
        self.codec: Codec = codec or EnvelopeCodec()
        self._classes: dict[str, type[Event]] = {}
        self._upcasters: dict[tuple[str, str], _Upcast] = {}

    def register(self, event: type[Event]) -> EventType:
        """Make a class known by its type. The same class twice is harmless.

        Raises:
            EventDefinitionError: another class has this type already, or the class has none.
        """
        spec = describe(event)
        known = self._classes.setdefault(spec.type, event)
        if known is not event:
            raise EventDefinitionError(f"{spec.type!r} is the type of both {known.__name__} and {event.__name__}.")
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
        """Know all that another registry knows, its upcasters included."""
        self._classes.update(other._classes)
        self._upcasters.update(other._upcasters)

    def knows(self, type_: str) -> bool:
        """Say whether a class reads this wire type."""
        return type_ in self._classes

    def find(self, type_: str) -> type[Event] | None:
        """Give the class that reads this wire type."""
        return self._classes.get(type_)

    def type_of(self, message: Message) -> str | None:
        """Give the type that a message's body names; None where it cannot be read."""
        try:
            return self.codec.decode(message).type
        except Exception:  # noqa: BLE001 - a codec of your own may raise anything on a stranger's bytes
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
            raise DecodeError(f"Message {message.id} cannot be read: {_brief(error)}") from error

    def _read(self, message: Message) -> Event:
        decoded = self.codec.decode(message)
        event = self._classes.get(decoded.type)
        if event is None:
            raise UnknownType(f"No event class is registered for type {decoded.type!r} (message {message.id}).")
        fields = self._upcasted(decoded, describe(event).version)
        try:
            return event.model_validate(fields)
        except Exception as error:  # a validator may raise anything; only a ValueError comes as ValidationError
            raise DecodeError(f"Message {message.id} does not fit {event.__name__}: {_brief(error)}") from error

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


def _brief(error: Exception) -> str:
    """Say what is wrong without the values: they may be personal data."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)[:5])
    return type(error).__name__
