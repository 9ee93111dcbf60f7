"""What happens to a message at its handlers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from txpatterns.hooks import Moment, Span
from txpatterns.messages import Message


@dataclass(frozen=True, slots=True)
class Handling(Span):
    """A handler runs, until its transaction has ended."""

    message: Message
    consumer: str
    attempt: int


@dataclass(frozen=True, slots=True)
class HandlingBatch(Span):
    """A handler runs for several messages at once, until their transaction has ended.

    What became of each is told as for any other message. A batch of one is told by ``Handling``.
    """

    messages: Sequence[Message]
    consumer: str


@dataclass(frozen=True, slots=True)
class Handled(Moment):
    """A handler's effect is committed."""

    message: Message
    consumer: str


@dataclass(frozen=True, slots=True)
class DuplicatePrevented(Moment):
    """A message came again, and its effect was not repeated."""

    message: Message
    consumer: str


@dataclass(frozen=True, slots=True)
class HandlerFailed(Moment):
    """A handler raised; the message waits for its next attempt, or becomes a dead letter."""

    message: Message
    consumer: str
    error: BaseException
    attempt: int
