"""How often a message got no answer, as far as that counts against it: kept while the relay begins anew. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from txpatterns.outbox.relay.rows import Row


@dataclass(frozen=True, slots=True)
class _Doubt:
    position: int
    times: int
    confirmations: int


class Doubts:
    """What one relay knows of messages without an answer; of the last ``most`` of them.

    Silence counts against a message only when the broker took others meanwhile, and from this very relay: that another
    relay gets its confirmations says nothing of our own link, and would make dead letters of all that is ours.
    """

    def __init__(self, most: int = 2000) -> None:
        self.confirmations = 0
        """How many messages were confirmed to this relay."""
        self._most = most
        self._of: dict[str, _Doubt] = {}

    def add(self, row: Row) -> int:
        """Take note that a message got no answer; gives how often that counts."""
        known, times = self._of.pop(row.message.id, None), 1
        if known is not None and known.position == row.position:  # sent again by an operator, it has another place
            times = known.times + (self.confirmations > known.confirmations)
        self._of[row.message.id] = _Doubt(row.position, times, self.confirmations)
        if len(self._of) > self._most:
            del self._of[next(iter(self._of))]
        return times

    def forget(self, rows: Iterable[Row]) -> None:
        """Know nothing more of messages that are confirmed, or of which it is written that they failed."""
        if self._of:
            for row in rows:
                self._of.pop(row.message.id, None)
