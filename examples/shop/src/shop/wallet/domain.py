"""Books of double entry: what leaves one account arrives in another, so that all together are nothing. Pure."""

from __future__ import annotations

from dataclasses import dataclass

WELCOME_MINOR = 2_000
"""What everybody has to begin with, in cents."""
CURRENCY = "EUR"
PROMOTIONS = "shop/promotions"
"""Where the shop's gifts come from: what it has given away is its debt to this account."""
SALES = "shop/sales"


class NotEnough(ValueError):
    """More was asked for than is there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a transfer: so many cents into an account, or out of it."""

    account: str
    minor: int


@dataclass(frozen=True, slots=True)
class Credit:
    """What somebody has: to spend, and set aside for checkouts under way. Neither is ever below zero."""

    available: int
    held: int = 0

    def __post_init__(self) -> None:
        if min(self.available, self.held) < 0:
            raise NotEnough(f"nobody spends what they do not have: {self}")

    def give(self, minor: int) -> Credit:
        """Add to it."""
        return Credit(self.available + minor, self.held)

    def hold(self, minor: int) -> Credit:
        """Set some aside. Raises NotEnough."""
        return Credit(self.available - minor, self.held + minor)

    def spend(self, minor: int) -> Credit:
        """Spend what was set aside."""
        return Credit(self.available, self.held - minor)

    def release(self, minor: int) -> Credit:
        """Give back what was set aside."""
        return Credit(self.available + minor, self.held - minor)


def available(owner: str) -> str:
    """Name the account of what somebody may spend."""
    return f"{owner}/available"


def held(owner: str) -> str:
    """Name the account of what is set aside for somebody's checkouts."""
    return f"{owner}/held"


def transfer(source: str, target: str, minor: int) -> tuple[Entry, Entry]:
    """Write both sides of a transfer."""
    if minor <= 0:
        raise ValueError("a transfer moves more than nothing")
    return Entry(source, -minor), Entry(target, minor)
