"""One visitor of the target: a cookie jar of their own, on connections that all share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx
from typing_extensions import override

from shop.money import Money

TIMEOUT = 30.0
"""Seconds after which a request counts as failed."""


class Failed(Exception):
    """A request was not answered as it should have been; the message is the kind of problem, in one word."""


class Shared(httpx.AsyncBaseTransport):
    """A transport that outlives the visitors that use it."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.inner.handle_async_request(request)


@dataclass(slots=True)
class Bought:
    """An order that the target has taken: what it is about, and what became of it."""

    visitor: Visitor
    id: str
    sku: str
    quantity: int
    to_pay: Money
    credit: Money | None
    coupon: str | None
    status: str = "PENDING"
    events: list[dict[str, Any]] = field(default_factory=list)


class Visitor:
    """Somebody new, who asks the target for something.

    Args:
        target: The store's address.
        transport: What carries the requests.
    """

    def __init__(self, target: str, transport: httpx.AsyncBaseTransport) -> None:
        self._client = httpx.AsyncClient(base_url=target, transport=Shared(transport), timeout=TIMEOUT)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask, and give the answer's JSON; nothing for a page.

        Raises:
            Failed: it was refused, or there was no answer.
        """
        try:
            answer = await self._client.request(method, path, json=body)
            if answer.status_code >= httpx.codes.BAD_REQUEST:
                raise Failed(_kind_of(answer))
            return answer.json() if "json" in answer.headers.get("content-type", "") else None
        except httpx.TimeoutException:
            raise Failed("no-answer-in-time") from None
        except (httpx.HTTPError, ValueError) as error:
            raise Failed(type(error).__name__) from None

    async def look(self, sku: str) -> None:
        """Look around: the first page, and one product."""
        await self.ask("GET", "/")
        await self.ask("GET", f"/products/{sku}")

    async def buy(self, sku: str, quantity: int, wish: dict[str, Any]) -> Bought:
        """Put something into the cart, and order it."""
        await self.ask("POST", "/api/v1/cart/items", {"sku": sku, "quantity": quantity})
        order = await self.ask("POST", "/api/v1/checkout", wish)
        cut = order.get("reduction")
        to_pay = Money.model_validate(cut["to_pay"] if cut else order["total"])
        credit = Money.model_validate(cut["credit"]) if cut else None
        return Bought(self, order["id"], sku, quantity, to_pay, credit, cut["coupon"] if cut else None)


def _kind_of(answer: httpx.Response) -> str:
    try:
        kind = str(answer.json()["type"])
    except (ValueError, KeyError, TypeError):
        return f"http-{answer.status_code}"
    return kind.rpartition("/")[2] or f"http-{answer.status_code}"
