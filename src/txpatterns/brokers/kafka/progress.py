"""What is done in one partition: the offsets handed out, and up to where they may be committed. No I/O."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Progress(Generic[T]):
    """One partition, from its assignment to this member until its loss.

    The consumer's thread takes records in and commits; the event loop hands out and acknowledges. Each side
    appends to what the other only reads, so there is no lock.
    """

    __slots__ = ("_done", "_open", "bytes", "committed", "handed_out", "held", "key", "lost", "position", "waits")

    def __init__(self, topic: str, partition: int) -> None:
        self.key = (topic, partition)
        self.position: int | None = None
        """What may be committed: everything below is done."""
        self.committed: int | None = None
        self.bytes = 0
        self.handed_out = -1
        """The highest offset that the application has."""
        self.lost = False
        self.waits = 0
        """How many deliveries wait to be handed out again; what follows them waits in `held`."""
        self.held: list[T] = []
        self._open: deque[tuple[int, int]] = deque()
        self._done: set[int] = set()

    def take_in(self, offset: int, size: int) -> None:
        """A record came from the broker."""
        if self.position is None:
            self.position = self.committed = offset
        self._open.append((offset, size))
        self.bytes += size

    def acknowledge(self, offset: int) -> None:
        """The application is done with a record; its predecessors may still be open."""
        self._done.add(offset)

    def advance(self) -> None:
        """Move the position over all that is done without a gap. Offsets themselves may have gaps."""
        while self._open and self._open[0][0] in self._done:
            offset, size = self._open.popleft()
            self._done.discard(offset)
            self.bytes -= size
            self.position = offset + 1

    @property
    def in_flight(self) -> int:
        """How many records were taken in and are not below the position."""
        return len(self._open)

    @property
    def is_busy(self) -> bool:
        """Whether the application has a record that it has not acknowledged."""
        return bool(self._open) and self._open[0][0] <= self.handed_out

    @property
    def to_commit(self) -> int | None:
        """The offset to commit; None when that is done already."""
        return None if self.position == self.committed else self.position
