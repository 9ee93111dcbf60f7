"""What happens to a message until the broker has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from txpatterns.hooks import Moment, Span
from txpatterns.messages import Message


@dataclass(frozen=True, slots=True)
class Added(Moment):
    """A message was added to a transaction; it is not committed yet."""

    message: Message


@dataclass(frozen=True, slots=True)
class Publishing(Span):
    """A batch is being sent, until its last outcome is known."""

    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Published(Moment):
    """The broker has confirmed these messages."""

    messages: Sequence[Message]
    age: timedelta
    """Of the oldest."""


@dataclass(frozen=True, slots=True)
class PublishFailed(Moment):
    """The broker refused a message, and it waits for its next attempt."""

    message: Message
    error: Exception | None
    attempt: int


@dataclass(frozen=True, slots=True)
class TopicPostponed(Moment):
    """The broker takes nothing for a topic now: its messages wait, and it is tried from time to time."""

    topic: str
    error: Exception | None


@dataclass(frozen=True, slots=True)
class TopicResumed(Moment):
    """A topic that took nothing takes messages again."""

    topic: str
