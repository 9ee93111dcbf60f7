"""Every call of every service, over a real channel: it answers what the service's own object does."""

import pytest

from shop.ports import Mode, NewOrder
from shop.problems import Problem
from shop.rpc.services import SERVICES

SKU = "PLAY-01"


@pytest.mark.parametrize("name", SERVICES)
def test_every_method_has_a_call_with_its_arguments(name):
    """H349: no method is left out, and a request's fields are the arguments."""
    service = SERVICES[name]
    asked = {rpc.name: {field.name for field in rpc.request.DESCRIPTOR.fields} for rpc in service.rpcs}
    wanted = {name for name in vars(service.port) if not name.startswith("_")}
    assert set(asked) == wanted
    assert asked == {rpc.name: set(rpc.method.names) for rpc in service.rpcs}


async def same(straight, over, method, *arguments):
    """Make a call that changes nothing in both ways; gives the answer."""
    answer = await getattr(over, method)(*arguments)
    assert answer == await getattr(straight, method)(*arguments)
    return answer


async def refused(call):
    with pytest.raises(Problem) as caught:
        await call
    return caught.value.kind.slug


async def test_the_catalogue(open_services, tmp_path):
    """H347, H349: pages, searches, and what there is not."""
    async with open_services(tmp_path, "catalog") as services:
        both = services.straight("catalog"), services.grpc("catalog")
        assert len(await same(*both, "categories")) == 8
        page = await same(*both, "products", None, None, None, 7)
        assert (len(page.items), page.next is None) == (7, False)
        assert (await same(*both, "products", "play", "dice", None, 100)).next is None
        assert (await same(*both, "products", None, None, page.next, 7)).items[0] not in page.items
        assert (await same(*both, "product", SKU)).sku == SKU
        assert len(await same(*both, "products_by_sku", [SKU, "NO-SUCH"])) == 1
        assert await same(*both, "products_by_sku", []) == []
        over = both[1]
        assert await refused(over.product("NO-SUCH")) == "not-found"
        assert await refused(over.products(None, None, "soon", 7)) == "invalid"
        for limit in (0, -1, 101, 2**40):
            assert await refused(over.products(None, None, None, limit)) in ("bad-request", "invalid")


async def test_a_cart_and_its_order(open_services, tmp_path):
    """H346, H347, H349: put in, change, take out, order, look at it, call it off; each call and each refusal."""
    async with open_services(tmp_path, "cart", "orders", "checkout") as services:
        cart, orders, checkout = (services.grpc(name) for name in ("cart", "orders", "checkout"))
        straight = services.straight("cart")
        assert (await same(straight, cart, "get", "eve")).lines == []
        added = await cart.add("eve", SKU, 2, 0)
        assert await refused(cart.add("eve", SKU, 2, 0)) == "stale-version"  # made again, its answer lost: not twice
        assert added == await straight.get("eve")
        (line,) = added.lines
        assert (await cart.update("eve", line.id, 3, added.version)).count == 3
        assert await refused(cart.update("eve", line.id, 4, added.version)) == "stale-version"
        assert await refused(cart.update("eve", "none", 4, None)) == "not-found"
        for quantity in (100, 0, -1):
            assert await refused(cart.add("eve", SKU, quantity, None)) == "invalid"
        assert await refused(cart.add("eve", "NO-SUCH", 1, None)) == "not-found"
        assert await cart.remove("eve", "none") is None
        priced = await cart.reprice("eve")
        assert await refused(checkout.place("eve", "k", "cheque", None, None)) == "invalid"
        assert await refused(checkout.place("eve", "k", "succeed", None, priced.version + 1)) == "stale-version"
        assert await refused(checkout.place("ann", "k", "succeed", None, None)) == "cart-empty"
        placed = await checkout.place("eve", "k", "succeed", Mode.CHOREOGRAPHED, priced.version)
        assert placed == await checkout.place("eve", "k", "succeed", None, None)
        with pytest.raises(Problem) as caught:
            await checkout.place("eve", "k2", "succeed", None, None)
        assert (caught.value.kind.slug, caught.value.extra) == ("cart-ordered", {"order": placed.id})
        assert await refused(checkout.get("eve", placed.id)) == "not-found"
        assert (await same(services.straight("orders"), orders, "get", "eve", placed.id)).lines == priced.lines
        assert await refused(orders.get("ann", placed.id)) == "not-found"
        assert [order.id for order in (await orders.list("eve", None, 10)).items] == [placed.id]
        assert await orders.made("ann", "nothing", 1) is None
        assert (await orders.cancel("eve", placed.id)).canceling == "customer"
        assert await cart.clear("eve") is None
        assert (await cart.get("eve")).lines == []


async def test_an_order_that_is_placed_directly(open_services, tmp_path):
    """H346, H349: the same checkout again gives the same order; somebody else's is refused."""
    async with open_services(tmp_path, "cart", "orders") as services:
        cart, orders = services.grpc("cart"), services.grpc("orders")
        lines = (await cart.add("eve", SKU, 1, None)).lines
        wish = NewOrder(checkout_id="c", visitor_id="eve", cart_version=1, lines=lines, method="succeed")
        placed = await orders.place(wish)
        assert placed == await orders.place(wish) == await orders.made("eve", "c", 1)
        assert placed.total == lines[0].line_total
        assert placed.created_at.tzinfo is not None
        assert await refused(orders.place(wish.model_copy(update={"visitor_id": "ann"}))) == "conflict"
        assert await refused(orders.place(wish.model_copy(update={"method": "x" * 17}))) == "bad-request"
        less = [lines[0].model_copy(update={"quantity": -1})]
        assert (
            await refused(orders.place(wish.model_copy(update={"checkout_id": "e", "cart_version": 2, "lines": less})))
            == "invalid"
        )
        assert await refused(orders.place(wish.model_copy(update={"checkout_id": "d", "lines": []}))) == "cart-ordered"


async def test_a_webhook_over_grpc(open_services, tmp_path):
    """H347: its bytes arrive as they were, and what is not the bank's is refused."""
    async with open_services(tmp_path, "payment") as services:
        over = services.grpc("payment")
        assert await refused(over.receive_webhook(bytes(range(256)), {"webhook-id": "evt"})) == "signature-invalid"
