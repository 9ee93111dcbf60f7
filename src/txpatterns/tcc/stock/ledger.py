"""What Redis is rebuilt from: a ledger of all that was ever reserved and sold, somewhere that forgets nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from txpatterns.tcc.stock.contract import Level, Reservation


class Hold(NamedTuple):
    """Which hold of Redis a reservation is: the running number that Redis had then, in this generation.

    Zeros are a reservation that Redis has not made.
    """

    generation: int = 0
    number: int = 0

    def __str__(self) -> str:
        return f"{self.generation}.{self.number}"


class Settled(NamedTuple):
    """What became of a call that ends a reservation: whether it was this one, and which hold of Redis has ended."""

    changed: bool
    hold: Hold = Hold()


class Total(NamedTuple):
    """What there is of an item in all, as it was counted last, and how often it was counted."""

    version: int
    total: int


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation, and the hold of Redis that it is, or was."""

    reservation: Reservation
    hold: Hold


class Verdict(StrEnum):
    """What the ledger says to what Redis has reserved."""

    KEPT = "kept"
    """All of it is in the ledger."""
    FENCED = "fenced"
    """A newer generation has begun: Redis is rebuilt, without these. Nothing was written."""
    EXCEEDED = "exceeded"
    """Redis has given away more than there is, so it has forgotten something. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The ledger's answer: its verdict, and how each of the reservations stands now."""

    verdict: Verdict
    entries: Mapping[str, Held]
    """By id."""


@dataclass(frozen=True, slots=True)
class Picture:
    """All that Redis needs to know, as it was at one moment."""

    levels: Mapping[str, tuple[int, Level]]
    """By item, with the version of its count."""
    held: Sequence[Held]


class Ledger(Protocol):
    """Keeps what Redis may forget. What has been answered is committed: it survives a crash.

    Its own counts are the truth: `keep` refuses what Redis has given away though there is too little. So no Redis,
    whatever it has forgotten, sells more than there is.
    """

    async def place(self) -> Hold:
        """Give the present generation, and the highest number that it has kept of it; 0 where it has none."""

    async def begin(self, after: int, above: int = 0) -> int:
        """Begin a new generation, if ``after`` is still the present one; gives the one that is present then.

        It is higher than both: ``above`` is what a Redis has that another ledger was before. From here on, `keep`
        takes nothing of an older one.
        """

    async def keep(self, held: Sequence[Held], generation: int) -> Kept:
        """Write down what Redis has reserved, all of it or nothing. What it has already, it gives as it stands."""

    async def confirm(self, reservation_id: str) -> Settled:
        """Take what is set aside out of the stock for good. Raises what `Stock.confirm` raises."""

    async def cancel(self, reservation_id: str) -> Settled:
        """Make what is set aside available again, or shut a reservation out. Raises what `Stock.cancel` raises."""

    async def prolong(self, reservation_id: str, expires_at: datetime) -> bool:
        """Put off, once, when it is asked for. Raises what `Stock.prolong` raises."""

    async def load(self, quantities: Mapping[str, int]) -> Sequence[str]:
        """Add the items that it does not know; gives which these were."""

    async def set_available(self, item: str, quantity: int) -> Total:
        """Say how many of an item are available."""

    async def totals(self, items: Iterable[str]) -> Mapping[str, Total]:
        """Give what there is of these items in all."""

    async def reservation(self, reservation_id: str) -> Reservation | None:
        """Say how a reservation stands."""

    async def picture(self) -> Picture:
        """Give everything that is held, and all levels, of one moment."""
