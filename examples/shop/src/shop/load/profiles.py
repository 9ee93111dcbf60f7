"""What visitors come for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any


class Profile(StrEnum):
    """Which journeys are made."""

    SMOKE = "smoke"
    CHECKOUT = "checkout"
    TCC = "tcc"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Journey:
    """One visitor's way: its kind, and what they order; who orders nothing looks around."""

    kind: str
    sku: str
    quantity: int = 0
    wish: dict[str, Any] | None = None


LOOK, PLAIN, LED, THREE = "browse", "checkout", "orchestrated", "tcc"
KINDS: Mapping[Profile, Sequence[tuple[str, int]]] = {
    Profile.SMOKE: [(LOOK, 1)],
    Profile.CHECKOUT: [(PLAIN, 1)],
    Profile.TCC: [(THREE, 1)],
    Profile.MIXED: [(LOOK, 6), (PLAIN, 2), (LED, 1), (THREE, 1)],
}
"""What of so many visitors."""
METHODS = ("succeed", "succeed", "succeed", "twice", "fail")
"""What the bank does where the journeys are mixed; elsewhere it says yes."""


def journey(profile: Profile, skus: Sequence[str], random: Random) -> Journey:
    """Draw the next visitor's."""
    kinds = KINDS[profile]
    kind = random.choices([name for name, _ in kinds], [weight for _, weight in kinds])[0]
    sku = random.choice(skus)
    if kind == LOOK:
        return Journey(kind, sku)
    wish: dict[str, Any] = {"method": random.choice(METHODS) if profile is Profile.MIXED else "succeed"}
    if kind == LED:
        wish["mode"] = "orchestrated"
    if kind == THREE:
        wish |= {"coupon": "WELCOME10", "use_credit": True}
    return Journey(kind, sku, random.randint(1, 2), wish)
