"""Webhooks in a FastAPI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request

from txpatterns.errors import RequestRefused
from txpatterns.integrations.fastapi.bodies import whole_body
from txpatterns.integrations.fastapi.problems import Refused
from txpatterns.integrations.webhooks import HEADERS, Webhook, WebhookReceiver


def webhook_dependency(receiver: WebhookReceiver) -> Callable[[Request], Awaitable[Webhook]]:
    """Make a dependency that gives the verified webhook: ``Annotated[Webhook, Depends(webhook_dependency(receiver))]``.

    The body is read up to ``receiver.max_body`` bytes, and by nobody else: the path operation takes no body parameter.
    What is not the sender's, or not fresh, is answered 401, always alike; what is larger, 413.
    """

    async def webhook(request: Request) -> Webhook:
        # A header that is there twice fits no signature.
        headers = {name: ", ".join(request.headers.getlist(name)) for name in HEADERS}
        try:
            body = await whole_body(request.scope, request.receive, receiver.max_body)
            return receiver.verify(body, headers)
        except RequestRefused as error:
            raise Refused(error) from None

    return webhook
