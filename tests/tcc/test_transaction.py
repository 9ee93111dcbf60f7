"""A transaction as whoever runs it sees it: all is confirmed, or all is cancelled."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from tcc.support import Held, Shop, another, noted
from txpatterns.errors import (
    IdReused,
    Reject,
    TccCancelled,
    TccDefinitionError,
    TccOver,
    TccValueRefused,
    TransactionEnded,
)
from txpatterns.outbox.schema import outbox_table
from txpatterns.tcc import BranchTransaction, Status, SyncBranchTransaction

NONE, SOLD = (10, 0, 0), (8, 0, 2)


async def test_leaving_the_block_confirms_all(shop: Shop):
    """P5, I26: both participants are confirmed, with what their tries have returned, in the order of the tries."""
    async with shop.app.tcc.transaction("order-1") as tcc:
        assert await tcc.try_(shop.stock, "A", 2) == "hold A"
        assert await tcc.try_(shop.stock, sku="B", quantity=2) == "hold B"
        assert (await shop.stands("A"), await shop.stands("B")) == ((8, 2, 0), (8, 2, 0))
    assert tcc.status == Status.CONFIRMED
    assert (await shop.stands("A"), await shop.stands("B")) == (SOLD, SOLD)
    assert await shop.effects() == ["try A", "try B", "confirm A hold A", "confirm B hold B"]
    row = await shop.row()
    assert (row["status"], row["due_at"], row["owner"]) == ("confirmed", None, None)
    assert row["ended_at"] is not None
    assert shop.watch.ended == [("order-1", "confirmed")]


async def test_an_error_that_leaves_the_block_cancels_all(shop: Shop):
    """P5, I26: what was tried is given back, the last first, and the error is the caller's."""
    with pytest.raises(ValueError, match="too dear"):  # noqa: PT012 - the block is what raises
        async with shop.app.tcc.transaction("order-1") as tcc:
            await tcc.try_(shop.stock, "A", 2)
            await tcc.try_(shop.shelf, "B", 2)
            raise ValueError("too dear")
    assert tcc.status == Status.CANCELLED
    assert (await shop.stands("A"), await shop.stands("B")) == (NONE, NONE)
    assert await shop.branches() == [("stock", "cancelled"), ("shelf", "cancelled")]


async def test_async_and_plain_participants_try_at_once(shop: Shop):
    """P5: participants of both kinds, tried in parallel, end in one transaction each."""
    async with shop.app.tcc.transaction("order-1") as tcc:
        tries = [tcc.try_(shop.stock, "A", 1), tcc.try_(shop.stock, "A", 1), tcc.try_(shop.shelf, "B", 2)]
        assert await asyncio.gather(*tries) == ["hold A", "hold A", None]
    assert (await shop.stands("A"), await shop.stands("B")) == (SOLD, SOLD)


async def test_one_of_several_that_try_at_once_fails(shop: Shop):
    """I26, I28: the others are waited for before all is cancelled, so that none of them stays behind."""
    shop.fails["try B"] = [Reject("none left")]
    with pytest.raises(Reject):
        async with shop.app.tcc.transaction("order-1") as tcc:
            await asyncio.gather(
                tcc.try_(shop.stock, "A", 1), tcc.try_(shop.shelf, "B", 2), tcc.try_(shop.stock, "A", 1)
            )
    assert (await shop.stands("A"), await shop.stands("B")) == (NONE, NONE)


