"""Stock as a pure value: what is there, what is set aside, what is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace


class NotEnough(ValueError):
    """More was asked for than is there."""


@dataclass(frozen=True, slots=True)
class Stock:
    """One product's stock. ``available + reserved + sold`` stays what was ever stocked, and none is below zero."""

    available: int
    reserved: int = 0
    sold: int = 0

    def __post_init__(self) -> None:
        if min(self.available, self.reserved, self.sold) < 0:
            raise NotEnough(f"no part of the stock may be below zero: {self}")

    @property
    def stocked(self) -> int:
        """How many were ever put on the shelf."""
        return self.available + self.reserved + self.sold

    def reserve(self, quantity: int) -> Stock:
        """Set some aside. Raises NotEnough when fewer are available."""
        return replace(self, available=self.available - quantity, reserved=self.reserved + quantity)

    def release(self, quantity: int) -> Stock:
        """Put some that were set aside back on the shelf."""
        return replace(self, available=self.available + quantity, reserved=self.reserved - quantity)

    def sell(self, quantity: int) -> Stock:
        """Hand over some that were set aside."""
        return replace(self, reserved=self.reserved - quantity, sold=self.sold + quantity)


def needs(lines: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Add up what is needed of each sku: two lines with one sku draw on the same shelf."""
    wanted: Counter[str] = Counter()
    for sku, quantity in lines:
        wanted[sku] += quantity
    return dict(sorted(wanted.items()))


def shortages(wanted: Mapping[str, int], available: Mapping[str, int]) -> dict[str, int]:
    """Say of which skus there is too little, and how many there are."""
    return {sku: available.get(sku, 0) for sku, n in wanted.items() if available.get(sku, 0) < n}
