"""The broker is away: orders are taken all the same, and their story is told when it is back."""

import pytest

from shop import wiring
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.transport import Outcome, Verdict


class Broker(MemoryBroker):
    """Takes nothing while it is away."""

    away = False

    async def publish(self, messages):
        if self.away:
            yield {message.id: Outcome(Verdict.UNAVAILABLE) for message in messages}
            return
        async for told in super().publish(messages):
            yield told


@pytest.fixture(autouse=True)
def broker(monkeypatch):
    """The one broker of the shop that is opened."""
    made = Broker()
    monkeypatch.setattr(wiring, "MemoryBroker", lambda: made)
    return made


@pytest.mark.parametrize("mode", ["choreographed", "orchestrated"])
async def test_an_order_is_taken_while_the_broker_is_away(shop, broker, mode):
    """P1, P7, H442: it is answered, there to be read, and goes on by itself when the broker is back."""
    client = await shop.visitor()
    await client.post("/api/v1/cart/items", json={"sku": "PLAY-01", "quantity": 1})
    broker.away = True
    answer = await client.post("/api/v1/checkout", json={"method": "succeed", "mode": mode})
    assert answer.status_code == 202, answer.text
    order_id = answer.json()["id"]
    read = (await client.get(f"/api/v1/orders/{order_id}")).json()
    assert (read["id"], read["lines"][0]["sku"]) == (order_id, "PLAY-01")
    assert await shop.heard(client, order_id) == []
    broker.away = False
    heard = await shop.until(client, order_id, "order.confirmed", "cart.settled")
    assert heard.count("payment.captured") == heard.count("order.confirmed") == 1
