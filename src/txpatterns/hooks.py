"""What the runtime tells to whoever listens: telemetry, logs, tests. Without listeners it costs one call."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import ClassVar

from txpatterns.messages import Message, new_id

logger = logging.getLogger("txpatterns")

CORRELATION_ID, CAUSATION_ID = "correlation-id", "causation-id"

_lineage: ContextVar[Mapping[str, str]] = ContextVar("txpatterns_lineage", default=MappingProxyType({}))


@contextmanager
def correlated(correlation_id: str) -> Iterator[str]:
    """Store this correlation id with every message that is added inside, for example a request's own id.

    Yields the id as it is stored: printable ASCII, at most 128 characters, a new one when nothing of the given id
    remains, so that a stranger's id never fails a transaction. A handler needs no call: see ``lineage_of``.
    """
    clean = _header_safe(correlation_id) or new_id()
    with _lineage_set({CORRELATION_ID: clean}):
        yield clean


def lineage_of(message: Message) -> dict[str, str]:
    """Give the headers of what is added while this message is handled: the same correlation id, its id as the cause.

    Whatever a stranger wrote into the message, these can be stored and sent.
    """
    told = {CORRELATION_ID: _header_safe(correlation_id_of(message)), CAUSATION_ID: _header_safe(message.id)}
    return {name: value for name, value in told.items() if value}


def correlation_id_of(message: Message) -> str:
    """Give the id that joins all messages of one story: that of the message which began it, if none was given."""
    return message.headers.get(CORRELATION_ID) or message.id


@contextmanager
def _lineage_set(headers: Mapping[str, str]) -> Iterator[None]:
    token = _lineage.set(headers)
    try:
        yield
    finally:
        _lineage.reset(token)


def _header_safe(text: str) -> str:
    if text.isascii() and text.isprintable() and " " not in text:
        return text[:128]
    return "".join(c for c in text if "!" <= c <= "~")[:128]


@dataclass(frozen=True, slots=True)
class Depths:
    """How much waits in an App's database. A number is not counted beyond 100,000."""

    depth: int
    """Committed messages that are not yet published."""
    oldest_age: timedelta
    """The age of the oldest message that waits anywhere: to be published, for its key, for its next attempt.

    Zero when none waits. What is scheduled is as old as it is late; a dead letter does not wait.
    """
    scheduled: int
    """Messages that wait for their time or for their key."""
    waiting: int
    """Received messages that wait for their next attempt, or for their key."""
    dead: int
    """Dead letters."""


class Hooks:
    """One method for each moment of a message's life; override what you need.

    A hook must be quick and must not raise: what it raises is logged once and never reaches the runtime.
    """

    logs: ClassVar[bool] = False
    """Whether this listener writes log lines; an App without such a one writes its failures into Python's own log."""

    def headers(self) -> dict[str, str]:
        """Give headers to store with a message that is being added, for example the trace context."""
        return {}

    def added(self, message: Message) -> None:
        """A message was added to a transaction; it is not committed yet."""

    def publishing(self, messages: Sequence[Message]) -> AbstractContextManager[object]:
        """A batch is being sent; the context ends with its last outcome."""
        return nullcontext()

    def published(self, messages: Sequence[Message], age: timedelta) -> None:
        """The broker has confirmed these messages; ``age`` is that of the oldest."""

    def publish_failed(self, message: Message, error: Exception | None, attempt: int) -> None:
        """The broker refused a message, and it waits for its next attempt."""

    def broker_unavailable(self, error: Exception | None) -> None:
        """The relay pauses, because the broker cannot be reached."""

    def topic_postponed(self, topic: str, error: Exception | None) -> None:
        """The broker takes nothing for a topic now: its messages wait, and it is tried from time to time."""

    def topic_resumed(self, topic: str) -> None:
        """A topic that took nothing takes messages again."""

    def handling(self, message: Message, consumer: str, attempt: int) -> AbstractContextManager[object]:
        """A handler is about to run; the context ends with its transaction."""
        return nullcontext()

    def handled(self, message: Message, consumer: str) -> None:
        """A handler's effect is committed."""

    def duplicate_prevented(self, message: Message, consumer: str) -> None:
        """A message came again, and its effect was not repeated."""

    def handler_failed(self, message: Message, consumer: str, error: BaseException, attempt: int) -> None:
        """A handler raised; the message waits for its next attempt."""

    def dead(self, message: Message, consumer: str | None, error: str) -> None:
        """A message became a dead letter; ``consumer`` is None when it could not be published."""

    def ownership(self, scope: str, buckets: int) -> None:
        """This process now owns so many buckets."""

    def depths(self, depths: Depths | None) -> None:
        """How much waits now; told every 15 seconds while an App runs, None while the database is away.

        The database is asked only when a listener overrides this.
        """

    def idle(self, part: str) -> None:
        """A background part found nothing to do: tests wait for it."""


