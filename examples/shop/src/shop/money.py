"""Amounts of money: exact, with their currency, never a float."""

from __future__ import annotations

from decimal import Decimal
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

DECIMALS = {"EUR": 2, "USD": 2, "GBP": 2, "JPY": 0}
SIGNS = {"EUR": "€", "USD": "$", "GBP": "£", "JPY": "¥"}


class Money(BaseModel):
    """An amount with its currency. In JSON the amount is a string: ``{"amount": "12.30", "currency": "EUR"}``.

    Raises:
        ValueError: for a currency the shop does not know, or more decimals than the currency has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    amount: Decimal
    currency: str = "EUR"

    @model_validator(mode="after")
    def _whole_minor_units(self) -> Self:
        if self.currency not in DECIMALS:
            raise ValueError(f"unknown currency {self.currency!r}")
        quantum = Decimal(1).scaleb(-DECIMALS[self.currency])
        exact = self.amount.quantize(quantum)
        if exact != self.amount:
            raise ValueError(f"{self.currency} has no amount as small as {self.amount}")
        object.__setattr__(self, "amount", exact)  # frozen for everybody else; 12.3 becomes 12.30 once
        return self

    @classmethod
    def of_minor(cls, minor: int, currency: str = "EUR") -> Money:
        """Make an amount from whole cents (or the currency's own smallest unit), as databases store it."""
        return cls(amount=Decimal(minor).scaleb(-DECIMALS.get(currency, 2)), currency=currency)

    @property
    def minor(self) -> int:
        """The amount in whole cents, or the currency's own smallest unit."""
        return int(self.amount.scaleb(DECIMALS[self.currency]))

    def __add__(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise ValueError(f"{self.currency} and {other.currency} cannot be added")
        return Money(amount=self.amount + other.amount, currency=self.currency)

    def __sub__(self, other: Money) -> Money:
        return self + other * -1

    def __mul__(self, quantity: int) -> Money:
        return Money(amount=self.amount * quantity, currency=self.currency)

    def __str__(self) -> str:
        return f"{SIGNS[self.currency]}{self.amount:,}"


def total(amounts: list[Money], currency: str = "EUR") -> Money:
    """Add up amounts of one currency; of none, it is zero."""
    result = Money.of_minor(0, amounts[0].currency if amounts else currency)
    for amount in amounts:
        result += amount
    return result
