"""What may still come to light below a place that was read: transactions of which nothing can be seen yet. Pure.

A snapshot of PostgreSQL shows what had ended when it was taken. It lists the transactions that ran then, but for those
that are younger than the last one to end: of these it only tells where their numbers begin. A transaction draws its
positions when it has its number. So whatever ran when a place in the table was read has its rows above the highest
position that was known when that transaction had not begun yet; and when it has ended, only what lies above that has
to be read again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

_ENDLESS = 1 << 62


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the database says of running transactions, by their numbers."""

    listed: frozenset[int]
    unlisted: int
    """Numbers from here on were running or not given yet."""
    next: int
    """Numbers from here on had not been given: it is asked behind the snapshot."""

    @classmethod
    def of(cls, text: str, age: int) -> Snapshot:
        """Read PostgreSQL's form, ``xmin:xmax:listed,listed``; so many numbers as ``age`` were given from xmax on."""
        _, unlisted, listed = text.split(":")
        return cls(frozenset(map(int, filter(None, listed.split(",")))), int(unlisted), int(unlisted) + age)

    def may_run(self, number: int) -> bool:
        """Whether this transaction had not ended yet, as far as this tells."""
        return number in self.listed or number >= self.unlisted


@dataclass(frozen=True, slots=True)
class Unseen:
    """The transactions that ran at the last look, each with a position below all that it can have written."""

    listed: dict[int, int] = field(default_factory=dict)
    first: int = 0
    """Those that were not listed have the numbers from here to ``end``."""
    end: int = _ENDLESS
    low: int = 0
    """Below all that these can have written."""

    @property
    def lowest(self) -> int:
        """Below all that may still come to light."""
        return min([self.low, *self.listed.values()])

    def after(self, snapshot: Snapshot, highest: int) -> Unseen:
        """Give what is unseen after another look; ``highest`` is the highest position of the looks before it."""
        listed = {number: self._low_of(number, highest) for number in snapshot.listed}
        nothing_else = snapshot.unlisted == snapshot.next
        low = _ENDLESS if nothing_else else self._low_of(snapshot.unlisted, highest)
        return Unseen(listed, snapshot.unlisted, snapshot.next, low)

    def without(self, numbers: Collection[int]) -> Unseen:
        """Give what is unseen but for these, which have written nothing to the outbox: our own."""
        listed = {number: low for number, low in self.listed.items() if number not in numbers}
        only_these = self.end - self.first <= len(numbers) and all(n in numbers for n in range(self.first, self.end))
        return Unseen(listed, self.first, self.end, _ENDLESS if only_these else self.low)

    def _low_of(self, number: int, highest: int) -> int:
        known = self.listed.get(number)
        if known is not None:
            return known
        return min(self.low, highest) if number < self.end else highest