class HookList(Hooks):
    """Several listeners as one. What a listener raises is logged, and the others are still told.

    The same fault of a listener at the same moment is logged once, not with every message.
    """

    def __init__(self, listeners: Sequence[Hooks] = ()) -> None:
        self.listeners = list(listeners)
        self._faults: set[tuple[type[Hooks], str, type[BaseException]]] = set()

    @classmethod
    def of(cls, given: Hooks | Sequence[Hooks] | None) -> HookList:
        """Make one guarded list of what a constructor was given: nothing, one listener or several."""
        if isinstance(given, HookList):
            return given
        return cls([given] if isinstance(given, Hooks) else given or ())

    def listens_to(self, moment: str) -> bool:
        """Whether any listener wants to hear of a moment, for what costs something to find out."""
        return any(getattr(type(listener), moment) is not getattr(Hooks, moment) for listener in self.listeners)

    def headers(self) -> dict[str, str]:
        found = dict(_lineage.get())
        for listener in self.listeners:
            with self._guarded(listener, "headers"):
                found.update(listener.headers())
        return found

    def publishing(self, messages: Sequence[Message]) -> AbstractContextManager[object]:
        return self._within(nullcontext(), "publishing", messages) if self.listeners else nullcontext()

    def handling(self, message: Message, consumer: str, attempt: int) -> AbstractContextManager[object]:
        lineage = _lineage_set(lineage_of(message))
        return self._within(lineage, "handling", message, consumer, attempt) if self.listeners else lineage

    def added(self, message: Message) -> None:
        self._tell("added", message)

    def published(self, messages: Sequence[Message], age: timedelta) -> None:
        self._tell("published", messages, age)

    def publish_failed(self, message: Message, error: Exception | None, attempt: int) -> None:
        self._tell("publish_failed", message, error, attempt)

    def broker_unavailable(self, error: Exception | None) -> None:
        self._tell("broker_unavailable", error)

    def topic_postponed(self, topic: str, error: Exception | None) -> None:
        self._tell("topic_postponed", topic, error)

    def topic_resumed(self, topic: str) -> None:
        self._tell("topic_resumed", topic)

    def handled(self, message: Message, consumer: str) -> None:
        self._tell("handled", message, consumer)

    def duplicate_prevented(self, message: Message, consumer: str) -> None:
        self._tell("duplicate_prevented", message, consumer)

    def handler_failed(self, message: Message, consumer: str, error: BaseException, attempt: int) -> None:
        self._tell("handler_failed", message, consumer, error, attempt)

    def dead(self, message: Message, consumer: str | None, error: str) -> None:
        self._tell("dead", message, consumer, error)

    def ownership(self, scope: str, buckets: int) -> None:
        self._tell("ownership", scope, buckets)

    def depths(self, depths: Depths | None) -> None:
        self._tell("depths", depths)

    def idle(self, part: str) -> None:
        self._tell("idle", part)

    def _tell(self, moment: str, *args: object) -> None:
        for listener in self.listeners:
            with self._guarded(listener, moment):
                getattr(listener, moment)(*args)

    @contextmanager
    def _within(self, outer: AbstractContextManager[object], moment: str, *args: object) -> Iterator[None]:
        entered: list[tuple[Hooks, AbstractContextManager[object]]] = []
        with outer:
            for listener in self.listeners:
                with self._guarded(listener, moment):
                    context: AbstractContextManager[object] = getattr(listener, moment)(*args)
                    context.__enter__()
                    entered.append((listener, context))
            try:
                yield
            except BaseException as error:
                self._leave(entered, moment, error)
                raise
            self._leave(entered, moment, None)

    def _leave(
        self, entered: list[tuple[Hooks, AbstractContextManager[object]]], moment: str, error: BaseException | None
    ) -> None:
        # The answer of __exit__ is ignored: a listener that swallowed a handler's error would let its failure commit.
        for listener, context in reversed(entered):
            with self._guarded(listener, moment):
                context.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    @contextmanager
    def _guarded(self, listener: Hooks, moment: str) -> Iterator[None]:
        try:
            yield
        except (KeyboardInterrupt, GeneratorExit, CancelledError):
            raise
        except BaseException as error:
            fault = (type(listener), moment, type(error))
            if fault not in self._faults:
                self._faults.add(fault)
                logger.exception("listener %s failed at %s; it goes on being told", type(listener).__name__, moment)
