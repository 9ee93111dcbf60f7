"""The bank's postman: when an answer is due, post it to the shop until the shop says that it has it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from standardwebhooks import Webhook

from shop.events import WebhookDue
from txpatterns import App, Transaction


class Post(Protocol):
    """Posts a body with headers to the shop's webhook address and gives the status of the answer."""

    async def __call__(self, body: bytes, headers: dict[str, str]) -> int: ...


class NotTaken(Exception):
    """The shop did not take the webhook; it is posted again on the ladder."""


def signed(secret: str, webhook_id: str, body: str, at: datetime) -> dict[str, str]:
    """Make the headers of a webhook, as Standard Webhooks defines them."""
    return {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, at, body),
    }


def listen(app: App, secret: str, post: Post) -> None:
    """Connect the bank's own timers to the shop's webhook address."""

    @app.on(WebhookDue)
    async def post_webhook(event: WebhookDue, tx: Transaction) -> None:
        status = await post(event.body.encode(), signed(secret, event.webhook_id, event.body, datetime.now(UTC)))
        if not 200 <= status < 300:
            raise NotTaken(f"the shop answered {status} to webhook {event.webhook_id}")
