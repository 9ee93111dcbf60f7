"""When each background part last made progress, told by what the parts say anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from txpatterns.clock import Clock
from txpatterns.hooks import HookList, Hooks
from txpatterns.messages import Message
from txpatterns.text import error_line

RELAY, CONSUMER = "relay", "consumer"


class Pulse(HookList):
    """The listeners of one process, told as ever; on the way it notes which part has just got on.

    A part that waits for a broker that is away is alive, too. No listener by itself, so that a process without
    listeners stays as cheap as one; so ``log``, which is told of failures where no listener writes log lines.
    """

    def __init__(self, clock: Clock, listeners: Sequence[Hooks] = (), *, log: Hooks | None = None) -> None:
        super().__init__(listeners)
        self._clock = clock
        self._log = HookList.of(None if any(listener.logs for listener in listeners) else log)
        self._heard: dict[str, float] = {}
        self.owned: dict[str, int] = {}
        """How many slots of each scope this process owns."""
        self.postponed: dict[str, str] = {}
        """The topics that take nothing now, each with the reason."""

    def heard(self, part: str) -> Callable[[], float]:
        """Give a function that tells when a part was last heard of, by the monotonic clock."""
        return lambda: self._heard.get(part, float("-inf"))

    def idle(self, part: str) -> None:
        self._note(part)
        super().idle(part)

    def ownership(self, scope: str, buckets: int) -> None:
        self.owned[scope] = buckets
        self._note(RELAY)
        super().ownership(scope, buckets)

    def published(self, messages: Sequence[Message], age: timedelta) -> None:
        self._note(RELAY)
        self._log.published(messages, age)
        super().published(messages, age)

    def publish_failed(self, message: Message, error: Exception | None, attempt: int) -> None:
        self._note(RELAY)
        self._log.publish_failed(message, error, attempt)
        super().publish_failed(message, error, attempt)

    def broker_unavailable(self, error: Exception | None) -> None:
        self._note(RELAY)
        self._log.broker_unavailable(error)
        super().broker_unavailable(error)

    def topic_postponed(self, topic: str, error: Exception | None) -> None:
        self.postponed[topic] = error_line(error)
        self._log.topic_postponed(topic, error)
        super().topic_postponed(topic, error)

    def topic_resumed(self, topic: str) -> None:
        self.postponed.pop(topic, None)
        self._log.topic_resumed(topic)
        super().topic_resumed(topic)

    def handled(self, message: Message, consumer: str) -> None:
        self._note(CONSUMER)
        super().handled(message, consumer)

    def duplicate_prevented(self, message: Message, consumer: str) -> None:
        self._note(CONSUMER)
        super().duplicate_prevented(message, consumer)

    def handler_failed(self, message: Message, consumer: str, error: BaseException, attempt: int) -> None:
        self._note(CONSUMER)
        self._log.handler_failed(message, consumer, error, attempt)
        super().handler_failed(message, consumer, error, attempt)

    def dead(self, message: Message, consumer: str | None, error: str) -> None:
        self._log.dead(message, consumer, error)
        super().dead(message, consumer, error)

    def _note(self, part: str) -> None:
        self._heard[part] = self._clock.monotonic()
