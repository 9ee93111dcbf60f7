"""Sagas that reserve with TCC's participants: confirmed there, or at the end; cancelled when the saga is undone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from sagas.support import QUICK, Declined, Shop, effect, refuse, saga_of
from txpatterns.errors import Reject, SagaDefinitionError, SagaFailed, StepFailed
from txpatterns.sagas import SagaContext
from txpatterns.tcc import BranchCall, BranchTransaction, SyncBranchTransaction
from txpatterns.tcc.participants import AsyncParticipant

Note = Callable[[str], None]


def noted(what: str) -> sa.Insert:
    return sa.insert(effect).values(what=what)


class Participants:
    """One of each kind; ``asked`` is what the one outside was asked for."""

    def __init__(self, shop: Shop) -> None:
        self.asked: list[tuple[str, object]] = []
        self.keys: set[str] = set()
        self.fails: list[BaseException] = []
        self.bank = self._bank(shop)

        @shop.app.tcc.participant("stock")
        async def stock(tx: BranchTransaction, sku: str) -> str:
            if sku == "none":
                raise Reject("sold out")
            await tx.session.execute(noted(f"try {sku} {tx.reservation.rpartition('/')[0]}"))
            return f"hold {sku}"

        @stock.confirm
        async def sell(tx: BranchTransaction, sku: str) -> None:
            if self.fails:
                raise self.fails.pop()
            await tx.session.execute(noted(f"confirm {tx.result}"))

        @stock.cancel
        async def release(tx: BranchTransaction, sku: str) -> None:
            await tx.session.execute(noted(f"cancel {tx.result}"))

        @shop.app.tcc.participant("shelf")
        def shelf(tx: SyncBranchTransaction, sku: str) -> int:
            tx.session.execute(noted(f"try shelf {sku}"))
            return 7

        @shelf.confirm
        def take(tx: SyncBranchTransaction, sku: str) -> None:
            tx.session.execute(noted(f"confirm shelf {tx.result}"))

        @shelf.cancel
        def put_back(tx: SyncBranchTransaction, sku: str) -> None:
            tx.session.execute(noted(f"cancel shelf {tx.result}"))

        self.stock, self.shelf = stock, shelf

    def _bank(self, shop: Shop) -> AsyncParticipant[BranchCall, [int], str]:
        @shop.app.tcc.participant("bank", mode="intent")
        async def bank(call: BranchCall, cents: int) -> str:
            self._hear(call, "try")
            if cents == 13 and call.attempt == 1:
                raise ConnectionError("the answer is lost")
            return f"{cents} cents"

        @bank.confirm
        async def capture(call: BranchCall, cents: int) -> None:
            self._hear(call, "confirm")

        @bank.cancel
        async def let_go(call: BranchCall, cents: int) -> None:
            self._hear(call, "cancel")

        return bank

    def _hear(self, call: BranchCall, what: str) -> None:
        self.keys.add(call.key)
        self.asked.append((what, call.result))


@pytest.fixture
def ask(shop: Shop) -> Participants:
    return Participants(shop)


async def test_what_is_reserved_is_confirmed(shop: Shop, ask: Participants) -> None:
    """P4, P5, I26: in one commit here, and by a call outside; also when the code was rebuilt between the two."""

    async def order(saga: SagaContext, sku: str) -> list[Any]:
        held = await saga.reserve(ask.stock, sku)
        box = await saga.reserve(ask.shelf, sku=sku)
        paid = await saga.reserve(ask.bank, 5)
        await saga.sleep(timedelta(0))
        await saga.confirm(held, box, paid)
        return [held.result, box.result, paid.result]

    saga_of(shop, order)
    handle = await shop.start(order, "A1")
    await shop.rest()
    await shop.rest()
    async with shop.app.running():
        assert await handle.result(timeout=timedelta(seconds=20)) == ["hold A1", 7, "5 cents"]
    assert await shop.effects() == [
        "try A1 shop.order/order-1/1",
        "try shelf A1",
        "confirm hold A1",
        "confirm shelf 7",
    ]
    assert ask.asked == [("try", None), ("confirm", "5 cents")]
    assert len(ask.keys) == 2


async def test_a_refusal_is_told_as_what_it_is(shop: Shop, ask: Participants) -> None:
    """I26: where the saga names Reject, its code is told that, with the reason; also when it is rebuilt from rows."""

    async def order(saga: SagaContext) -> list[str]:
        told = []
        for _ in range(2):
            try:
                await saga.gather(saga.reserve(ask.shelf, "A1"), saga.reserve(ask.stock, "none"))
            except Reject as refused:
                told.append(refused.reason)
            await saga.sleep(timedelta(0))
        return told

    saga_of(shop, order, errors=[Reject])
    assert await shop.run(order) == ["sold out", "sold out"]


async def test_what_is_left_over_is_confirmed_at_the_end(shop: Shop, ask: Participants) -> None:
    """P5, I26: nothing stays reserved of a saga that has completed."""

    async def order(saga: SagaContext) -> str:
        first = await saga.reserve(ask.stock, "A1")
        await saga.reserve(ask.stock, "B2")
        await saga.confirm(first)
        return "done"

    saga_of(shop, order)
    assert await shop.run(order) == "done"
    assert (await shop.effects())[2:] == ["confirm hold A1", "confirm hold B2"]


async def test_what_is_reserved_is_cancelled_when_the_saga_is_undone(shop: Shop, ask: Participants) -> None:
    """P5, I22, I26: the last first, each told what its try had returned; what was refused is not cancelled."""

    async def order(saga: SagaContext) -> None:
        await saga.reserve(ask.stock, "A1")
        await saga.reserve(ask.shelf, "B2")
        await saga.reserve(ask.bank, 5)
        try:
            await saga.reserve(ask.stock, "none")
        except (Reject, StepFailed):
            await saga.step(refuse, 1)

    saga_of(shop, order, errors=[Declined])
    with pytest.raises(SagaFailed):
        await shop.run(order)
    assert (await shop.effects())[2:] == ["cancel shelf 7", "cancel hold A1"]
    assert ask.asked == [("try", None), ("cancel", "5 cents")]


async def test_one_outside_in_doubt_is_asked_again_under_its_key(shop: Shop, ask: Participants) -> None:
    """P5, I25, H132: its answer was lost, and it is the same request."""

    async def order(saga: SagaContext) -> str:
        return (await saga.reserve(ask.bank, 13)).result

    saga_of(shop, order, retry=QUICK)
    assert await shop.run(order) == "13 cents"
    assert [what for what, _ in ask.asked] == ["try", "try", "confirm"]
    assert len(ask.keys) == 2


async def test_confirming_goes_on_until_it_succeeds(shop: Shop, ask: Participants) -> None:
    """P4, P5: it is a pivot: what fails is not undone, and a person is told when the ladder is used up."""
    ask.fails = [ConnectionError("away")] * 4

    async def order(saga: SagaContext) -> str:
        await saga.confirm(await saga.reserve(ask.stock, "A1"))
        return "done"

    saga_of(shop, order, retry=QUICK)
    assert await shop.run(order) == "done"
    assert shop.watch.flagged.is_set()
    assert (await shop.effects())[1:] == ["confirm hold A1"]


async def test_behind_the_pivot_nothing_is_reserved(shop: Shop, ask: Participants) -> None:
    """P5, H369: it could not be cancelled any more."""

    async def order(saga: SagaContext) -> str:
        saga.pivot()
        try:
            saga.reserve(ask.stock, "A1")
        except SagaDefinitionError as error:
            return str(error)
        return "reserved"

    saga_of(shop, order)
    assert "after the pivot" in await shop.run(order)
    assert await shop.effects() == []
