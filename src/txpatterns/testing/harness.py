"""The object behind the fixture ``txp``: Apps on throw-away databases, in the hands of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy.engine import Connection, Engine

from txpatterns.app import App
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.inbox.signatures import name_of
from txpatterns.messages import Event, Message, describe, new_id
from txpatterns.sagas import Handle
from txpatterns.serialization import EventRegistry
from txpatterns.testing import remains
from txpatterns.testing.clock import ManualClock
from txpatterns.testing.deaths import Death, Deaths
from txpatterns.testing.recorder import Events, Story, called, explain, find
from txpatterns.testing.remains import DeadLetter
from txpatterns.testing.sagas import Replays, SagaSeen, named, open_sagas, see
from txpatterns.testing.settling import Step, settle
from txpatterns.testing.tcc import TccSeen, open_tcc, see_tcc
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

    def __init__(
        self, apps: Sequence[App], clock: ManualClock, broker: MemoryBroker, story: Story, deaths: Deaths
    ) -> None:
        self.apps = list(apps)
        self.clock = clock
        self.has_failed = False
        """Whether the test has failed, so that nothing more is asked of it."""
        self.is_running = False
        """Whether the Apps run now."""
        self._broker = broker
        self._story = story
        self._deaths = deaths
        self._replays = Replays()
        self._meant: set[str] = set()

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

    async def saga(self, saga: Handle[Any] | str) -> SagaSeen:
        """Give where a saga stands: what is done and undone, what it waits for, its result or its error.

        Raises:
            AssertionError: no App here has such a saga.
        """
        __tracebackhide__ = True
        for app in self.apps:
            found = await _closing(app, see(app, *named(saga)))
            if found is not None:
                return found
        raise AssertionError(f"there is no saga {named(saga)[0]}")

    async def tcc(self, id: str) -> TccSeen:
        """Give where a TCC transaction stands: each participant, and what became of its part.

        Raises:
            AssertionError: no App here has such a transaction.
        """
        __tracebackhide__ = True
        for app in self.apps:
            found = await _closing(app, see_tcc(app, id))
            if found is not None:
                return found
        raise AssertionError(f"there is no TCC transaction {id}")

    async def run_to(self, saga: Handle[Any] | str, step: str) -> SagaSeen:
        """Do what ``drain`` does, until a saga comes to a step or a call; nothing of that is done yet.

        Everything stops there, and goes on with the next ``drain``. At a wait or a sleep ``drain`` stops by itself.

        Raises:
            AssertionError: it does not come to that step, with what is left; or see ``drain``.
        """
        __tracebackhide__ = True
        death = Death(step, is_before=True, undoing=False, saga_id=named(saga)[0])
        self._deaths.to_come.append(death)
        await self._settle(_PATIENCE, until=death)
        if death in self._deaths.to_come:
            self._deaths.to_come.remove(death)
            raise AssertionError(f"{death.saga_id} does not come to {step}\n{self._story}")
        return await self.saga(saga)

    def crash(
        self,
        *,
        before: str | None = None,
        after: str | None = None,
        undoing: bool = False,
        of: Handle[Any] | str | None = None,
    ) -> None:
        """Let the run of a saga end at a step or a call, once, as if its process had died there; it is begun anew.

        ``before`` it nothing of it is done; ``after`` it a step is committed, and a call has had its effect, of which
        nobody was told. ``undoing`` means its compensation; ``of`` says which saga, where it is not just the first that
        comes there. What else this process does goes on: to kill a whole process, use the crash explorer.

        Raises:
            ValueError: neither is named, or both are.
        """
        step = before if after is None else after
        if step is None or (before is not None and after is not None):
            raise ValueError("name one step: crash(before=...) or crash(after=...)")
        self._deaths.to_come.append(Death(step, before is not None, undoing, None if of is None else named(of)[0]))

    async def signal(self, event: Event) -> None:
        """Bring an event to the sagas that wait for it, as a webhook does, and do what comes of it.

        What comes over the broker is brought by ``receive``.

        Raises:
            AssertionError: no saga here waits for such an event; or see ``drain``.
        """
        __tracebackhide__ = True
        apps = [app for app in self.apps if any(type(event) is one.event for one in app.sagas.definitions.signals())]
        assert apps, f"no saga here waits for {type(event).__name__}"
        for app in apps:
            if isinstance(app.database.engine, Engine):
                with app.sync_transaction() as plain:
                    app.sagas.signal(plain, event)
            else:
                async with app.transaction() as session:
                    app.sagas.signal(session, event)
            await app.database.close()
        await self._settle(_PATIENCE)

    def leave_open(self, *sagas: Handle[Any] | str) -> None:
        """Say that sagas, or the TCC transactions of these ids, are meant to be open at the end of the test.

        Otherwise that fails it.
        """
        self._meant.update(named(saga)[0] for saga in sagas)

    def left_behind(self) -> list[str]:
        """Say in words what was open when it was last looked, and which crashes have not happened."""
        if self.has_failed:
            return []
        opened = [("a saga", left) for left in open_sagas(self._story.looks)]
        opened += [("a TCC transaction", left) for left in open_tcc(self._story.looks)]
        told = [
            f"{what} was left open, and txp.leave_open does not say that this is meant: {left}"
            for what, left in opened
            if left.message_id not in self._meant
        ]
        return told + [f"{death} has not happened" for death in self._deaths.to_come]

    async def _settle(
        self, within: timedelta, first: Step | None = None, *, until: Death | None = None
    ) -> datetime | None:
        """Come to rest; gives when the first of what waits is due."""
        __tracebackhide__ = True
        before = asyncio.all_tasks()
        self.is_running = True
        try:
            async with asyncio.timeout(within.total_seconds()):
                due = await self._until_nothing_is_due(first, until)
        except TimeoutError as error:
            self._story.look([await _read(app, remains.look) for app in self.apps])
            raise AssertionError(f"drain did not end\n{self._story}") from error
        finally:
            self.is_running = False
        leaked = asyncio.all_tasks() - before
        assert not leaked, f"tasks were left behind: {leaked}"
        different = [told for app in self.apps for told in await _closing(app, self._replays.look(app))]
        assert not different, "\n".join(different)
        return due

    async def _until_nothing_is_due(self, first: Step | None, until: Death | None) -> datetime | None:
        while True:
            looks = await settle(self.apps, _confirmed_is_handled, first=first, deaths=self._deaths)
            self._story.look(looks)
            due = min((look.next_due for look in looks if look.next_due is not None), default=None)
            is_there = until is not None and until not in self._deaths.to_come
            if due is None or due > self.clock.now() + _MOMENT or is_there:
                return due
            if due > self.clock.now():
                self.clock.advance(_MOMENT)
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
    return await _closing(app, app.database.read(work))


async def _closing(app: App, work: Awaitable[T]) -> T:
    """Do something outside of any run, and keep no connection open: the next test has another file of this name."""
    try:
        return await work
    finally:
        await app.database.close()
