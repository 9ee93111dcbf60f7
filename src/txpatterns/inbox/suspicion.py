"""Which deliveries may have ended the process that handled them before."""

from __future__ import annotations

from txpatterns.coordination import Census
from txpatterns.transport import Delivery

_REMEMBERED = 100_000


class Suspicion:
    """Remembers that a member of the group died, and which lanes have been safe since.

    A process that dies runs the first messages of each lane that are not acknowledged: one, or as many as its handlers
    take at a time. So after a death as many of the next messages of each lane are suspect, for as long as the dead
    member is remembered (ten minutes); and always one that the broker calls redelivered.
    """

    def __init__(self) -> None:
        self.at_once = 1
        """How many messages of a lane may run together."""
        self._dead = 0
        self._cleared: dict[tuple[str, str], int] = {}

    def hear(self, census: Census) -> None:
        """Take note of who is in the group now."""
        if census.stale > self._dead:
            self._cleared.clear()
        self._dead = census.stale

    def suspects(self, delivery: Delivery) -> bool:
        """Whether this delivery's attempt is to be written before its handler runs."""
        if delivery.redelivered:
            return True
        if not self._dead:
            return False
        message = delivery.message
        return message.key is None or self._cleared.get((message.topic, message.key), 0) < self.at_once

    def clear(self, delivery: Delivery) -> None:
        """A message of this lane has been dealt with."""
        if self._dead and delivery.message.key is not None:
            if len(self._cleared) >= _REMEMBERED:
                self._cleared.clear()
            lane = (delivery.message.topic, delivery.message.key)
            self._cleared[lane] = self._cleared.get(lane, 0) + 1
