"""Charging under a key, over gRPC: the bank is asked once, and can be asked how it stands."""

import asyncio
from datetime import UTC, datetime
from uuid import NAMESPACE_URL, uuid5

import pytest

from shop.money import Money
from shop.problems import Problem

PRICE = Money(amount="12.30")
SOON = datetime(2030, 1, 1, tzinfo=UTC)
CHARGES = "select key, failed, refund_key is not null from charge"


@pytest.fixture
async def services(open_services, tmp_path):
    async with open_services(tmp_path, "payment") as opened:
        yield opened


@pytest.fixture
def payments(services):
    return services.grpc("payment")


async def refused(call):
    with pytest.raises(Problem) as caught:
        await call
    return caught.value.kind.slug


def at_bank(key):
    """The key under which the bank knows a charge."""
    return str(uuid5(NAMESPACE_URL, f"payment:{key}"))


async def charge(payments, key="k", order_id="order", amount=PRICE, method="succeed"):
    return await payments.charge(key, order_id, amount, method, SOON)


async def refund(payments, key="k", order_id="order", method="succeed"):
    return (await payments.refund(key, order_id, PRICE, method)).status


async def test_a_charge_is_made_once(payments, services):
    """P4, H346: the same call again, also at the same time, is one charge at the bank."""
    first, *others = await asyncio.gather(*(charge(payments) for _ in range(5)))
    assert (first.status, first.amount) == ("pending", PRICE)
    assert {each.id for each in others} == {first.id}
    assert services.rows("bank", CHARGES) == [(at_bank("k"), 0, 0)]


async def test_who_does_not_know_asks_by_the_key(payments):
    """H346: an answer that was lost on the way, between here and there or between the bank and here, is found."""
    assert await payments.find("k") is None
    await charge(payments, method="lost")
    assert (await payments.find("k")).status == "captured"
    await charge(payments, "k2", "order-2", method="fail")
    assert (await payments.find("k2")).status == "failed"


async def test_a_key_is_for_one_payment_and_an_order_has_one(payments):
    """H346: another amount, order or method under the key, and another key for the order, are refused."""
    await charge(payments)
    for other in ({"order_id": "order-2"}, {"amount": PRICE * 2}, {"method": "card"}):
        assert await refused(charge(payments, **other)) == "idempotency-key-reused"
    assert await refused(charge(payments, "k2")) == "exists"


async def test_what_is_charged_is_given_back_once(payments, services):
    """H346: however often it is asked for; a late repetition of the charge takes nothing again."""
    await charge(payments)
    assert [await refund(payments), await refund(payments)] == ["refunded", "refunded"]
    assert (await charge(payments)).status == "refunded"
    assert services.rows("bank", CHARGES) == [(at_bank("k"), 0, 1)]


async def test_what_was_called_off_is_never_charged(payments, services):
    """H346: before it came, and while the bank had said nothing; what the bank took unheard is given back."""
    assert await refund(payments, "early", "order-1") == "failed"
    assert (await charge(payments, "early", "order-1")).status == "failed"
    await charge(payments, "silent", "order-2", method="silent")
    assert await refund(payments, "silent", "order-2", "silent") == "failed"
    await charge(payments, "lost", "order-3", method="lost")
    assert await refund(payments, "lost", "order-3", "lost") == "refunded"
    told = {(at_bank("early"), 1, 0), (at_bank("silent"), 1, 0), (at_bank("lost"), 0, 1)}
    assert set(services.rows("bank", CHARGES)) == told


async def test_what_cannot_be_charged_is_refused(payments):
    """H347: nothing, less than nothing, and a way to pay that there is not."""
    for amount, method in (("0", "card"), ("-1", "card"), ("1", "cheque")):
        assert await refused(charge(payments, amount=Money(amount=amount), method=method)) == "invalid"


async def test_a_bank_that_is_away_is_asked_again(payments, services, monkeypatch):
    """H346: the first call ends with what happened, and the second with the charge."""
    bank = services.straight("bank")
    there = bank.charge

    async def away(*_):
        raise Problem("unavailable", "The bank does not answer.")

    monkeypatch.setattr(bank, "charge", away)
    assert await refused(charge(payments)) == "unavailable"
    assert await payments.find("k") is None
    monkeypatch.setattr(bank, "charge", there)
    assert (await charge(payments)).status == "pending"
    assert services.rows("bank", CHARGES) == [(at_bank("k"), 0, 0)]
