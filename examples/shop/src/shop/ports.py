"""What the services offer each other directly: one protocol each, and the values that pass through.

A service is written against these, never against another service. In one process the protocol is the service's own
object; across processes it is a caller from ``shop.calls`` with the same methods.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from shop.money import Money


class View(BaseModel):
    """A value that one service shows to another."""

    model_config = ConfigDict(frozen=True)


class Category(View):
    slug: str
    name: str


class Product(View):
    sku: str
    name: str
    blurb: str
    description: str
    category: str
    seller: str
    price: Money
    art: str
    hue: int


class ProductPage(View):
    items: list[Product]
    next: str | None = None


class CartLine(View):
    id: str
    sku: str
    name: str
    quantity: int
    unit_price: Money
    line_total: Money


class Cart(View):
    visitor_id: str
    version: int
    lines: list[CartLine]
    total: Money

    @property
    def count(self) -> int:
        """How many things are in it."""
        return sum(line.quantity for line in self.lines)


class StockLevel(View):
    sku: str
    available: int
    reserved: int
    sold: int


class Mode(StrEnum):
    """Who leads a checkout: nobody, each service following the others' events, or a saga."""

    CHOREOGRAPHED = "choreographed"
    ORCHESTRATED = "orchestrated"


class NewOrder(View):
    checkout_id: str
    visitor_id: str
    cart_version: int
    lines: list[CartLine]
    method: str
    mode: Mode = Mode.CHOREOGRAPHED


class Order(View):
    id: str
    visitor_id: str
    status: str
    canceling: str | None
    lines: list[CartLine]
    total: Money
    method: str
    created_at: datetime
    pay_by: datetime
    mode: Mode = Mode.CHOREOGRAPHED


class OrderPage(View):
    items: list[Order]
    next: str | None = None


class Charge(View):
    id: str
    status: str  # "pending", "captured", "failed", "refunded"
    amount: Money


class StockNeed(View):
    """So many of one sku."""

    sku: str
    quantity: int


class Reservation(View):
    """What became of the wish to set something aside: ``state`` is reserved, rejected, released or sold."""

    state: str
    short: list[StockNeed] = []
    """Of what there is too little, with how many there are; where it was rejected just now."""


class CheckoutSession(View):
    """A checkout that a saga leads: ``status`` is STARTED, COMPLETED or FAILED, with the reason."""

    order_id: str
    status: str
    reason: str | None


class WebhookResult(View):
    """What became of a webhook: whether it was new, and what it did, in words."""

    webhook_id: str
    first: bool
    outcome: str


class Catalog(Protocol):
    async def categories(self) -> list[Category]: ...

    async def products(self, category: str | None, words: str | None, after: str | None, limit: int) -> ProductPage: ...

    async def product(self, sku: str) -> Product: ...

    async def products_by_sku(self, skus: list[str]) -> list[Product]: ...


class Carts(Protocol):
    async def get(self, visitor_id: str) -> Cart: ...

    async def add(self, visitor_id: str, sku: str, quantity: int) -> Cart: ...

    async def update(self, visitor_id: str, line_id: str, quantity: int, version: int | None) -> Cart: ...

    async def remove(self, visitor_id: str, line_id: str) -> None: ...

    async def reprice(self, visitor_id: str) -> Cart: ...

    async def clear(self, visitor_id: str) -> None: ...


class Inventory(Protocol):
    async def levels(self, skus: list[str]) -> list[StockLevel]: ...

    async def reserve(self, order_id: str, lines: list[StockNeed], until: datetime) -> Reservation: ...

    async def release(self, order_id: str) -> Reservation: ...


class Orders(Protocol):
    async def place(self, order: NewOrder) -> Order: ...

    async def made(self, visitor_id: str, checkout_id: str, cart_version: int) -> Order | None: ...

    async def get(self, visitor_id: str, order_id: str) -> Order: ...

    async def list(self, visitor_id: str, after: str | None, limit: int) -> OrderPage: ...

    async def cancel(self, visitor_id: str, order_id: str) -> Order: ...


class Checkouts(Protocol):
    async def get(self, visitor_id: str, order_id: str) -> CheckoutSession: ...


class Payments(Protocol):
    async def charge(self, key: str, order_id: str, amount: Money, method: str, pay_by: datetime) -> Charge: ...

    async def find(self, key: str) -> Charge | None: ...

    async def refund(self, key: str, order_id: str, amount: Money, method: str) -> Charge: ...

    async def receive_webhook(self, body: bytes, headers: dict[str, str]) -> WebhookResult: ...


class Bank(Protocol):
    async def charge(self, key: str, amount: Money, method: str, window_seconds: float) -> Charge: ...

    async def find(self, key: str) -> Charge | None: ...

    async def stop(self, key: str, amount: Money) -> Charge: ...

    async def refund(self, key: str, charge_id: str) -> Charge: ...
