"""What the services offer each other directly: one protocol each, and the values that pass through.

A service is written against these, never against another service. In one process the protocol is the service's own
object; across processes it is a caller from ``shop.calls`` with the same methods.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from shop.money import Money
from shop.reductions import Reduction

# What a call may name: looked at where it comes in from another process.
Key = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]+$")]
"""Tells a wish of the caller's from all others: the same wish again, with the same key, is done once."""
Sku = Annotated[str, StringConstraints(min_length=1, max_length=40, pattern=r"^[^\x00]+$")]
VisitorId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00]+$")]
OrderId = Annotated[str, StringConstraints(min_length=1, max_length=36, pattern=r"^[^\x00]+$")]
CheckoutId = Annotated[str, StringConstraints(min_length=1, max_length=80, pattern=r"^[^\x00]+$")]
Text = Annotated[str, StringConstraints(max_length=80, pattern=r"^[^\x00]*$")]
Email = Annotated[str, StringConstraints(max_length=320, pattern=r"^[^\x00]*$")]
Password = Annotated[str, StringConstraints(max_length=200)]
Token = Annotated[str, StringConstraints(max_length=200)]
MethodName = Annotated[str, StringConstraints(min_length=1, max_length=16, pattern=r"^[^\x00]+$")]
CouponCode = Annotated[str, StringConstraints(min_length=1, max_length=40, pattern=r"^[^\x00]+$")]
PageSize = Annotated[int, Field(ge=1, le=100)]


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
    version: int = 0
    """Grows with each change."""


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


class Saving(View):
    """What somebody who orders wants to save: with a coupon, with their credit."""

    coupon: CouponCode | None = None
    use_credit: bool = False

    @property
    def wanted(self) -> bool:
        """Whether it is anything."""
        return self.coupon is not None or self.use_credit


class CouponQuote(View):
    """What a coupon takes off."""

    code: str
    says: str
    discount: Money


class Wallet(View):
    """Somebody's credit: to spend, and set aside for checkouts under way."""

    available: Money
    held: Money


class NewOrder(View):
    checkout_id: CheckoutId
    visitor_id: VisitorId
    cart_version: int
    lines: list[CartLine]
    method: MethodName
    mode: Mode = Mode.CHOREOGRAPHED
    reduction: Reduction | None = None


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
    reduction: Reduction | None = None

    @property
    def to_pay(self) -> Money:
        """What the bank is asked for."""
        return self.total if self.reduction is None else self.reduction.to_pay


class OrderPage(View):
    items: list[Order]
    next: str | None = None


class Charge(View):
    id: str
    status: str  # "pending", "captured", "failed", "refunded"
    amount: Money


class StockNeed(View):
    """So many of one sku."""

    sku: Sku
    quantity: int


class Reservation(View):
    """What is set aside for an order: ``state`` is reserved, rejected, released or sold."""

    order_id: str
    state: str
    lines: list[StockNeed]


class CheckoutSession(View):
    """A checkout that a saga leads: ``status`` is STARTED, COMPLETED or FAILED, with the reason."""

    order_id: str
    status: str
    reason: str | None


class User(View):
    """An account, as its owner sees it."""

    id: str
    email: str
    name: str
    since: datetime


class Login(View):
    """That somebody is signed in: what proves it for a while, and what is exchanged for the next proof."""

    access_token: str = Field(repr=False)
    expires_in: int
    """Seconds that the access token is good."""
    refresh_token: str = Field(repr=False)
    refresh_expires_in: int
    """Seconds until somebody has to sign in again."""
    user: User


class WebhookResult(View):
    """What became of a webhook: whether it was new, and what it did, in words."""

    webhook_id: str
    first: bool
    outcome: str


class Catalog(Protocol):
    async def categories(self) -> list[Category]: ...

    async def products(
        self, category: Text | None, words: Text | None, after: Text | None, limit: PageSize
    ) -> ProductPage: ...

    async def product(self, sku: Sku) -> Product: ...

    async def products_by_sku(self, skus: list[Sku]) -> list[Product]: ...

    async def set_price(self, sku: Sku, price: Money) -> Product: ...


class Carts(Protocol):
    async def get(self, visitor_id: VisitorId) -> Cart: ...

    async def add(self, visitor_id: VisitorId, sku: Sku, quantity: int, version: int | None) -> Cart: ...

    async def update(self, visitor_id: VisitorId, line_id: Text, quantity: int, version: int | None) -> Cart: ...

    async def remove(self, visitor_id: VisitorId, line_id: Text) -> None: ...

    async def reprice(self, visitor_id: VisitorId) -> Cart: ...

    async def clear(self, visitor_id: VisitorId) -> None: ...

    async def take_over(self, visitor_id: VisitorId, user_id: VisitorId) -> Cart: ...


class Inventory(Protocol):
    async def levels(self, skus: list[Sku]) -> list[StockLevel]: ...

    async def reserve(self, order_id: OrderId, lines: list[StockNeed], until: AwareDatetime) -> Reservation: ...

    async def release(self, order_id: OrderId) -> Reservation: ...

    async def confirm(self, order_id: OrderId) -> Reservation: ...

    async def reservation(self, order_id: OrderId) -> Reservation | None: ...


class Orders(Protocol):
    async def place(self, order: NewOrder) -> Order: ...

    async def made(self, visitor_id: VisitorId, checkout_id: CheckoutId, cart_version: int) -> Order | None: ...

    async def get(self, visitor_id: VisitorId, order_id: OrderId) -> Order: ...

    async def list(self, visitor_id: VisitorId, after: OrderId | None, limit: PageSize) -> OrderPage: ...

    async def cancel(self, visitor_id: VisitorId, order_id: OrderId) -> Order: ...


class Checkouts(Protocol):
    async def place(
        self,
        visitor_id: VisitorId,
        key: Key,
        method: Text,
        mode: Mode | None,
        version: int | None,
        saving: Saving | None = None,
    ) -> Order: ...

    async def quote(self, visitor_id: VisitorId, total: Money, saving: Saving) -> Reduction: ...

    async def get(self, visitor_id: VisitorId, order_id: OrderId) -> CheckoutSession: ...


class Users(Protocol):
    async def register(self, email: Email, password: Password, name: Text, place: Text) -> None: ...

    async def login(self, email: Email, password: Password, place: Text) -> Login: ...

    async def refresh(self, refresh_token: Token) -> Login: ...

    async def logout(self, refresh_token: Token) -> None: ...

    async def get(self, user_id: VisitorId) -> User: ...


class Pricing(Protocol):
    async def quote(self, visitor_id: VisitorId, code: CouponCode, total: Money) -> CouponQuote: ...


class Wallets(Protocol):
    async def get(self, visitor_id: VisitorId) -> Wallet: ...


class Payments(Protocol):
    async def charge(
        self, key: Key, order_id: OrderId, amount: Money, method: Text, pay_by: AwareDatetime
    ) -> Charge: ...

    async def find(self, key: Key) -> Charge | None: ...

    async def refund(self, key: Key, order_id: OrderId, amount: Money, method: Text) -> Charge: ...

    async def receive_webhook(self, body: bytes, headers: dict[str, str]) -> WebhookResult: ...


class Bank(Protocol):
    async def charge(self, key: str, amount: Money, method: str, window_seconds: float) -> Charge: ...

    async def find(self, key: str) -> Charge | None: ...

    async def stop(self, key: str, amount: Money) -> Charge: ...

    async def refund(self, key: str, charge_id: str) -> Charge: ...
