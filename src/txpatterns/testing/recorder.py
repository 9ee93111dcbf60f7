"""What was published and handled in a test, and messages that help when it was not what was expected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from txpatterns.hooks import Hooks
from txpatterns.inbox.signatures import name_of
from txpatterns.messages import Event, Message
from txpatterns.serialization import EventRegistry

E = TypeVar("E", bound=Event)

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Handled:
    """One effect that was committed."""

    consumer: str
    event: Event


class Recorder(Hooks):
    """Remembers each publication that was confirmed and each effect that was committed, in order."""

    def __init__(self, registry: EventRegistry) -> None:
        self.registry = registry
        self.messages: list[Message] = []
        self.effects: list[Handled] = []

    def published(self, messages: Sequence[Message], age: timedelta) -> None:
        self.messages += messages

    def handled(self, message: Message, consumer: str) -> None:
        self.effects.append(Handled(consumer, self.registry.read(message)))

    @property
    def events(self) -> list[Event]:
        """The events that were published."""
        return [self.registry.read(message) for message in self.messages]

    def handled_by(self, handler: Callable[..., Any] | str | None) -> list[Event]:
        """The events that a handler has handled, given as the function or its name; those of all without one."""
        if handler is None:
            return [effect.event for effect in self.effects]
        name = handler if isinstance(handler, str) else name_of(handler)
        return [effect.event for effect in self.effects if effect.consumer.split(".", 1)[-1] == name]


def find(events: Sequence[Event], wanted: type[E], fields: dict[str, Any]) -> list[E]:
    """Give the events of a class whose fields have these values."""
    return [event for event in events if isinstance(event, wanted) and not differences(event, fields)]


def differences(event: Event, fields: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Give the fields that differ, each with the value that it has and the one that was expected."""
    missing = object()
    found = {name: (getattr(event, name, missing), value) for name, value in fields.items()}
    return {
        name: ("no such field" if has is missing else has, value)
        for name, (has, value) in found.items()
        if has != value
    }


def explain(events: Sequence[Event], wanted: type[Event], fields: dict[str, Any], times: int | None) -> str:
    """Say what was expected and what was published instead, the nearest event first."""
    expected = f"{wanted.__name__}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"
    lines = [f"expected {expected} to be published" + ("" if times is None else f" {times} times")]
    same = [event for event in events if isinstance(event, wanted)]
    if same:
        nearest = min(same, key=lambda event: len(differences(event, fields)))
        lines.append(f"nearest: {nearest!r}")
        lines += [
            f"  {name}: is {has!r}, expected {value!r}" for name, (has, value) in differences(nearest, fields).items()
        ]
    lines.append(f"published ({len(events)}):" if events else "nothing was published")
    lines += [f"  {event!r}" for event in events[-_SHOWN:]]
    return "\n".join(lines)
