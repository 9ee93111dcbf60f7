"""Failed attempts, told as events, so that an order's page can show them whichever process they happened in."""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError

from shop.events import CHECKOUT_TOPIC, ORDER_TOPIC, PAYMENT_TOPIC, HandlerStumbled
from txpatterns import App
from txpatterns.hooks import Hooks, on
from txpatterns.inbox.moments import HandlerFailed
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

    @on(HandlerFailed)
    def note(self, failed: HandlerFailed) -> None:
        """Note an attempt that failed, if it belongs to an order.

        Args:
            failed: What failed, where and how.
        """
        message, error = failed.message, failed.error
        if (
            message.topic not in (ORDER_TOPIC, PAYMENT_TOPIC, CHECKOUT_TOPIC)
            or message.key is None
            or self._notes.full()
        ):
            return
        waits = self.policies.of(message.topic).ladder.delays[failed.attempt - 1 :]
        self._notes.put_nowait(
            HandlerStumbled(
                order_id=message.key,
                message_id=message.id,
                service=self.service,
                handler=failed.consumer,
                attempt=failed.attempt,
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
