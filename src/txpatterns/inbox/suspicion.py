"""Which deliveries may have ended the process that handled them before."""

from __future__ import annotations

from txpatterns.database.leases import Census
from txpatterns.transport import Delivery

_REMEMBERED = 100_000


class Suspicion:
    """Remembers that a member of the group died, and which lanes have been safe since.

    A process that dies runs at most one message of each lane, the first one that is not acknowledged. So after a
    death the next message of each lane is suspect, for as long as the dead member is remembered (ten minutes); and
    always one that the broker calls redelivered.
    """

    def __init__(self) -> None:
        self._dead = 0
        self._cleared: set[tuple[str, str]] = set()

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
        return message.key is None or (message.topic, message.key) not in self._cleared

    def clear(self, delivery: Delivery) -> None:
        """A message of this lane has been dealt with."""
        if self._dead and delivery.message.key is not None:
            if len(self._cleared) >= _REMEMBERED:
                self._cleared.clear()
            self._cleared.add((delivery.message.topic, delivery.message.key))
