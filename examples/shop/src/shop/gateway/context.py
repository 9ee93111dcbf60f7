"""What the gateway's routes and pages need, in one value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request
from jinja2 import Environment

from shop.gateway.timeline import Timeline
from shop.gateway.visitors import Visitor, visitor_of
from shop.ports import Carts, Catalog, Checkouts, Inventory, Mode, Orders, Payments, Wallets
from txpatterns import App
from txpatterns.integrations.idempotency import IdempotencyKeys


@dataclass(frozen=True, slots=True)
class Services:
    """The other services, wherever they run."""

    catalog: Catalog
    carts: Carts
    inventory: Inventory
    orders: Orders
    payments: Payments
    checkouts: Checkouts
    wallets: Wallets


@dataclass(frozen=True, slots=True)
class Context:
    app: App
    services: Services
    timeline: Timeline
    keys: IdempotencyKeys
    templates: Environment
    window: timedelta
    mode: Mode
    """Who leads a checkout that does not say it."""


def context_of(request: Request) -> Context:
    """Give the gateway's context of a request."""
    found: Context = request.app.state.context
    return found


Ctx = Annotated[Context, Depends(context_of)]


def _visitor(request: Request) -> Visitor:
    return visitor_of(request)


Who = Annotated[Visitor, Depends(_visitor)]
