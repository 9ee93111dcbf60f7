"""What a coupon takes off, and who may have it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shop.money import Money

HUNDRED = 100


class Refusal(StrEnum):
    """Why a coupon is not given."""

    UNKNOWN = "there is no such coupon"
    TOO_SMALL = "the order is too small for it"
    OTHER_CURRENCY = "it is for another currency"
    USED_UP = "it is used up"
    USED_BY_YOU = "you have used it before"
    OTHER_DISCOUNT = "it takes off another amount now"


@dataclass(frozen=True, slots=True)
class Offer:
    """A coupon: a share of the total, or an amount, off an order of at least so much; ``uses`` are for all people."""

    code: str
    says: str
    uses: int
    percent: int = 0
    minor: int = 0
    least_minor: int = 0
    currency: str = "EUR"

    def discount(self, total: Money) -> Money:
        """Say what it takes off: never more than there is to pay, and a share is rounded in favour of nobody: down."""
        off = total.minor * self.percent // HUNDRED + self.minor
        return Money.of_minor(min(off, total.minor), total.currency)

    def refusal(self, total: Money) -> Refusal | None:
        """Say why an order of this total cannot have it; None: it can."""
        if total.currency != self.currency:
            return Refusal.OTHER_CURRENCY
        return Refusal.TOO_SMALL if total.minor < self.least_minor else None


@dataclass(frozen=True, slots=True)
class Uses:
    """How many are set aside for checkouts under way, and how many are used; together never more than ``most``."""

    most: int
    held: int = 0
    used: int = 0

    def __post_init__(self) -> None:
        if min(self.held, self.used) < 0 or self.held + self.used > self.most:
            raise ValueError(f"a coupon's uses do not add up: {self}")

    @property
    def left(self) -> int:
        """How many more may be set aside."""
        return self.most - self.held - self.used

    def hold(self) -> Uses:
        """Set one aside."""
        return Uses(self.most, self.held + 1, self.used)

    def use(self) -> Uses:
        """Use one that was set aside."""
        return Uses(self.most, self.held - 1, self.used + 1)

    def release(self) -> Uses:
        """Give back one that was set aside."""
        return Uses(self.most, self.held - 1, self.used)


DEMO = (
    Offer("WELCOME10", "10 % off, once for everybody", uses=1_000_000, percent=10),
    Offer("LAST3", "€5.00 off an order of €20.00 or more, for the first three", uses=3, minor=500, least_minor=2_000),
)
"""The coupons of a new shop."""
