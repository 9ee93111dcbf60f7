"""What was published and handled in a test, and messages that help when it was not what was expected."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from txpatterns.hooks import Hooks, on
from txpatterns.inbox.moments import Handled, Handling, HandlingBatch
from txpatterns.messages import Event, Message
from txpatterns.outbox.moments import Added, Published
from txpatterns.serialization import EventRegistry
from txpatterns.testing.remains import Look

E = TypeVar("E", bound=Event)

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect that was committed."""

    consumer: str
    event: Event


@dataclass
class Story:
    """What happened in a test, at all its Apps, in order; and what was left when it was last looked."""

    messages: list[tuple[Message, EventRegistry]] = field(default_factory=list)
    """Each publication that was confirmed, with the registry of the App that sent it."""
    effects: list[Effect] = field(default_factory=list)
    interrupted: list[str] = field(default_factory=list)
    """Handlers that did not come to an end in time."""
    added: int = 0
    """How many messages were added since the last look."""
    looks: Sequence[Look] = ()
    """What each App had left; nothing before the first look."""

    def look(self, looks: Sequence[Look]) -> None:
        """Note what is left now."""
        self.looks, self.added = looks, 0

    def __str__(self) -> str:
        """Say what waits and why, for a failing assertion."""
        if not self.looks:
            return "nothing was drained yet: call await txp.drain() before"
        lines = [f"waits: {left}" for look in self.looks for left in look.left]
        lines += [f"given up: {dead}" for look in self.looks for dead in look.dead]
        lines += [f"did not end: {running}" for running in self.interrupted]
        if self.added:
            lines.append(f"added since the last drain: {self.added}")
        return "\n".join(lines) or "nothing waits, and nothing was given up"


class Events(list[Event]):
    """Events of a test; a comparison that fails says what waits and why."""

    def __init__(self, events: Iterable[Event], story: Story) -> None:
        super().__init__(events)
        self.story = story


class Recorder(Hooks):
    """Writes down what happens at one App."""

    def __init__(self, story: Story, registry: EventRegistry) -> None:
        self.story = story
        self.registry = registry

    @on(Added)
    def count(self, _: Added) -> None:
        self.story.added += 1

    @on(Published)
    def keep(self, published: Published) -> None:
        self.story.messages += [(message, self.registry) for message in published.messages]

    @on(Handling)
    @contextmanager
    def watch(self, handling: Handling) -> Iterator[None]:
        with self._watched([handling.message], handling.consumer):
            yield

    @on(HandlingBatch)
    @contextmanager
    def watch_batch(self, handling: HandlingBatch) -> Iterator[None]:
        with self._watched(handling.messages, handling.consumer):
            yield

    @contextmanager
    def _watched(self, messages: Sequence[Message], consumer: str) -> Iterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            self.story.interrupted += [f"{consumer}: {each.type} {each.id}, key {each.key}" for each in messages]
            raise

    @on(Handled)
    def note(self, handled: Handled) -> None:
        self.story.effects.append(Effect(handled.consumer, self.registry.read(handled.message)))


def find(events: Iterable[Event], wanted: type[E], fields: dict[str, Any]) -> list[E]:
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


def explain(expected: str, events: Sequence[Event], wanted: type[Event], fields: dict[str, Any], what: str) -> str:
    """Say what was expected and what was there instead, the nearest event first."""
    lines = [expected]
    same = [event for event in events if isinstance(event, wanted)]
    if same:
        nearest = min(same, key=lambda event: len(differences(event, fields)))
        lines.append(f"nearest: {nearest!r}")
        lines += [
            f"  {name}: is {has!r}, expected {value!r}" for name, (has, value) in differences(nearest, fields).items()
        ]
    lines.append(f"{what} ({len(events)}):" if events else f"nothing was {what}")
    lines += [f"  {event!r}" for event in events[-_SHOWN:]]
    return "\n".join(lines)


def called(wanted: type[Event], fields: dict[str, Any], times: int | None) -> str:
    """Write an expected event as a call of its class, and how often it was expected."""
    shown = f"{wanted.__name__}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"
    return shown if times is None else f"{shown}, {times} times,"