async def test_two_local_participants_cost_three_commits(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    """T1 by its count: try, try, and the decision with both confirms and the end."""
    runs = []
    settle = shop.app.tcc.tools.execution.settle

    async def counted(*arguments: Any) -> Any:
        runs.append(1)
        return await settle(*arguments)

    monkeypatch.setattr(shop.app.tcc.tools.execution, "settle", counted)
    transact = shop.app.database.transact

    async def counted_too(*arguments: Any, **options: Any) -> Any:
        runs.append(1)
        return await transact(*arguments, **options)

    monkeypatch.setattr(shop.app.database, "transact", counted_too)
    async with shop.app.tcc.transaction("order-1") as tcc:
        await tcc.try_(shop.stock, "A", 2)
        await tcc.try_(shop.stock, "B", 1)
    assert len(runs) == 3


async def test_a_participant_that_refuses_may_be_gone_without(shop: Shop):
    """P5: its own transaction is rolled back, and the rest is confirmed."""
    shop.fails["try A"] = [Reject("none left")]
    async with shop.app.tcc.transaction("order-1") as tcc:
        with pytest.raises(Reject):
            await tcc.try_(shop.stock, "A", 2)
        await tcc.try_(shop.shelf, "B", 2)
    assert (await shop.stands("A"), await shop.stands("B")) == (NONE, SOLD)
    assert await shop.branches() == [("shelf", "confirmed")]


async def test_a_block_that_tries_nothing_leaves_nothing(shop: Shop):
    """P5: it costs no statement, and its id is still free."""
    async with shop.app.tcc.transaction("order-1"):
        pass
    assert await shop.app.tcc.status("order-1") is None


async def test_an_id_is_used_once(shop: Shop):
    """P5: a second transaction of the same id reserves nothing, however the first has ended."""
    async with shop.app.tcc.transaction("order-1") as tcc:
        await tcc.try_(shop.stock, "A", 2)
    with pytest.raises(IdReused):
        async with shop.app.tcc.transaction("order-1") as again:
            await again.try_(shop.stock, "A", 2)
    assert (await shop.stands("A"), (await shop.row())["status"]) == (SOLD, "confirmed")


async def test_two_at_once_of_one_id(shop: Shop):
    """P5, I28: one of them begins it; what the other tries is refused, and cancels nothing of the first."""
    other = another(shop)
    async with shop.app.tcc.transaction("order-1") as tcc:
        await tcc.try_(shop.stock, "A", 2)
        with pytest.raises(IdReused):
            async with other.app.tcc.transaction("order-1") as second:
                await second.try_(other.stock, "A", 2)
    assert await shop.stands("A") == SOLD


async def test_an_expired_one_tries_no_more(shop: Shop):
    """I28, T4: by the database's clock its time is over, and a try reserves nothing."""
    with pytest.raises(TccCancelled):  # noqa: PT012 - the block is what raises
        async with shop.app.tcc.transaction("order-1") as tcc:
            await tcc.try_(shop.stock, "A", 2)
            await shop.set(expires_at=shop.app.database.now(-timedelta(1)))
            await tcc.try_(shop.stock, "A", 2)
    assert await shop.stands("A") == NONE


async def test_one_that_somebody_has_cancelled_is_not_confirmed(shop: Shop):
    """H177, T2: the coordinator was faster; leaving says so, and confirms nothing."""
    with pytest.raises(TccCancelled):  # noqa: PT012 - the block is what raises
        async with shop.app.tcc.transaction("order-1") as tcc:
            await tcc.try_(shop.stock, "A", 2)
            await shop.set(due_at=shop.app.database.now(-timedelta(1)))
            await shop.rest()
    assert (await shop.stands("A"), tcc.status) == (NONE, Status.CANCELLED)


async def test_a_confirm_that_fails_is_repeated_in_the_background(shop: Shop):
    """P5, I26, T2: it is decided, so leaving succeeds; the other participant does not wait for the failing one."""
    shop.fails["confirm A"] = [OSError("away"), OSError("away"), OSError("away")]
    async with shop.app.tcc.transaction("order-1") as tcc:
        await tcc.try_(shop.stock, "A", 2)
        await tcc.try_(shop.stock, "B", 2)
    assert tcc.status == Status.CONFIRMING
    assert (await shop.stands("A"), await shop.stands("B")) == ((8, 2, 0), SOLD)
    await shop.rest()
    assert (await shop.stands("A"), await shop.app.tcc.status("order-1")) == (SOLD, Status.CONFIRMED)
    assert [raised.attempt for raised in shop.watch.raised] == [1, 2]


async def test_a_participant_that_commits_by_itself_in_its_try(shop: Shop):
    """H357: half of its work may stand, so all is cancelled, although its error was swallowed."""

    @shop.app.tcc.participant("odd")
    async def odd(tx: BranchTransaction, sku: str) -> None:
        await tx.session.execute(noted(f"odd {sku}"))
        await tx.session.commit()

    @odd.confirm
    async def confirm(tx: BranchTransaction, sku: str) -> None: ...

    @odd.cancel
    async def cancel(tx: BranchTransaction, sku: str) -> None:
        await tx.session.execute(noted(f"cancel odd {sku}"))

    with pytest.raises(TccOver):  # noqa: PT012 - the block is what raises
        async with shop.app.tcc.transaction("order-1") as tcc:
            with pytest.raises(TransactionEnded):
                await tcc.try_(odd, "A")
    assert await shop.effects() == ["odd A", "cancel odd A"]


async def test_a_participant_that_commits_by_itself_when_it_confirms(shop: Shop):
    """H357: it is not asked again, the others are, and a person is told."""

    @shop.app.tcc.participant("odd")
    async def odd(tx: BranchTransaction, sku: str) -> None: ...

    @odd.confirm
    async def confirm(tx: BranchTransaction, sku: str) -> None:
        await tx.session.execute(noted(f"odd {sku}"))
        await tx.session.commit()

    @odd.cancel
    async def cancel(tx: BranchTransaction, sku: str) -> None: ...

    async with shop.app.tcc.transaction("order-1") as tcc:
        await tcc.try_(odd, "A")
        await tcc.try_(shop.stock, "A", 2)
    assert (await shop.stands("A"), tcc.status) == (SOLD, Status.CONFIRMED)
    assert (await shop.effects()).count("odd A") == 1
    assert "ended its transaction by itself" in (await shop.row())["attention"]
    assert len(shop.watch.flagged) == 1


async def test_leaving_while_participants_are_asked(sqlite_shop: Shop):
    """I26: a forgotten await cancels all, instead of confirming what nobody has waited for."""
    shop = sqlite_shop
    with pytest.raises(TccOver):  # noqa: PT012 - the block is what raises
        async with shop.app.tcc.transaction("order-1") as tcc:
            forgotten = asyncio.ensure_future(tcc.try_(shop.stock, "A", 2))
            await asyncio.sleep(0)
    await asyncio.gather(forgotten, return_exceptions=True)
    assert await shop.stands("A") == NONE
    with pytest.raises(TccOver):
        await tcc.try_(shop.stock, "A", 2)


async def test_a_try_that_was_cut_off_cannot_be_gone_without(shop: Shop):
    """H355, I26: cancelled at its commit it may be committed, or not: whoever swallows that confirms nothing."""

    @shop.app.tcc.participant("slow")
    async def slow(tx: BranchTransaction) -> None:
        await asyncio.Event().wait()

    @slow.confirm
    async def confirm(tx: BranchTransaction) -> None: ...

    @slow.cancel
    async def cancel(tx: BranchTransaction) -> None: ...

    with pytest.raises(TccOver):  # noqa: PT012 - the block is what raises
        async with shop.app.tcc.transaction("order-1") as tcc:
            await tcc.try_(shop.stock, "A", 2)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await tcc.try_(slow)
    assert (await shop.stands("A"), tcc.status) == (NONE, Status.CANCELLED)


async def test_a_cancelled_task_cancels_all(shop: Shop):
    """I26: whoever waits is cancelled in the block, and what was tried is given back before that goes on."""
    tried = asyncio.Event()

    async def order() -> None:
        async with shop.app.tcc.transaction("order-1") as tcc:
            await tcc.try_(shop.stock, "A", 2)
            tried.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(order())
    await tried.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await shop.stands("A") == NONE


async def test_what_cannot_be_kept_is_refused(sqlite_shop: Shop):
    """P5: an argument that would come back as something else reserves nothing."""
    shop = sqlite_shop
    async with shop.app.tcc.transaction("order-1") as tcc:
        with pytest.raises(TccValueRefused):
            await tcc.try_(shop.stock, "A", 2.5)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await tcc.try_(shop.stock, "A")  # type: ignore[call-arg]
    assert await shop.stands("A") == NONE


async def test_definitions_that_do_not_fit(sqlite_shop: Shop):
    """P5: found where they are written, or before anything is reserved."""
    tcc = sqlite_shop.app.tcc

    @tcc.participant("half")
    async def half(tx: BranchTransaction, sku: str) -> None: ...

    with pytest.raises(TccDefinitionError, match="other arguments"):

        @half.confirm  # type: ignore[arg-type]
        async def confirm(tx: BranchTransaction, sku: int) -> None: ...

    with pytest.raises(TccDefinitionError, match="async def"):

        @half.confirm  # type: ignore[arg-type]
        def plain(tx: SyncBranchTransaction, sku: str) -> None: ...

    with pytest.raises(TccDefinitionError, match="Two participants"):
        tcc.participant("half")(sqlite_shop.stock.functions["try"])  # type: ignore[index]
    with pytest.raises(TccDefinitionError, match="confirm or cancel"):
        async with tcc.transaction("order-1") as block:
            await block.try_(half, "A")
    with pytest.raises(TccDefinitionError, match="no id"):
        tcc.transaction("order 1")
    with pytest.raises(TccDefinitionError, match="timeout"):
        tcc.transaction("order-1", timeout=timedelta(0))


async def test_what_a_participant_sends_goes_with_its_part(shop: Shop):
    """P1: the message of a confirm is sent if, and only if, that is committed, once however often it is tried."""

    @shop.app.tcc.participant("telling")
    async def telling(tx: BranchTransaction, sku: str) -> None:
        tx.emit(Held(sku=sku))

    @telling.confirm
    async def confirm(tx: BranchTransaction, sku: str) -> None:
        tx.emit(Held(sku=f"{sku} {tx.key}"))
        shop._fail("confirm", "telling")

    @telling.cancel
    async def cancel(tx: BranchTransaction, sku: str) -> None: ...

    shop.fails["confirm telling"] = [OSError("away")]
    async with shop.app.tcc.transaction("order-1") as tcc:
        await tcc.try_(telling, "A")
        await tcc.try_(telling, "B")
    query = sa.select(outbox_table.c.payload, outbox_table.c.headers).order_by(outbox_table.c.position)
    found = await shop.app.database.read(lambda connection: connection.execute(query).all())
    assert [b"/confirm" in row.payload for row in found] == [False, False, True, True]
    assert all('"correlation-id": "order-1"' in row.headers for row in found)
