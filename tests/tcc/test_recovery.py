"""What a dead process has left is brought to its end, by whoever lives, for as long as that takes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from tcc.support import Shop, another
from txpatterns.retries import RetryLadder
from txpatterns.tcc import BranchTransaction, Status, TccSettings
from txpatterns.tcc.claims import Held
from txpatterns.tcc.schema import tcc_branch_table, tcc_table
from txpatterns.tcc.store import TccStore

NONE, SOLD = (10, 0, 0), (8, 0, 2)


async def test_one_that_was_never_decided_is_cancelled_at_its_timeout(shop: Shop):
    """P5, P7, I26, T4: not before, and by the next process that runs."""
    await shop.left_trying()
    await shop.rest()
    assert (await shop.stands("A"), await shop.app.tcc.status("order-1")) == ((8, 2, 0), Status.TRYING)
    await shop.set(due_at=shop.app.database.now())
    await another(shop).rest()
    assert (await shop.stands("A"), await shop.stands("B")) == (NONE, NONE)
    assert await shop.branches() == [("stock", "cancelled"), ("shelf", "cancelled")]


async def test_one_that_was_decided_is_confirmed(shop: Shop):
    """P5, I26, T5, H177: a reservation has no expiry of its own, however long after its timeout it is confirmed."""
    await shop.left_trying()
    long_ago = shop.app.database.now(-timedelta(days=7))
    await shop.set(status="confirming", due_at=long_ago, expires_at=long_ago)
    await another(shop).rest()
    assert (await shop.stands("A"), await shop.stands("B")) == (SOLD, (9, 0, 1))


async def test_a_confirm_that_fails_for_a_week(shop: Shop):
    """H177, T2: it goes on for ever, a person is told once, and then it succeeds; nothing has taken the pieces."""
    shop.fails["confirm A"] = [OSError("away")] * 7
    async with shop.app.tcc.transaction("order-1", timeout=timedelta(seconds=30)) as tcc:
        await tcc.try_(shop.stock, "A", 2)
    await shop.rest()
    assert (await shop.stands("A"), await shop.app.tcc.status("order-1")) == (SOLD, Status.CONFIRMED)
    assert len(shop.watch.raised) == 7
    assert [moment.participant for moment in shop.watch.flagged] == ["stock"]
    assert (await shop.row())["attention"] is None


async def test_a_cancel_that_fails_holds_up_no_other(shop: Shop):
    """P5, H356: each branch goes on by itself."""
    shop.fails["cancel A"] = [OSError("away")] * 5
    with pytest.raises(ValueError, match="no"):  # noqa: PT012 - the block is what raises
        async with shop.app.tcc.transaction("order-1") as tcc:
            await tcc.try_(shop.stock, "A", 2)
            await tcc.try_(shop.stock, "B", 2)
            raise ValueError("no")
    assert (await shop.stands("A"), await shop.stands("B"), tcc.status) == ((8, 2, 0), NONE, Status.CANCELLING)
    await shop.rest()
    assert await shop.stands("A") == NONE


async def test_a_participant_that_is_not_here(sqlite_shop: Shop):
    """P5: a process of a release without it leaves the branch to others, and does the rest."""
    await sqlite_shop.left_trying()
    await sqlite_shop.set(status="confirming", due_at=sqlite_shop.app.database.now())
    other = another(sqlite_shop)
    other.app.tcc.participants._by_name.pop("shelf")
    tools = other.app.tcc.tools
    async with other.app.running():
        await other.app.drained()
        while await other.app.database.read(partial(tools.store.branch, xid="shop/order-1", branch="1")) is None:
            await other.app.drained()
    assert (await sqlite_shop.stands("A"), await sqlite_shop.stands("B")) == (SOLD, (9, 1, 0))
    await sqlite_shop.rest()
    assert await sqlite_shop.stands("B") == (9, 0, 1)


async def test_whoever_was_paused_writes_nothing_over_a_takeover(shop: Shop):
    """P5, I20, H168: at an older epoch nothing is confirmed a second time."""
    tcc = await shop.left_trying()
    await shop.set(status="confirming", due_at=shop.app.database.now(), epoch=tcc_table.c.epoch + 1)
    held = tcc._held
    assert isinstance(held, Held)
    tcc._held = Held(held.number, held.instance, Status.TRYING, held.owner, 0)
    await tcc.__aexit__(None, None, None)  # it is confirmed, by somebody else
    assert (await shop.stands("A"), tcc.status) == ((8, 2, 0), Status.CONFIRMING)
    await shop.rest()
    assert await shop.stands("A") == SOLD


async def test_a_decision_without_a_guard_is_found(sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch):
    """H168, T2: the test above is able to fail: whoever was paused confirms what somebody else has confirmed."""
    real = TccStore.move

    def whoever(self: TccStore, connection: sa.Connection, held: Held, *rest: Any) -> bool:
        found = self.find(connection, "shop", held.instance.id)
        assert found is not None
        return real(self, connection, replace(held, epoch=found.epoch, status=found.status), *rest)

    monkeypatch.setattr(TccStore, "move", whoever)
    with pytest.raises(AssertionError):
        await test_whoever_was_paused_writes_nothing_over_a_takeover(sqlite_shop)


async def test_a_commit_whose_answer_was_lost_is_not_done_again(shop: Shop):
    """H355, I20: what repeats it finds that its branch is done, and goes on with the others."""
    tcc = await shop.left_trying()
    held = tcc._held
    branches = await shop.app.database.read(partial(shop.app.tcc.tools.store.branches, xid="shop/order-1"))
    shop.fails["cancel B"] = [OSError("away")]
    assert await tcc._concluding(held, branches, Status.CANCELLING).run() == Status.CANCELLING
    assert (await shop.stands("A"), await shop.stands("B")) == (NONE, (9, 1, 0))
    as_it_was = replace(held, status=Status.CANCELLING)
    assert await tcc._concluding(as_it_was, branches, Status.CANCELLING).run() == Status.CANCELLED
    assert (await shop.stands("A"), await shop.stands("B")) == (NONE, NONE)
    assert (await shop.effects()).count("cancel A hold A") == 1


async def test_two_processes_recover_at_once(shop: Shop):
    """P5: many transactions, and each of them once."""
    for number in range(8):
        tcc = shop.app.tcc.transaction(f"order-{number}")
        await tcc.__aenter__()
        await tcc.try_(shop.stock, "A", 1)
    await shop.set(status="confirming", due_at=shop.app.database.now())
    await asyncio.gather(shop.rest(), another(shop).rest())
    assert await shop.stands("A") == (2, 0, 8)
    assert len([what for what in await shop.effects() if what.startswith("confirm")]) == 8


async def test_a_transaction_that_kills_its_processes_is_tried_seldom(shop: Shop):
    """P5, H358: before the fourth process takes the risk, others are kept off for a while and a person is told."""
    other = Shop(shop.app.database, TccSettings(ladder=RetryLadder((timedelta(hours=1),), jitter=0)))
    seen = []

    @other.app.tcc.participant("deadly")
    async def deadly(tx: BranchTransaction) -> None: ...

    @deadly.confirm
    async def confirm(tx: BranchTransaction) -> None:
        seen.append(await shop.row())

    @deadly.cancel
    async def cancel(tx: BranchTransaction) -> None: ...

    tcc = other.app.tcc.transaction("order-1")
    await tcc.__aenter__()
    await tcc.try_(deadly)
    now = await shop.app.database.moment()
    await shop.set(status="confirming", owner="dead", due_at=shop.app.database.now(), crashes=2)
    await other.rest()
    (row,) = seen
    assert (row["attention"], row["crashes"]) == ("3 processes have died while they brought it to its end", 3)
    assert row["due_at"] - now > timedelta(minutes=59)
    assert await shop.app.tcc.status("order-1") == Status.CONFIRMED


async def test_ended_ones_are_forgotten_with_their_branches(shop: Shop):
    """P7: after keep_ended; what is open stays."""
    async with shop.app.tcc.transaction("order-1") as tcc:
        await tcc.try_(shop.stock, "A", 2)
    await shop.left_trying("order-2")
    clean = partial(shop.app.tcc.tools.store.clean, older_than=timedelta(days=30))
    assert await shop.app.database.transact(clean) == 0
    long_ago = shop.app.database.now(-timedelta(days=31))
    ended = tcc_table.c.ended_at.is_not(None)
    await shop.app.database.execute(sa.update(tcc_table).where(ended).values(ended_at=long_ago))
    assert await shop.app.database.transact(clean) == 1
    left = sa.select(tcc_branch_table.c.xid).distinct()
    assert await shop.app.database.read(lambda connection: connection.execute(left).scalars().all()) == ["shop/order-2"]
