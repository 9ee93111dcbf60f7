"""The shop's two checkouts, given the same: they leave the same stock, the same money, the same orders and carts."""

import asyncio
import functools
import random
from dataclasses import dataclass
from datetime import timedelta

import pytest

from shop.bank.api import BankApi
from shop.catalog.seed import products

PLENTY = [product.sku for product in products(42) if product.stock == 40][:3]
SCARCE = next(product for product in products(42) if product.stock == 3)
METHODS = ["succeed", "succeed", "twice", "reordered", "fail", "silent"]
ORDERS = 6
PATIENCE = 120.0
SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))]


@dataclass(frozen=True)
class Wish:
    """One customer's order; who orders from a silent bank calls it off, and some want more than there is."""

    sku: str
    quantity: int
    method: str


@dataclass
class Faults:
    """What goes wrong, drawn from a seed: the bank's answers to the shop get lost, and its webhooks come again."""

    lost: list[bool]
    doubled: list[bool]


def drawn(seed):
    luck = random.Random(seed)
    wishes = [Wish(luck.choice(PLENTY), luck.randint(1, 3), luck.choice(METHODS)) for _ in range(ORDERS)]
    wishes.append(Wish(SCARCE.sku, SCARCE.stock + luck.randint(1, 5), "succeed"))
    faults = Faults([luck.random() < 0.3 for _ in range(4)], [luck.random() < 0.5 for _ in range(20)])
    return wishes, faults


def break_bank(patch, shop, faults):
    """Let answers of the bank get lost behind its work, and let webhooks be posted twice."""
    for name in ("charge", "stop"):
        work, lost = getattr(BankApi, name), list(faults.lost)

        @functools.wraps(work)
        async def losing(*args, work=work, lost=lost):
            answer = await work(*args)
            if lost and lost.pop():
                raise ConnectionError("the answer is lost")
            return answer

        patch.setattr(BankApi, name, losing)
    doubled = list(faults.doubled)

    async def again():
        if doubled and doubled.pop():
            client, (body, headers) = await shop.visitor(), shop.posted[-1]
            await client.post("/webhooks/payments/mock", content=body, headers=headers)

    shop.meanwhile = again


async def buy(shop, mode, wish):
    """Order as one customer, to the end; gives how the order ended, and what is left in the cart."""
    client = await shop.visitor()
    await client.post("/api/v1/cart/items", json={"sku": wish.sku, "quantity": wish.quantity})
    ordered = await client.post("/api/v1/checkout", json={"method": wish.method, "mode": mode})
    order_id = ordered.json()["id"]
    if wish.method == "silent":
        await shop.until(client, order_id, "payment.session_opened")
        await client.post(f"/api/v1/orders/{order_id}/cancel")
    with shop.bell.listening(order_id) as ear:
        async with asyncio.timeout(PATIENCE):
            while not ended(set(await shop.heard(client, order_id))):
                await ear.wait(timedelta(seconds=1))
    order = (await client.get(f"/api/v1/orders/{order_id}")).json()
    cart = (await client.get("/api/v1/cart")).json()
    lines = [(line["sku"], line["quantity"]) for line in cart["lines"]]
    return order["status"], order["canceling"], order["total"]["amount"], lines


def ended(types):
    return {"stock.sold", "cart.settled"} <= types or "order.canceled" in types


async def end_state(open_shop, data, mode, seed):
    """Let everybody buy at once in a shop of its own; gives all that is left behind."""
    wishes, faults = drawn(seed)
    async with open_shop(data) as shop:
        with pytest.MonkeyPatch.context() as patch:
            break_bank(patch, shop, faults)
            orders = await asyncio.gather(*(buy(shop, mode, wish) for wish in wishes))
        stock = shop.rows("inventory", "select sku, available, reserved, sold from stock order by sku")
        kept = "select count(*), sum(amount_minor) from charge where captured_at is not null and refund_key is null"
        money = shop.rows("bank", kept)
    return {"orders": orders, "stock": stock, "money": money}


@pytest.mark.parametrize("seed", SEEDS)
async def test_both_checkouts_end_in_the_same(tmp_path, open_shop, seed):
    """P1, P2, P5, H351: whoever leads, and whatever gets lost or comes twice on the way."""
    choreographed = await end_state(open_shop, tmp_path / "c", "choreographed", seed)
    orchestrated = await end_state(open_shop, tmp_path / "o", "orchestrated", seed)
    assert orchestrated == choreographed, f"seed {seed}: {drawn(seed)}"
    confirmed = [order for order in choreographed["orders"] if order[0] == "CONFIRMED"]
    assert choreographed["money"][0][0] == len(confirmed)
    assert all(reserved == 0 for _, _, reserved, _ in choreographed["stock"])
