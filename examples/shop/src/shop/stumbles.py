"""Failed attempts, told as events, so that an order's page can show them whichever process they happened in."""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import override

from shop.events import ORDER_TOPIC, PAYMENT_TOPIC, HandlerStumbled
from txpatterns import App
from txpatterns.hooks import Hooks
from txpatterns.messages import Message
from txpatterns.retries import FailurePolicies

logger = logging.getLogger("shop.stumbles")
MOST_WAITING = 1_000


class Stumbles(Hooks):
    """Listens for handlers of a service that fail, and sends a note through the service's own outbox.

    Notes are for the eye: one that cannot be kept is dropped, and the handler's retry is the library's work.
    """

    def __init__(self, service: str, policies: FailurePolicies) -> None:
        self.service = service
        self.policies = policies
        self._notes: asyncio.Queue[HandlerStumbled] = asyncio.Queue(MOST_WAITING)

    @override
    def handler_failed(self, message: Message, consumer: str, error: BaseException, attempt: int) -> None:
        if message.topic not in (ORDER_TOPIC, PAYMENT_TOPIC) or message.key is None or self._notes.full():
            return
        waits = self.policies.of(message.topic).ladder.delays[attempt - 1 :]
        self._notes.put_nowait(
            HandlerStumbled(
                order_id=message.key,
                message_id=message.id,
                service=self.service,
                handler=consumer,
                attempt=attempt,
                error=f"{type(error).__name__}: {error}"[:400],
                again_after=waits[0].total_seconds() if waits else None,
            )
        )

    async def tell(self, app: App) -> None:
        """Send notes until cancelled."""
        while True:
            note = await self._notes.get()
            try:
                async with app.transaction() as session:
                    app.outbox.add(session, note)
            except (SQLAlchemyError, OSError) as error:
                logger.warning("a note about %s could not be kept: %s", note.message_id, error)
