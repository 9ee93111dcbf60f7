"""Reading messages of an old version of an event, which may wait in tables and topics for weeks."""

# --8<-- [start:event]
import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from txpatterns import App, Event, Message, Transaction

app = App("prices")


class PriceChanged(Event, topic="prices", type="price.changed", key="sku", version="3.0"):
    sku: str
    amount: Decimal
    currency: str


# --8<-- [end:event]


# --8<-- [start:upcasters]
@app.upcast(PriceChanged, from_version="1.0", to_version="2.0")
def price_was_in_cents(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"sku": fields["sku"], "amount": str(Decimal(fields["cents"]) / 100)}


@app.upcast(PriceChanged, from_version="2.0", to_version="3.0")
def currency_was_always_euro(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**fields, "currency": "EUR"}


# --8<-- [end:upcasters]


# --8<-- [start:fixture]
STORED = b"""{"event_type": "price.changed", "event_id": "1", "occurred_at": "2026-01-02T03:04:05+00:00",
"aggregate_id": "A1", "schema_version": "1.0", "payload": {"sku": "A1", "cents": 1990}}"""


def test_what_was_stored_in_january_can_still_be_read() -> None:
    message = Message(id="1", topic="prices", type="price.changed", payload=STORED)
    assert app.registry.read(message) == PriceChanged(sku="A1", amount=Decimal("19.9"), currency="EUR")


# --8<-- [end:fixture]


# --8<-- [start:run]
@app.on(PriceChanged)
async def show(event: PriceChanged, tx: Transaction) -> None:
    print(event.sku, event.amount, event.currency)


async def main() -> None:
    test_what_was_stored_in_january_can_still_be_read()
    async with app.running():
        async with app.session() as session, session.begin():
            app.outbox.add(session, PriceChanged(sku="B2", amount=Decimal("5.00"), currency="CHF"))
        await app.drained()


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:run]
