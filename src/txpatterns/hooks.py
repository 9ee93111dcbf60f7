"""What the runtime tells to whoever listens: telemetry, logs, tests. Without listeners it costs one call."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta

from txpatterns.messages import Message

logger = logging.getLogger("txpatterns")


class Hooks:
    """One method for each moment of a message's life; override what you need.

    A hook must be quick and must not raise: what it raises is logged once and never reaches the runtime.
    """

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

    def idle(self, part: str) -> None:
        """A background part found nothing to do: tests wait for it."""


class HookList(Hooks):
    """Several listeners as one. What a listener raises is logged, and the others are still told."""

    def __init__(self, listeners: Sequence[Hooks] = ()) -> None:
        self.listeners = list(listeners)

    def headers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for listener in self.listeners:
            with _guarded("headers"):
                found.update(listener.headers())
        return found

    def publishing(self, messages: Sequence[Message]) -> AbstractContextManager[object]:
        return self._within("publishing", messages)

    def handling(self, message: Message, consumer: str, attempt: int) -> AbstractContextManager[object]:
        return self._within("handling", message, consumer, attempt)

    def added(self, message: Message) -> None:
        self._tell("added", message)

    def published(self, messages: Sequence[Message], age: timedelta) -> None:
        self._tell("published", messages, age)

    def publish_failed(self, message: Message, error: Exception | None, attempt: int) -> None:
        self._tell("publish_failed", message, error, attempt)

    def broker_unavailable(self, error: Exception | None) -> None:
        self._tell("broker_unavailable", error)

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

    def idle(self, part: str) -> None:
        self._tell("idle", part)

    def _tell(self, moment: str, *args: object) -> None:
        for listener in self.listeners:
            with _guarded(moment):
                getattr(listener, moment)(*args)

    @contextmanager
    def _within(self, moment: str, *args: object) -> Iterator[None]:
        if not self.listeners:
            yield
            return
        with ExitStack() as stack:
            for listener in self.listeners:
                with _guarded(moment):
                    stack.enter_context(getattr(listener, moment)(*args))
            yield


@contextmanager
def _guarded(moment: str) -> Iterator[None]:
    try:
        yield
    except Exception:
        logger.exception("a listener failed at %s; it is told the next moments all the same", moment)
