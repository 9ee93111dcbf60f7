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
from shop.ports import Inventory, Mode, Payments, Users, Wallets
from shop.problems import Problem
from shop.telemetry import Telemetry
from shop.tokens import AccessTokens
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
    users: Users
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
    pace: Pace
    breakers: Breakers
    tokens: AccessTokens
    telemetry: Telemetry
    demo_password: str | None
    """That of the demo's accounts, where there are any."""


def context_of(request: Request) -> Context:
    """Give the gateway's context of a request."""
    found: Context = request.app.state.context
    return found


Ctx = Annotated[Context, Depends(context_of)]


def _visitor(request: Request) -> Visitor:
    return visitor_of(request)


Who = Annotated[Visitor, Depends(_visitor)]


def _account(visitor: Who) -> str:
    if visitor.user_id is None:
        raise Problem("unauthenticated", "Sign in first.")
    return visitor.user_id


Account = Annotated[str, Depends(_account)]
"""The id of who is signed in; whoever is not is refused."""
