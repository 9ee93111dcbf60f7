"""What a participant does with requests that come twice, late, in a wrong order, or at once."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from tcc.support import Shop, moved, opened, piece
from txpatterns.errors import Reject, TccDefinitionError
from txpatterns.tcc.barrier import Admission, Barrier, Request, Verdict
from txpatterns.tcc.schema import Operation, tcc_barrier_table
from txpatterns.tcc.serving import Asking
from txpatterns.testing.clock import ManualClock

NEVER = datetime(2100, 1, 1, tzinfo=UTC)
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
TRY, CONFIRM, CANCEL = Operation.TRY, Operation.CONFIRM, Operation.CANCEL
NONE, HELD, SOLD = (10, 0, 0), (8, 2, 0), (8, 0, 2)
MOVES = {
    TRY: {"available": -1, "reserved": 1},
    CONFIRM: {"reserved": -1, "sold": 1},
    CANCEL: {"reserved": -1, "available": 1},
}


def request(operation: Operation, expires_at: datetime = NEVER) -> Request:
    return Request("elsewhere/order-1", "1", operation, "stock", expires_at)


@dataclass(frozen=True)
class Model:
    """What is right: how it was tried, and how it was decided."""

    tried: str = "no"
    decided: Operation | None = None

    def ask(self, operation: Operation) -> tuple[Verdict, Model]:
        if operation == TRY:
            answer = {"no": Verdict.RUN, "yes": Verdict.DONE, "blocked": Verdict.REFUSED}[self.tried]
            return answer, replace(self, tried="yes") if self.tried == "no" else self
        if self.tried == "no":
            return (Verdict.DONE, Model("blocked")) if operation == CANCEL else (Verdict.REFUSED, self)
        if self.tried == "blocked":
            return (Verdict.DONE if operation == CANCEL else Verdict.REFUSED), self
        if self.decided is None:
            return Verdict.RUN, replace(self, decided=operation)
        return (Verdict.DONE if self.decided == operation else Verdict.REFUSED), self


class Explorer:
    """Asks in every order, one request after the other, each order from where its beginning has led."""

    def __init__(self, barrier: Barrier, connection: sa.Connection) -> None:
        self.barrier, self.connection, self.orders = barrier, connection, 0

    def explore(self, longest: int, model: Model, before: tuple[Operation, ...] = ()) -> None:
        self.orders += not len(before) < longest
        for operation in Operation if len(before) < longest else ():
            place = self.connection.begin_nested()
            verdict, after = model.ask(operation)
            order = (*before, operation)
            admission = self.barrier.admit(self.connection, request(operation))
            assert admission.verdict is verdict, f"{order}: {admission}"
            if admission.verdict is Verdict.RUN:
                self.connection.execute(moved("A", **MOVES[operation]))  # refuses what would be below zero
            self.see_that_all_is_there(order)
            self.explore(longest, after, order)
            place.rollback()

    def see_that_all_is_there(self, order: tuple[Operation, ...]) -> None:
        total = sa.select(piece.c.available + piece.c.reserved + piece.c.sold).where(piece.c.sku == "A")
        assert self.connection.scalar(total) == 10, order


def explored(shop: Shop, longest: int) -> Any:
    def work(connection: sa.Connection) -> int:
        explorer = Explorer(shop.app.tcc.serving.barrier, connection)
        explorer.explore(longest, Model())
        return explorer.orders

    return shop.app.database.transact(work)


async def test_every_order_of_up_to_six_requests(sqlite_shop: Shop):
    """H122, H123, H124, H125, I27, I28: all 729, each answered as it should be, and no piece is lost or doubled."""
    assert await explored(sqlite_shop, 6) == 3**6


async def test_every_order_of_four_on_each_database(shop: Shop):
    """H122, H123, H124: the same statements elsewhere."""
    assert await explored(shop, 4) == 3**4


async def test_a_barrier_that_forgets_the_cancel_is_found(sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch):
    """H123: the test above is able to fail: a late try would reserve for ever."""
    insert = Barrier._insert

    def forgetful(self: Barrier, connection: Any, asked: Request, operation: Operation, **options: Any) -> bool:
        if asked.operation == CANCEL and operation == TRY:
            return self._found(connection, asked) is None
        return insert(self, connection, asked, operation, **options)

    monkeypatch.setattr(Barrier, "_insert", forgetful)
    with pytest.raises(AssertionError):
        await explored(sqlite_shop, 3)


async def test_a_barrier_that_confirms_what_is_cancelled_is_found(sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch):
    """H124: the test above is able to fail: confirm and cancel each look only for themselves."""
    monkeypatch.setattr(Barrier, "_has", lambda *_: False)
    with pytest.raises((AssertionError, sa.exc.IntegrityError)):
        await explored(sqlite_shop, 3)


def asking(shop: Shop, operation: Operation, expires_at: datetime = NEVER, quantity: int = 2, id: str = "1") -> Asking:
    asked = Request(f"elsewhere/order-{id}", "1", operation, "stock", expires_at)
    return Asking(asked, f'["A",{quantity}]', NEVER, "story-1", result='"hold A"' if operation != TRY else None)


async def test_a_participant_that_is_asked_from_elsewhere(shop: Shop):
    """P5, H124, I27: each of the three has its effect once, and repeats get the stored answer."""
    serve = shop.app.tcc.serving.serve
    for _ in range(2):
        assert await serve(asking(shop, TRY)) == Admission(Verdict.DONE, '"hold A"')
    assert await shop.stands("A") == HELD
    for _ in range(2):
        assert (await serve(asking(shop, CONFIRM))).verdict is Verdict.DONE
    assert (await serve(asking(shop, CANCEL))).verdict is Verdict.REFUSED
    assert await shop.stands("A") == SOLD
    assert await shop.effects() == ["try A", "confirm A hold A"]


async def test_many_at_once(shop: Shop):
    """H124: of the same request that comes ten times at once one is done, and all are told so."""
    serve = shop.app.tcc.serving.serve
    answers = await asyncio.gather(*(serve(asking(shop, TRY)) for _ in range(10)))
    assert answers == [Admission(Verdict.DONE, '"hold A"')] * 10
    assert await shop.stands("A") == HELD


async def test_the_last_piece_is_tried_for_twice(shop: Shop):
    """H125: the repeat is answered from the note, and not from the empty shelf."""
    serve = shop.app.tcc.serving.serve
    await serve(asking(shop, TRY, quantity=10))
    assert (await serve(asking(shop, TRY, quantity=10))).verdict is Verdict.DONE
    with pytest.raises(sa.exc.IntegrityError):
        await serve(asking(shop, TRY, quantity=1, id="2"))


async def test_a_try_that_comes_too_late(shop: Shop):
    """H126, I28, T4: behind the timeout, and more than the clocks may be apart, by the participant's own clock."""
    serve, database = shop.app.tcc.serving.serve, shop.app.database
    now = await database.moment()
    assert (await serve(asking(shop, TRY, LONG_AGO))).verdict is Verdict.LATE
    assert (await serve(asking(shop, TRY, now - timedelta(seconds=61), id="2"))).verdict is Verdict.LATE
    assert (await serve(asking(shop, TRY, now - timedelta(seconds=30), id="3"))).verdict is Verdict.DONE
    assert await shop.stands("A") == HELD


