"""When each background part last made progress, told by what the parts say anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from txpatterns.clock import Clock
from txpatterns.hooks import Hooks
from txpatterns.messages import Message

RELAY, CONSUMER = "relay", "consumer"


class Pulse(Hooks):
    """Listens to the parts of one process. A part that waits for a broker that is away is alive, too."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: dict[str, float] = {}
        self.buckets: dict[str, int] = {}
        """How many slots of each scope this process owns."""

    def heard(self, part: str) -> Callable[[], float]:
        """Give a function that tells when a part was last heard of, by the monotonic clock."""
        return lambda: self._heard.get(part, float("-inf"))

    def _note(self, part: str) -> None:
        self._heard[part] = self._clock.monotonic()

    def idle(self, part: str) -> None:
        self._note(part)

    def ownership(self, scope: str, buckets: int) -> None:
        self.buckets[scope] = buckets
        self._note(RELAY)

    def published(self, messages: Sequence[Message], age: timedelta) -> None:
        self._note(RELAY)

    def publish_failed(self, message: Message, error: Exception | None, attempt: int) -> None:
        self._note(RELAY)

    def broker_unavailable(self, error: Exception | None) -> None:
        self._note(RELAY)

    def handled(self, message: Message, consumer: str) -> None:
        self._note(CONSUMER)

    def duplicate_prevented(self, message: Message, consumer: str) -> None:
        self._note(CONSUMER)

    def handler_failed(self, message: Message, consumer: str, error: BaseException, attempt: int) -> None:
        self._note(CONSUMER)
