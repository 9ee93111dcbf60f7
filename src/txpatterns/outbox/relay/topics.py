"""Which topics do not flow at the moment, and when each is tried again. Pure.

A fault of one topic holds up that topic alone: its messages are published apart from those of the others, and not
before its pause is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

_SHORTEST, _LONGEST = 0.05, 15.0
_POSTPONED_SHORTEST, _POSTPONED_LONGEST = 1.0, 30.0
_MANY = 20
"""Doublings: more would make no difference."""


@dataclass(slots=True)
class Trouble:
    """What is known of a topic that does not flow."""

    pauses: int = 0
    until: float = 0.0
    postponed: bool = False
    """The broker said that the topic takes nothing now: it is left out of reading, and tried with one message."""


class Topics:
    """The topics in trouble. Times are those of a monotonic clock, in seconds."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._troubles: dict[str, Trouble] = {}

    def __bool__(self) -> bool:
        return bool(self._troubles)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._troubles))

    def is_postponed(self, topic: str) -> bool:
        """Whether a topic takes nothing now, as far as the broker has told."""
        trouble = self._troubles.get(topic)
        return trouble is not None and trouble.postponed

    def postpone(self, topic: str, now: float) -> float:
        """The broker says that a topic takes nothing now; gives the seconds until it is tried again."""
        trouble = self._troubles.setdefault(topic, Trouble())
        if not trouble.postponed:
            trouble.pauses, trouble.until = 0, now
        trouble.postponed = True
        if now >= trouble.until:  # otherwise it is the same trouble, told of another message
            trouble.until = now + min(_POSTPONED_SHORTEST * 2**trouble.pauses, _POSTPONED_LONGEST)
            trouble.pauses = min(trouble.pauses + 1, _MANY)
        return trouble.until - now

    def pause(self, topic: str, now: float) -> None:
        """Messages of a topic were not answered for, and none of it was confirmed: wait a little before the next."""
        trouble = self._troubles.setdefault(topic, Trouble())
        if now >= trouble.until:
            jitter = 0.5 + self._random.random() / 2
            trouble.until = now + min(_SHORTEST * 2**trouble.pauses, _LONGEST) * jitter
            trouble.pauses = min(trouble.pauses + 1, _MANY)

    def lags(self, topic: str) -> None:
        """Messages of a topic wait for an answer while those of others get theirs."""
        self._troubles.setdefault(topic, Trouble())

    def flows(self, topic: str) -> Trouble | None:
        """A topic took a message; gives the trouble that is over."""
        return self._troubles.pop(topic, None)

    def is_due(self, topic: str, now: float) -> bool:
        """Whether a topic may be tried now."""
        trouble = self._troubles.get(topic)
        return trouble is None or now >= trouble.until

    def resting(self, now: float) -> list[str]:
        """Give the topics that are not to be tried now."""
        return [topic for topic, trouble in self._troubles.items() if trouble.until > now]

    def next_at(self, now: float) -> float | None:
        """Say when the next pause is over; None when none lasts."""
        return min((trouble.until for trouble in self._troubles.values() if trouble.until > now), default=None)
