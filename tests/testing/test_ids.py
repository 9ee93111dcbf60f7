"""Ids under the test kit's clock: there are some whatever a test does with the time."""

from datetime import timedelta

import pytest

from txpatterns import App, Event, Transaction
from txpatterns.testing.harness import Txp


class OrderPlaced(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


class Shop:
    """Makes an id for each order, in a handler that fails at first."""

    def __init__(self) -> None:
        self.app = App("shop")
        self.ids: list[int] = []
        self.fails = 1
        self.app.on(OrderPlaced)(self.number)

    async def number(self, event: OrderPlaced, tx: Transaction) -> None:
        self.ids.append(self.app.ids.next_id())
        if self.fails:
            self.fails -= 1
            raise ConnectionError("not yet")


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def txp_app(shop: Shop) -> App:
    return shop.app


async def test_ids_are_made_whatever_the_clock_does(shop: Shop, txp: Txp):
    """P6: in handlers, between them, and days later, without a step of time for any renewal."""
    first = shop.app.ids.next_id()
    await txp.receive(OrderPlaced(order_id="1"))
    await txp.advance(timedelta(days=30))
    await txp.receive(OrderPlaced(order_id="2"))
    last = shop.app.ids.take(3)
    made = [first, *shop.ids, *last]
    assert len(shop.ids) == 3
    assert len(set(made)) == len(made)
    shop.app._parts.numbers.close()
