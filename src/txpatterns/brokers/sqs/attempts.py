"""Requests for messages whose answer was lost: which of them are sent again, with the same id."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field, replace

_KNOWN_FOR = 290.0
"""Seconds: SQS knows an attempt for five minutes."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request for messages."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: float = field(default_factory=time.monotonic)
    """When it was sent first."""
    again: bool = False
    """It was sent before, and nobody knows what it was answered."""


class Unanswered:
    """The attempts of a broker that were not answered, by queue; they outlive a subscription.

    What such a request was given belongs to nobody until its visibility ends, and nothing of its keys moves. Sent
    again within five minutes, a request with the same id is given the same messages, now visible for as long again.
    """

    def __init__(self) -> None:
        self._lost: dict[str, deque[Attempt]] = {}
        self._changing = threading.Lock()

    def note(self, url: str, attempt: Attempt) -> None:
        """The answer to an attempt was lost."""
        with self._changing:
            self._lost.setdefault(url, deque()).append(replace(attempt, again=True))

    def next(self, url: str) -> Attempt:
        """Give an attempt whose answer was lost and may still be had, or a new one."""
        with self._changing:
            lost = self._lost.get(url)
            while lost:
                attempt = lost.popleft()
                if time.monotonic() - attempt.began < _KNOWN_FOR:
                    return attempt
        return Attempt()