async def test_what_is_reserved_is_remembered_until_it_is_decided(shop: Shop):
    """H126, H177: the note of a try outlives its timeout by as much as the decision takes; then it is forgotten."""
    serving, database = shop.app.tcc.serving, shop.app.database
    now = await database.moment()
    await serving.serve(asking(shop, TRY, now + timedelta(seconds=1)))
    await serving.serve(asking(shop, CANCEL, LONG_AGO, id="2"))  # of which nothing was tried
    assert await database.transact(serving.barrier.clean) == 1
    assert (await serving.serve(asking(shop, CONFIRM, now))).verdict is Verdict.DONE
    assert await shop.stands("A") == SOLD
    assert await database.transact(serving.barrier.clean) == 0
    await database.execute(sa.update(tcc_barrier_table).values(until=LONG_AGO))
    assert await database.transact(serving.barrier.clean) == 2


async def test_where_only_others_coordinate_notes_are_forgotten_too(any_database: str):
    """H376: an App that only serves, and runs no coordinator, does it with later requests; seldom, and not at once."""
    clock = ManualClock()
    async with opened(any_database, clock=clock) as shop:
        serving, database = shop.app.tcc.serving, shop.app.database

        async def count() -> int:
            query = sa.select(sa.func.count()).select_from(tcc_barrier_table)
            return await database.read(lambda connection: connection.scalar(query) or 0)

        await serving.serve(asking(shop, TRY))
        await serving.serve(asking(shop, CONFIRM))
        await serving.serve(asking(shop, TRY, id="2"))
        assert await count() == 3
        clock.advance(shop.app.tcc.tools.settings.keep_ended + timedelta(minutes=2))
        assert (await serving.serve(asking(shop, TRY, id="2"))).verdict is Verdict.DONE
        assert await count() == 1


async def test_notes_that_cannot_be_forgotten_now_keep_no_answer_back(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch
):
    """H376: what was asked for is done, and answered."""

    def locked(self: Barrier, connection: Any) -> int:
        raise sa.exc.OperationalError("DELETE", {}, sqlite3.OperationalError("database is locked"))

    monkeypatch.setattr(Barrier, "clean", locked)
    assert (await sqlite_shop.app.tcc.serving.serve(asking(sqlite_shop, TRY))).verdict is Verdict.DONE
    assert await sqlite_shop.stands("A") == HELD


async def test_a_refused_try_does_not_reserve_when_it_comes_again(shop: Shop):
    """H123: a repeat that was under way elsewhere finds that it was refused, though the shelf is full by now."""
    serve = shop.app.tcc.serving.serve
    shop.fails["try A"] = [Reject("none left")]
    with pytest.raises(Reject):
        await serve(asking(shop, TRY))
    assert (await serve(asking(shop, TRY))).verdict is Verdict.REFUSED
    assert await shop.stands("A") == NONE


async def test_what_fits_no_participant(sqlite_shop: Shop):
    """P5: it is told, and notes nothing."""
    serve = sqlite_shop.app.tcc.serving.serve
    good = asking(sqlite_shop, TRY)
    with pytest.raises(TccDefinitionError):
        await serve(replace(good, arguments='["A"]'))
    with pytest.raises(TccDefinitionError):
        await serve(replace(good, request=replace(good.request, participant="none")))
    await serve(good)
    other = replace(good, request=replace(good.request, participant="shelf"))
    assert (await serve(other)).verdict is Verdict.REFUSED
