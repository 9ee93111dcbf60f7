"""The saga's own transactions: opening a session, and ending it together with the event that says so."""

from __future__ import annotations

from datetime import UTC, datetime

from shop.checkout.models import SessionRow
from shop.events import CheckoutCompleted, CheckoutFailed, CheckoutRequested
from txpatterns.sagas import StepTransaction


async def open_session(tx: StepTransaction, order: CheckoutRequested) -> None:
    """Write down that the checkout is under way. A key that the visitor has used for another one is an error."""
    tx.session.add(
        SessionRow(
            order_id=order.order_id,
            visitor_id=order.visitor_id,
            key=order.key,
            status="STARTED",
            total_minor=order.total.minor,
            currency=order.total.currency,
            started_at=datetime.now(UTC),
        )
    )


async def note_reason(tx: StepTransaction, order_id: str, reason: str) -> None:
    """Write down why the checkout is given up; it has not failed before all is undone."""
    row = await tx.session.get_one(SessionRow, order_id, with_for_update=True)
    row.reason = reason


async def fail_session(tx: StepTransaction, order: CheckoutRequested) -> None:
    """End the session as failed, and tell it. Undoes its opening: it comes last, when everything else is undone."""
    row = await tx.session.get_one(SessionRow, order.order_id, with_for_update=True)
    row.status, row.reason, row.ended_at = "FAILED", row.reason or "shop", datetime.now(UTC)
    tx.emit(CheckoutFailed(order_id=row.order_id, reason=row.reason))


async def complete_session(tx: StepTransaction, order: CheckoutRequested) -> None:
    """End the session as completed. The row and the event are one commit: never one without the other."""
    row = await tx.session.get_one(SessionRow, order.order_id, with_for_update=True)
    row.status, row.ended_at = "COMPLETED", datetime.now(UTC)
    tx.emit(CheckoutCompleted(order_id=order.order_id, visitor_id=order.visitor_id, lines=order.lines))
