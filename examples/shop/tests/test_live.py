"""The live story: an open page hears of everything that is written down, in whichever order, and of what fails."""

import asyncio
import re
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from shop.bank.api import BankApi
from shop.gateway.live import Bell
from shop.gateway.models import TimelineRow
from shop.gateway.order_pages import _follow
from shop.gateway.visitors import Visitor
from shop.problems import Problem

LONG = timedelta(hours=1)


async def following(shop, alice, order_id, seen=0):
    """What the order's page is sent, event after event; without pauses in between."""
    visitor = Visitor((await alice.get(f"/api/v1/orders/{order_id}")).json()["visitor_id"], "token")
    async with aclosing(_follow(shop.web.state.context, visitor, order_id, seen)) as stream:
        async for chunk in stream:
            if "event:" in chunk:
                yield chunk


async def test_what_rings_while_nobody_waits_is_not_missed():
    """The bell rings between a look and the wait after it, and the wait ends at once."""
    bell = Bell()
    with bell.listening("o") as ear:
        bell.ring("o")
        async with asyncio.timeout(120):
            await ear.wait(LONG)
        bell.ring("another")
        await ear.wait(timedelta(milliseconds=1))
    bell.ring("o")  # nobody is left to hear it


async def test_closing_wakes_everybody():
    bell = Bell()
    with bell.listening("o") as ear:
        bell.close()
        async with asyncio.timeout(120):
            await ear.wait(LONG)
    assert bell.closed


async def test_what_is_committed_late_is_told_too(shop):
    """H7: an entry whose position is below one that the page has seen already is news like any other."""
    alice = await shop.visitor()
    order_id = await shop.buy(alice, "silent")
    await shop.until(alice, order_id, "payment.session_opened")
    context = shop.web.state.context

    async def write(position, message_id):
        row = TimelineRow(
            position=position,
            order_id=shop.number(order_id),
            message_id=message_id,
            type="order.paid",
            topic="order-events",
            payload={"order_id": shop.number(order_id)},
            headers={},
            occurred_at=datetime.now(UTC),
            seen_at=datetime.now(UTC),
        )
        async with context.app.transaction() as session:
            session.add(row)
        context.timeline.bell.ring(order_id)

    async with asyncio.timeout(120), aclosing(following(shop, alice, order_id)) as stream:
        assert (await anext(stream)).startswith("id: 3\n")
        await write(1_000, "second")
        assert (await anext(stream)).startswith("id: 4\n")
        await write(999, "first")
        assert (await anext(stream)).startswith("id: 5\n")


async def test_a_page_that_comes_back_hears_only_what_is_new(shop):
    alice = await shop.visitor()
    order_id = await shop.buy(alice, "silent")
    await shop.until(alice, order_id, "payment.session_opened")
    async with asyncio.timeout(120), aclosing(following(shop, alice, order_id, seen=3)) as stream:
        await alice.post(f"/api/v1/orders/{order_id}/cancel")
        assert (await anext(stream)).startswith("id: 4\n")


@pytest.fixture
def failing_bank(monkeypatch):
    """A bank that cannot be reached the first time it is asked."""
    asked, real = [], BankApi.charge

    async def charge(self, key, amount, method, window_seconds):
        asked.append(key)
        if len(asked) == 1:
            raise Problem("unavailable", "The bank's line is dead.")
        return await real(self, key, amount, method, window_seconds)

    monkeypatch.setattr(BankApi, "charge", charge)
    return asked


async def test_a_failed_attempt_is_told_and_repeated(shop, failing_bank):
    """P7: what failed is tried again by itself; the open page shows the attempt when it fails, and why."""
    alice = await shop.visitor()
    order_id = await shop.buy(alice, "succeed")
    told = []
    async with asyncio.timeout(120), aclosing(following(shop, alice, order_id)) as stream:
        async for chunk in stream:
            told.append(chunk)
            if "We took what you bought" in chunk and "packed" in chunk:
                break
    first = next(chunk for chunk in told if "Attempt 1 failed" in chunk)
    assert "we are trying it again" in first
    assert "The bank&#39;s line is dead." in first
    assert re.search(r'data-next="[^"]+">next attempt at <time', first)
    assert "Attempt 1 failed" in told[-1]
    assert "we are trying it again" not in told[-1]
    assert len(failing_bank) == 2
    assert len(set(failing_bank)) == 1
    page = await alice.get(f"/orders/{order_id}", headers={"accept": "text/html"})
    assert page.text.count("Attempt 1 failed") == 1
