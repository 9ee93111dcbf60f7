"""What the gateway's routes and pages need, in one value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request
from jinja2 import Environment

from shop.backends import Breakers
from shop.gateway.pacing import Pace
from shop.gateway.public_ids import ShownCheckouts, ShownOrders
from shop.gateway.remembered import RememberedCarts, RememberedCatalog
from shop.gateway.timeline import Timeline
from shop.gateway.visitors import Visitor, visitor_of
from shop.ports import Inventory, Mode, Payments
from txpatterns import App
from txpatterns.integrations.idempotency import IdempotencyKeys


@dataclass(frozen=True, slots=True)
class Services:
    """The other services, wherever they run."""

    catalog: RememberedCatalog
    carts: RememberedCarts
    inventory: Inventory
    orders: ShownOrders
    payments: Payments
    checkouts: ShownCheckouts


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
    pace: Pace
    breakers: Breakers


def context_of(request: Request) -> Context:
    """Give the gateway's context of a request."""
    found: Context = request.app.state.context
    return found


Ctx = Annotated[Context, Depends(context_of)]


def _visitor(request: Request) -> Visitor:
    return visitor_of(request)


Who = Annotated[Visitor, Depends(_visitor)]
