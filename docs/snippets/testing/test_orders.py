"""What docs/how-to/test-your-handlers.md shows."""

# --8<-- [start:app]
from decimal import Decimal

import orders
import pytest
from orders import OrderPlaced, PackingStarted, place_order, start_packing

from txpatterns import App
from txpatterns.testing.explorer import Options, State, explore
from txpatterns.testing.harness import Txp


@pytest.fixture
def txp_app() -> App:
    return orders.app


# --8<-- [end:app]


# --8<-- [start:drain]
async def test_an_order_is_packed(txp: Txp) -> None:
    order_id = await place_order(Decimal("12.50"))
    await txp.drain()
    txp.assert_published(PackingStarted, order_id=order_id)
    assert txp.handled(start_packing) == [OrderPlaced(order_id=order_id, total=Decimal("12.50"))]


# --8<-- [end:drain]


# --8<-- [start:advance]
async def test_a_failing_handler_ends_as_a_dead_letter(txp: Txp, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*, order_id: str) -> None:
        raise ConnectionError("the printer is away")

    monkeypatch.setattr(orders, "PackingSlip", fails)
    await place_order(Decimal("12.50"))
    await txp.drain()
    await txp.advance(hours=1)
    (dead,) = await txp.dead_letters()
    assert (dead.consumer, dead.attempts) == ("orders.start_packing", 7)


# --8<-- [end:advance]


# --8<-- [start:receive]
async def test_an_event_of_another_service_is_handled(txp: Txp) -> None:
    message_id = await txp.receive(OrderPlaced(order_id="7", total=Decimal("3.00")))
    await txp.receive(OrderPlaced(order_id="7", total=Decimal("3.00")), id=message_id)  # once more: a redelivery
    txp.assert_handled(start_packing, order_id="7", times=1)


# --8<-- [end:receive]


# --8<-- [start:explore]
async def one_order(app: App) -> None:
    await place_order(Decimal("12.50"))


def every_order_is_packed_once(state: State) -> None:
    placed = [row["id"] for row in state.rows("SELECT id FROM orders")]
    packed = [row["order_id"] for row in state.rows("SELECT order_id FROM packing_slips")]
    assert sorted(placed) == sorted(packed)


async def test_nothing_is_lost_whatever_happens() -> None:
    report = await explore(
        orders.app, one_order, invariants=[every_order_is_packed_once], options=Options(most=20, seed=1)
    )
    assert not report.failures, report


# --8<-- [end:explore]
