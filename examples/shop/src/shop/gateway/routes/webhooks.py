"""Where the bank tells its news."""

from __future__ import annotations

from fastapi import APIRouter, Request

from shop.gateway.context import Ctx
from shop.ports import WebhookResult
from shop.problems import Problem
from txpatterns.integrations.webhooks import HEADERS

router = APIRouter(tags=["webhooks"])


@router.post("/webhooks/payments/{provider}")
async def receive_webhook(context: Ctx, provider: str, request: Request) -> WebhookResult:
    """Check and store a webhook, then answer; what follows from it happens by events."""
    if provider != "mock":
        raise Problem("not-found", f"There is no provider {provider}.")
    body = await request.body()
    headers = {name: ", ".join(request.headers.getlist(name)) for name in HEADERS}
    return await context.services.payments.receive_webhook(body, headers)
