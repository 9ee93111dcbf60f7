"""How handlers are written, as mypy sees it. Checked, never run: each `type: ignore` marks what must be refused.

`mypy --strict --warn-unused-ignores` fails when something that should be refused is accepted.
"""

from __future__ import annotations

from txpatterns.inbox import Consumer, SyncTransaction, Transaction
from txpatterns.messages import Event


class OrderPlaced(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


class OrderPaid(Event, topic="orders", type="order.paid", key="order_id"):
    order_id: str


def register(consumer: Consumer) -> None:
    @consumer.on(OrderPlaced)
    async def start_packing(event: OrderPlaced, tx: Transaction) -> None:
        tx.emit(OrderPaid(order_id=event.order_id))
        await tx.session.flush()

    @consumer.on(OrderPlaced, name="packing", permanent=[KeyError])
    def start_packing_in_a_thread(event: OrderPlaced, tx: SyncTransaction) -> None:
        tx.session.flush()

    @consumer.on(OrderPlaced)
    async def of_any_event(event: Event, tx: Transaction) -> None: ...

    @consumer.on(OrderPlaced)  # type: ignore[arg-type]
    async def of_another_event(event: OrderPaid, tx: Transaction) -> None: ...

    @consumer.on(OrderPlaced)  # type: ignore[arg-type]
    async def of_the_other_transaction(event: OrderPlaced, tx: SyncTransaction) -> None: ...

    @consumer.on(OrderPlaced)  # type: ignore[arg-type]
    def plain_with_the_async_one(event: OrderPlaced, tx: Transaction) -> None: ...

    @consumer.on(OrderPlaced)  # type: ignore[arg-type]
    async def without_transaction(event: OrderPlaced) -> None: ...


async def calls_stay_typed(consumer: Consumer, event: OrderPlaced, tx: Transaction) -> None:
    async def handler(event: OrderPlaced, tx: Transaction) -> None: ...

    registered = consumer.on(OrderPlaced)(handler)
    await registered(event, tx)
    await registered(OrderPaid(order_id="1"), tx)  # type: ignore[arg-type]
