"""The object behind the fixture ``txp``: Apps on throw-away databases, in the hands of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from txpatterns.app import App
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.inbox.signatures import name_of
from txpatterns.messages import Event, Message, describe, new_id
from txpatterns.serialization import EventRegistry
from txpatterns.testing import remains
from txpatterns.testing.clock import ManualClock
from txpatterns.testing.recorder import Events, Story, called, explain, find
from txpatterns.testing.remains import DeadLetter
from txpatterns.testing.settling import Step, settle
from txpatterns.transport import from_wire, to_wire_headers

E = TypeVar("E", bound=Event)
T = TypeVar("T")

_MOMENT = timedelta(milliseconds=1)
"""SQLite's clock has milliseconds, so what is due within one is due now."""
_PATIENCE = timedelta(seconds=10)


class Txp:
    """Drives one App or several in a test. Nothing runs between two calls, so a test sees the same each time.

    Several Apps share the clock and the broker, as they would share a real one; each has a database of its own.
    ``app`` is the first of ``apps``; ``clock`` moves by ``advance`` only. A test without an event loop writes
    ``asyncio.run(txp.drain())``.
    """

    def __init__(self, apps: Sequence[App], clock: ManualClock, broker: MemoryBroker, story: Story) -> None:
        self.apps = list(apps)
        self.clock = clock
        self._broker = broker
        self._story = story

    @property
    def app(self) -> App:
        """The App under test; of several, the first."""
        return self.apps[0]

    def __str__(self) -> str:
        """Say what waits and why, and what was given up; a failing test shows it."""
        return str(self._story)

    @property
    def published(self) -> list[Event]:
        """What was published so far, in order; a message that was published again is there again."""
        return Events((registry.read(message) for message, registry in self._story.messages), self._story)

    def handled(self, handler: Callable[..., Any] | str | None = None) -> list[Event]:
        """Give the events whose effects are committed: those of one handler, by function or name, or all.

        Raises:
            ValueError: no App here has this handler.
        """
        names = None if handler is None else self._consumers_of(handler)
        effects = (effect for effect in self._story.effects if names is None or effect.consumer in names)
        return Events((effect.event for effect in effects), self._story)

    def assert_published(self, event: type[E], /, *, times: int | None = None, **fields: Any) -> E:
        """Check that an event of this class with these fields was published; gives the first one.

        ``times`` is how often exactly; without it, once or more. Call ``drain`` before.

        Raises:
            AssertionError: with the event that comes nearest, where it differs, and what waits and why.
        """
        __tracebackhide__ = True
        events = self._readings(event)
        found = find(events, event, fields)
        if not found or (times is not None and len(found) != times):
            expected = f"expected {called(event, fields, times)} to be published"
            raise AssertionError(f"{explain(expected, events, event, fields, 'published')}\n{self._story}")
        return found[0]

    def assert_not_published(self, event: type[Event], /, **fields: Any) -> None:
        """Check that no event of this class with these fields was published."""
        __tracebackhide__ = True
        found = find(self._readings(event), event, fields)
        if found:
            raise AssertionError(f"{found[0]!r} was published")

    def assert_handled(self, handler: Callable[..., Any] | str, /, *, times: int | None = None, **fields: Any) -> Event:
        """Check that the effect of a handler is committed for an event with these fields; gives the first one.

        Raises:
            AssertionError: with the event that comes nearest, where it differs, and what waits and why.
            ValueError: no App here has this handler.
        """
        __tracebackhide__ = True
        events = self.handled(handler)
        found = find(events, Event, fields)
        if not found or (times is not None and len(found) != times):
            name = handler if isinstance(handler, str) else name_of(handler)
            expected = f"expected {name} to have handled {called(Event, fields, times)} it has not"
            raise AssertionError(f"{explain(expected, events, Event, fields, 'handled')}\n{self._story}")
        return found[0]

    async def receive(
        self, event: Event | Message, /, *, id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        """Handle an event that comes from somebody else's outbox, over the broker, and what comes of it.

        It goes through its wire form: the App's codec writes the event, and a ``Message`` stands for a stranger's
        bytes. Gives the id of the message; the same ``id`` again is a redelivery.

        Raises:
            AssertionError: no App here has a handler for its topic; or see ``drain``.
        """
        __tracebackhide__ = True
        message = event if isinstance(event, Message) else self._encoded(event, id or new_id(), headers or {})
        assert self._listens(message.topic), f"no App here has a handler for the topic {message.topic!r}"
        wire = from_wire(message.topic, message.payload, to_wire_headers(message), fallback_id=message.id)

        async def publish() -> None:
            async for _ in self._broker.publish([wire]):
                continue

        await self._settle(_PATIENCE, publish)
        return wire.id

    async def drain(self, *, within: timedelta = _PATIENCE) -> None:
        """Publish, handle and retry all that is due now, and what comes of it, until nothing is due.

        Exact: it ends when all is done and does not sleep. What waits for a later time is left; see ``advance``.

        Raises:
            AssertionError: it did not come to an end ``within`` this (real) time, with a list of what is left.
        """
        __tracebackhide__ = True
        await self._settle(within)

    async def advance(self, by: timedelta | None = None, **units: float) -> None:
        """Let time pass: ``await txp.advance(minutes=15)``. What becomes due is done at its time, in order.

        Raises:
            AssertionError: see ``drain``.
        """
        __tracebackhide__ = True
        until = self.clock.now() + (by or timedelta(**units))
        due = await self._settle(_PATIENCE)
        while due is not None and due <= until:
            self.clock.advance(max(due - self.clock.now(), timedelta(0)) + _MOMENT)
            due = await self._settle(_PATIENCE)
        if until > self.clock.now():
            self.clock.advance(until - self.clock.now())
            await self._settle(_PATIENCE)

    async def dead_letters(self) -> list[DeadLetter]:
        """Give what was given up, the oldest first."""
        return [dead for app in self.apps for dead in await _read(app, remains.dead_letters)]

    async def _settle(self, within: timedelta, first: Step | None = None) -> datetime | None:
        """Come to rest; gives when the first of what waits is due."""
        __tracebackhide__ = True
        before = asyncio.all_tasks()
        try:
            async with asyncio.timeout(within.total_seconds()):
                due = await self._until_nothing_is_due(first)
        except TimeoutError as error:
            self._story.look([await _read(app, remains.look) for app in self.apps])
            raise AssertionError(f"drain did not end\n{self._story}") from error
        leaked = asyncio.all_tasks() - before
        assert not leaked, f"tasks were left behind: {leaked}"
        return due

    async def _until_nothing_is_due(self, first: Step | None) -> datetime | None:
        while True:
            looks = await settle(self.apps, _confirmed_is_handled, first=first)
            self._story.look(looks)
            due = min((look.next_due for look in looks if look.next_due is not None), default=None)
            if due is None or due > self.clock.now():
                return due
            first = None

    def _readings(self, wanted: type[Event]) -> list[Event]:
        """Read what was published, each message as this class where an App has that for its type."""
        return [self._reading(message, registry, wanted) for message, registry in self._story.messages]

    def _reading(self, message: Message, senders: EventRegistry, wanted: type[Event]) -> Event:
        readers = (app.registry for app in self.apps if app.registry.find(message.type) is wanted)
        return next(readers, senders).read(message)

    def _consumers_of(self, handler: Callable[..., Any] | str) -> set[str]:
        known = [each for app in self.apps for each in app.consumer.handlers]
        found = {each.consumer for each in known if each.call == handler}
        if not found:
            name = handler if isinstance(handler, str) else name_of(handler)
            found = {each.consumer for each in known if name in (each.consumer, each.consumer.split(".", 1)[-1])}
        if not found:
            raise ValueError(f"{handler!r} is no handler here; those are {sorted(each.consumer for each in known)}")
        return found

    def _listens(self, topic: str) -> bool:
        return any(topic in app.consumer.handlers.topics for app in self.apps)

    def _encoded(self, event: Event, message_id: str, headers: Mapping[str, str]) -> Message:
        spec, now = describe(type(event)), self.clock.now()
        readers = (app for app in self.apps if spec.topic in app.consumer.handlers.topics)
        encoded = next(readers, self.app).registry.codec.encode(event, spec, message_id, now)
        return Message(
            id=message_id,
            topic=spec.topic,
            type=spec.type,
            payload=encoded.payload,
            key=event.key_of(),
            headers={**headers, **encoded.headers},
            content_type=encoded.content_type,
            occurred_at=now,
        )


async def _confirmed_is_handled(_app: App) -> None:
    """The broker inside this process confirms what was handled."""


async def _read(app: App, work: Callable[[Connection], T]) -> T:
    """Read outside of any run, and keep no connection open."""
    try:
        return await app.database.read(work)
    finally:
        await app.database.close()
