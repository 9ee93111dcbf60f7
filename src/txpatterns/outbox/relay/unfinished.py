"""The rows that a relay has read and not settled: what a page that is read again must not bring twice. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from txpatterns.outbox.relay.rows import Row


class Unfinished:
    """The rows by message id, the bytes of their payloads, and for a while what was settled."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.bytes = 0
        self.forgotten = 0
        """How often rows were let go of unfinished, and have to be read again."""
        self.settled_lately: dict[str, int] = {}
        """What a reading may still bring that began before it was settled, each with its place then.

        A message that an operator sends again has the same id and another place."""

    def finish(self, rows: Iterable[Row]) -> None:
        """Forget rows that are settled in the database, but for a reading that began before."""
        self._remove(rows)
        self.settled_lately.update([(row.message.id, row.position) for row in rows])

    def forget(self, rows: Iterable[Row]) -> None:
        """Let go of rows that have to be read again."""
        self.forgotten += 1
        self._remove(rows)

    def _remove(self, rows: Iterable[Row]) -> None:
        known = self.rows
        for row in rows:
            message = row.message
            if known.pop(message.id, None) is not None:
                self.bytes -= len(message.payload)

    def positions(self, above: int) -> list[int]:
        """Give the places above a position of what is read and not finished."""
        return [row.position for row in self.rows.values() if row.position > above]

    def positions_of(self, rows: Iterable[Row]) -> list[int]:
        """Give the places of those among these rows that are read and not finished."""
        known = self.rows
        return [row.position for row in rows if row.message.id in known]

    def reading_began(self) -> dict[str, int]:
        """Note a reading: what was settled before it cannot turn up in it. Give the note to ``reading_ended``."""
        return dict(self.settled_lately)

    def reading_ended(self, settled_before: Mapping[str, int]) -> None:
        """Forget what was settled before the reading that has ended, and not anew since."""
        lately = self.settled_lately
        for message_id, position in settled_before.items():
            if lately.get(message_id) == position:
                del lately[message_id]
