"""What the checkout listens to: an order whose checkout it is to lead."""

from __future__ import annotations

from shop.checkout.saga import SIGNALS, CheckoutSaga, Others, Refused
from shop.events import CheckoutRequested
from txpatterns import App, Transaction


def listen(app: App, others: Others) -> None:
    """Start a saga for each order that asks for one, in the transaction that takes its event: once."""
    lead = CheckoutSaga(others).run
    app.saga("checkout", signals=SIGNALS, errors=(Refused,))(lead)

    @app.on(CheckoutRequested)
    async def start_checkout(event: CheckoutRequested, tx: Transaction) -> None:
        app.sagas.start(tx.session, lead, event, id=event.order_id)
