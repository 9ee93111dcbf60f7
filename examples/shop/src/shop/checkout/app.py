"""What the checkout listens to: an order whose checkout it is to lead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shop.checkout.saga import AGAIN, SIGNALS, CheckoutSaga, Others, Refused
from shop.events import CheckoutRequested
from txpatterns import App, Reject, Transaction
from txpatterns.sagas import SagaContext

Lead = Callable[[SagaContext, CheckoutRequested], Awaitable[str]]


def listen(app: App, others: Others) -> Lead:
    """Start a saga for each order that asks for one, in the transaction that takes its event: once. Gives the saga."""
    lead = CheckoutSaga(others).run
    app.saga("checkout", signals=SIGNALS, errors=(Refused, Reject), retry=AGAIN)(lead)

    @app.on(CheckoutRequested)
    async def start_checkout(event: CheckoutRequested, tx: Transaction) -> None:
        app.sagas.start(tx.session, lead, event, id=event.order_id)

    return lead
