"""Ids that need nobody: 128 bits, of time and chance."""

from __future__ import annotations

from uuid import UUID

from txpatterns.messages import new_id


class Uuid7:
    """Makes UUIDs of version 7: always, everywhere, in order of time to a fraction of a millisecond.

    They are unique by chance, of 62 random bits, and not by anybody's care. That is certain enough for a cluster of any
    size; but they need twice the room of a 64-bit id, and are no numbers.
    """

    def next_id(self) -> UUID:
        """Make one."""
        return UUID(new_id())

    def prepare(self) -> None:
        """Nothing is needed."""
