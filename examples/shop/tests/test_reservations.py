"""Setting aside for an order, over gRPC: what is repeated changes nothing, what was called off stays so."""

import asyncio
from datetime import UTC, datetime

import pytest

from shop.catalog.seed import products
from shop.ports import StockNeed
from shop.problems import Problem

SOON = datetime(2030, 1, 1, tzinfo=UTC)

PLENTY = next(product for product in products(42) if product.stock == 40)
FEW = next(product for product in products(42) if product.stock == 3)


@pytest.fixture
async def services(open_services, tmp_path):
    async with open_services(tmp_path, "inventory") as opened:
        yield opened


@pytest.fixture
def inventory(services):
    return services.grpc("inventory")


def lines(quantity, product=PLENTY):
    return [StockNeed(sku=product.sku, quantity=quantity)]


async def reserve(inventory, order_id, wanted):
    return await inventory.reserve(order_id, wanted, SOON)


async def shelf(inventory, product=PLENTY):
    (level,) = await inventory.levels([product.sku])
    return level.available, level.reserved, level.sold


async def refused(call):
    with pytest.raises(Problem) as caught:
        await call
    return caught.value.kind.slug


async def test_a_reservation_is_made_once(inventory, services):
    """P4, H346: the same call again gives the same and takes nothing more; other things under the key are refused."""
    first = await reserve(inventory, "k", lines(2) + lines(3))
    assert (first.order_id, first.state, first.lines) == ("k", "reserved", lines(5))
    assert await reserve(inventory, "k", lines(5)) == first == await inventory.reservation("k")
    assert await refused(reserve(inventory, "k", lines(1))) == "idempotency-key-reused"
    assert await shelf(inventory) == (35, 5, 0)
    assert services.rows("inventory", "select movement, quantity from ledger") == [("reserve", 5)]


async def test_too_little_sets_nothing_aside(inventory):
    """H346, H347: all or none, and what is short is told with how many there are."""
    with pytest.raises(Problem) as caught:
        await reserve(inventory, "k", lines(1) + lines(4, FEW) + [StockNeed(sku="NO-SUCH", quantity=1)])
    assert caught.value.kind.slug == "out-of-stock"
    assert caught.value.extra["short"] == [{"sku": "NO-SUCH", "quantity": 0}, {"sku": FEW.sku, "quantity": 3}]
    assert await shelf(inventory) == (40, 0, 0)
    assert (await inventory.reservation("k")).state == "rejected"
    assert await inventory.reservation("other") is None
    assert await refused(reserve(inventory, "k", lines(1))) == "idempotency-key-reused"


async def test_what_is_released_stays_released(inventory):
    """H346: put back once, however often; the same wish that comes late sets nothing aside, and is not handed over."""
    await reserve(inventory, "k", lines(2))
    assert (await inventory.release("k")).state == (await inventory.release("k")).state == "released"
    assert await shelf(inventory) == (40, 0, 0)
    assert await refused(reserve(inventory, "k", lines(2))) == "conflict"
    assert await refused(inventory.confirm("k")) == "conflict"


async def test_a_release_that_overtakes_its_reservation_counts(inventory):
    """H346: what was called off before it came sets nothing aside."""
    assert (await inventory.release("k")).lines == []
    assert await refused(reserve(inventory, "k", lines(2))) == "conflict"
    assert await shelf(inventory) == (40, 0, 0)


async def test_what_is_sold_stays_sold(inventory):
    """H346: handed over once; what is sold is not put back, and repeating its reservation changes nothing."""
    await reserve(inventory, "k", lines(2))
    assert (await inventory.confirm("k")).state == (await inventory.confirm("k")).state == "sold"
    assert await refused(inventory.release("k")) == "conflict"
    assert (await reserve(inventory, "k", lines(2))).state == "sold"
    assert await shelf(inventory) == (38, 0, 2)
    assert await refused(inventory.confirm("other")) == "not-found"


async def test_what_cannot_be_set_aside_is_refused(inventory):
    """H347: nothing, less than nothing, and more than anybody has."""
    for wanted in ([], lines(0), lines(-1), lines(1) + lines(10**7)):
        assert await refused(reserve(inventory, "k", wanted)) == "invalid"


async def test_many_at_once_take_what_there_is(inventory):
    """H346: sixty buyers of forty things: forty have one, and each call comes twice at the same time."""
    wishes = [reserve(inventory, f"k{number % 60}", lines(1)) for number in range(120)]
    made = await asyncio.gather(*wishes, return_exceptions=True)
    assert len({each.order_id for each in made if not isinstance(each, Problem)}) == 40
    assert {each.kind.slug for each in made if isinstance(each, Problem)} == {"out-of-stock"}
    assert await shelf(inventory) == (0, 40, 0)
