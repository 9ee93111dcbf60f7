"""The bank's postman: when an answer is due, post it to the shop until the shop says that it has it."""

from __future__ import annotations

from typing import Protocol

from shop.calls import carried
from shop.events import WebhookDue
from txpatterns import App, Transaction
from txpatterns.integrations.webhooks import WebhookSecrets


class Post(Protocol):
    """Posts a body with headers to the shop's webhook address and gives the status of the answer."""

    async def __call__(self, body: bytes, headers: dict[str, str]) -> int: ...


class NotTaken(Exception):
    """The shop did not take the webhook; it is posted again on the ladder."""


def listen(app: App, secret: str, post: Post) -> None:
    """Connect the bank's own timers to the shop's webhook address."""
    secrets = WebhookSecrets(secret)

    @app.on(WebhookDue)
    async def post_webhook(event: WebhookDue, tx: Transaction) -> None:
        body = event.body.encode()
        headers = {"content-type": "application/json", **carried(), **secrets.sign(event.webhook_id, body)}
        status = await post(body, headers)
        if not 200 <= status < 300:
            raise NotTaken(f"the shop answered {status} to webhook {event.webhook_id}")
