"""What a member has read and not finished, and what it may give out. Pure; it does no I/O."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable

from txpatterns.brokers.database.store import Part, Row


class Progress:
    """The rows between reading and deleting, in the order of their positions in each part."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.after = 0
        """The position up to which everything of our parts was read."""
        self.done: list[int] = []
        """Acknowledged, and to be deleted."""
        self._most, self._most_bytes = most, most_bytes
        self._rows: dict[int, Row] = {}
        self._bytes = 0
        self._waiting: deque[Row] = deque()
        self._out: Counter[Part] = Counter()
        self._gone: set[int] = set()
        """What was deleted since the last reading began: it may have read it still."""

    @property
    def room(self) -> int:
        """How many more rows may be read."""
        return max(self._most - len(self._rows), 0) if self._bytes < self._most_bytes else 0

    @property
    def room_bytes(self) -> int:
        """How many bytes of payload may still be read."""
        return max(self._most_bytes - self._bytes, 1)

    @property
    def waiting(self) -> int:
        """How many rows were read and are not given out."""
        return len(self._waiting)

    def reading_began(self) -> None:
        """Note that a page is about to be read."""
        self._gone.clear()

    def take_in(self, rows: Iterable[Row]) -> None:
        """Accept what was read, but for what is known."""
        for row in rows:
            if row.position not in self._rows and row.position not in self._gone:
                self._rows[row.position] = row
                self._bytes += len(row.message.payload)
                self._waiting.append(row)
            self.after = max(self.after, row.position)

    def read_again(self) -> None:
        """Begin at the first position: of parts that are newly ours nothing was read."""
        self.after = 0

    def next(self, most: int) -> list[Row]:
        """Give out what comes next."""
        given = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        for row in given:
            self._out[row.part] += 1
        return given

    def drop(self, parts: Collection[Part]) -> None:
        """Forget what was not given out of parts that go to another member."""
        kept: deque[Row] = deque()
        for row in self._waiting:
            if row.part in parts:
                del self._rows[row.position]
                self._bytes -= len(row.message.payload)
            else:
                kept.append(row)
        self._waiting = kept

    def under_way(self, part: Part) -> bool:
        """Whether something of a part was given out and is not deleted."""
        return self._out[part] > 0

    def acknowledge(self, row: Row) -> None:
        """The application is done with a row."""
        self.done.append(row.position)

    def settled(self, positions: Iterable[int]) -> None:
        """These are deleted."""
        for position in positions:
            row = self._rows.pop(position, None)
            if row is not None:
                self._bytes -= len(row.message.payload)
                self._out[row.part] -= 1
                self._gone.add(position)
