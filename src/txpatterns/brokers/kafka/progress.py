"""What is done in one partition: the offsets handed out, and up to where they may be committed. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class Progress:
    """One partition, from its assignment to this member until its loss.

    The consumer's thread takes records in and commits; the event loop hands out and acknowledges. Each side
    appends to what the other only reads, so there is no lock.
    """

    __slots__ = (
        "_done",
        "_open",
        "_sizes",
        "bytes",
        "committed",
        "handed_out",
        "key",
        "lost",
        "position",
    )

    def __init__(self, topic: str, partition: int) -> None:
        self.key = (topic, partition)
        self.position: int | None = None
        """What may be committed: everything below is done."""
        self.committed: int | None = None
        self.bytes = 0
        self.handed_out = -1
        """The highest offset that the application has."""
        self.lost = False
        # Two rows of plain numbers: a pair for each record would keep the garbage collector busy.
        self._open: deque[int] = deque()
        self._sizes: deque[int] = deque()
        self._done: set[int] = set()

    def take_in(self, offsets: Sequence[int], sizes: Sequence[int]) -> None:
        """Records came from the broker."""
        if self.position is None:
            self.position = self.committed = offsets[0]
        self._open.extend(offsets)
        self._sizes.extend(sizes)
        self.bytes += sum(sizes)

    def acknowledge(self, offset: int) -> None:
        """The application is done with a record; its predecessors may still be open."""
        self._done.add(offset)

    def advance(self) -> None:
        """Move the position over all that is done without a gap. Offsets themselves may have gaps."""
        is_open, done = self._open, self._done
        while is_open and is_open[0] in done:
            offset = is_open.popleft()
            done.discard(offset)
            self.bytes -= self._sizes.popleft()
            self.position = offset + 1

    @property
    def in_flight(self) -> int:
        """How many records were taken in and are not below the position."""
        return len(self._open)

    @property
    def is_busy(self) -> bool:
        """Whether the application has a record that it has not acknowledged."""
        return bool(self._open) and self._open[0] <= self.handed_out

    @property
    def to_commit(self) -> int | None:
        """The offset to commit; None when that is done already."""
        return None if self.position == self.committed else self.position
