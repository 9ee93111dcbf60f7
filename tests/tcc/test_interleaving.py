"""Requests to one branch, and a try beside a decision, in every order of their steps, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from inbox.interleaving import Session, orders, quiet
from inbox.interleaving import opened as sessions_on
from tcc.support import Shop, moved, opened, piece
from tcc.test_barrier import MOVES
from txpatterns.coordination import Leases
from txpatterns.tcc import statements
from txpatterns.tcc.barrier import Barrier, Request, Verdict
from txpatterns.tcc.claims import Beginning, Branch, Held
from txpatterns.tcc.schema import Operation, State, tcc_barrier_table, tcc_branch_table, tcc_table
from txpatterns.tcc.store import TccStore

COMMITTED = "READ COMMITTED"
NEVER = datetime(2100, 1, 1, tzinfo=UTC)
TRY, CONFIRM, CANCEL = Operation.TRY, Operation.CONFIRM, Operation.CANCEL

Steps = Sequence[Callable[[], Awaitable[Any]]]


@pytest.fixture
async def shop(database) -> AsyncIterator[Shop]:
    async with opened(database.url("asyncpg")) as shop:
        yield shop


class Asked:
    """The transaction in which a participant does what it is asked for, or fails to."""

    def __init__(self, barrier: Barrier, session: Session, operation: Operation, *, fails: bool = False) -> None:
        self.barrier, self.session, self.operation, self.fails = barrier, session, operation, fails
        self.request = Request("elsewhere/order-1", "1", operation, "stock", NEVER)
        self.runs = False

    async def admit(self) -> None:
        admission = await self.session.connection.run_sync(self.barrier.admit, self.request)
        self.runs = admission.verdict is Verdict.RUN

    async def move(self) -> None:
        if self.runs:
            await self.session.connection.execute(moved("A", **MOVES[self.operation]))

    async def end(self) -> None:
        await (self.session.connection.rollback() if self.fails else self.session.connection.commit())

    @property
    def steps(self) -> Steps:
        return (self.admit, self.move, self.end)


async def played(shop: Shop, asked: Sequence[tuple[Operation, bool]], *, tried: bool) -> set[tuple[int, int, int]]:
    """Let them take their steps in every order; gives how the pieces can stand in the end."""
    barrier, engine, ends = shop.app.tcc.serving.barrier, shop.app.database.engine, set()
    levels = [COMMITTED] * len(asked)
    async with engine.connect() as watcher, sessions_on(engine, *levels) as sessions:  # type: ignore[arg-type]
        await watcher.execution_options(isolation_level="AUTOCOMMIT")
        for order in orders(*[3] * len(asked)):
            await shop.app.database.transact(lambda connection: begun_anew(connection, barrier, tried=tried))
            parts = [
                Asked(barrier, session, operation, fails=fails)
                for session, (operation, fails) in zip(sessions, asked, strict=True)
            ]
            steps = [iter(part.steps) for part in parts]
            for turn in order:
                sessions[turn].ask(next(steps[turn]))
                await quiet(sessions, watcher)
            ends.add(await shop.stands("A"))
    return ends


def begun_anew(connection: sa.Connection, barrier: Barrier, *, tried: bool) -> None:
    for table in (tcc_barrier_table, tcc_table, tcc_branch_table):
        connection.execute(sa.delete(table))
    connection.execute(sa.update(piece).values(available=10, reserved=0, sold=0))
    if tried:
        barrier.admit(connection, Request("elsewhere/order-1", "1", TRY, "stock", NEVER))
        connection.execute(moved("A", **MOVES[TRY]))


FREE, HELD, SOLD = (10, 0, 0), (9, 1, 0), (9, 0, 1)


@pytest.mark.parametrize(
    ("asked", "tried", "ends"),
    [
        ([(TRY, False), (CANCEL, False)], False, {FREE}),
        ([(TRY, True), (CANCEL, False)], False, {FREE}),
        ([(TRY, False), (TRY, False)], False, {HELD}),
        ([(TRY, True), (TRY, False)], False, {HELD}),
        ([(CANCEL, False), (CANCEL, True)], True, {FREE}),
        ([(CONFIRM, True), (CONFIRM, False)], True, {SOLD}),
        ([(CONFIRM, False), (CANCEL, False)], True, {FREE, SOLD}),
    ],
    ids=[
        "try, cancel",
        "failing try, cancel",
        "try twice",
        "failing, try",
        "cancel twice",
        "confirm twice",
        "both ways",
    ],
)
async def test_in_every_order_the_pieces_end_right(
    shop: Shop, asked: list[tuple[Operation, bool]], tried: bool, ends: set[tuple[int, int, int]]
) -> None:
    """H122, H123, H124, I26, I27: whoever comes second waits for the first, and decides by how that has ended."""
    assert await played(shop, asked, tried=tried) == ends


async def test_a_cancel_that_looks_before_it_writes_is_found(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """H123: the test above is able to fail: a cancel that only looks misses the try that is under way."""
    insert = Barrier._insert

    def looks(self: Barrier, connection: Any, request: Request, operation: Operation, **options: Any) -> bool:
        if request.operation == CANCEL and operation == TRY:
            return self._found(connection, request) is None
        return insert(self, connection, request, operation, **options)

    monkeypatch.setattr(Barrier, "_insert", looks)
    assert HELD in await played(shop, [(TRY, False), (CANCEL, False)], tried=False)


class Trying:
    """The transaction of a second try, which joins one that has begun."""

    def __init__(self, store: TccStore, session: Session, held: Held) -> None:
        self.store, self.session, self.held = store, session, held

    async def begin(self) -> None:
        await self.session.connection.exec_driver_sql("SELECT 1")

    async def join(self) -> None:
        branch = Branch("2", "stock", '["A", 1]', State.TRIED)
        if await self.session.connection.run_sync(self.store.join, self.held, branch):
            await self.session.connection.execute(moved("A", **MOVES[TRY]))

    async def end(self) -> None:
        await self.session.connection.commit()


class Deciding:
    """A coordinator, which claims and thereby cancels what is late, and then reads the branches."""

    def __init__(self, store: TccStore, session: Session, leases: Leases) -> None:
        self.store, self.session, self.leases = store, session, leases
        self.found: list[str] | None = None

    async def claim(self) -> None:
        own = (self.leases.owner, self.leases.alive())
        claimed = await self.session.connection.run_sync(self.store.claim, "shop", own, 1)
        await self.session.connection.commit()
        if claimed:
            read = await self.session.connection.run_sync(self.store.branches, "shop/order-1")
            self.found = [branch.branch for branch in read]
        await self.session.connection.rollback()


async def decided(shop: Shop) -> list[tuple[int, ...]]:
    """Let a try and a decision take their steps in every order; gives those in which a branch was forgotten."""
    store, engine, wrong = shop.app.tcc.tools.store, shop.app.database.engine, []
    leases = Leases(shop.app.database, "tcc", slots=0, ttl=timedelta(hours=1))
    await leases.join()
    async with engine.connect() as watcher, sessions_on(engine, COMMITTED, COMMITTED) as sessions:  # type: ignore[arg-type]
        await watcher.execution_options(isolation_level="AUTOCOMMIT")
        for order in orders(3, 1):
            held = await shop.app.database.transact(lambda connection: begun(connection, shop, store))
            trying, deciding = Trying(store, sessions[0], held), Deciding(store, sessions[1], leases)
            steps = [iter((trying.begin, trying.join, trying.end)), iter((deciding.claim,))]
            for turn in order:
                sessions[turn].ask(next(steps[turn]))
                await quiet(sessions, watcher)
            there = await branches_of(shop)
            if deciding.found is not None and deciding.found != there:
                wrong.append(order)
    return wrong


def begun(connection: sa.Connection, shop: Shop, store: TccStore) -> Held:
    begun_anew(connection, shop.app.tcc.serving.barrier, tried=False)
    beginning = Beginning("shop", "order-1", "me", timedelta(hours=1), {})
    held = store.begin(connection, beginning, Branch("1", "stock", '["A", 1]', State.TRIED))
    assert held is not None
    connection.execute(sa.update(tcc_table).values(due_at=shop.app.database.now(-timedelta(seconds=1))))
    return held


async def branches_of(shop: Shop) -> list[str]:
    query = sa.select(tcc_branch_table.c.branch).order_by(tcc_branch_table.c.branch)
    return list(await shop.app.database.read(lambda connection: connection.execute(query).scalars().all()))


async def test_a_decision_sees_every_branch_that_is_committed(shop: Shop) -> None:
    """H354, I26, I28: a try is committed before the decision, and seen, or it is refused."""
    assert await decided(shop) == []


async def test_a_try_that_holds_nothing_is_forgotten(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """H354: the test above is able to fail: without the lock a branch is committed behind the decision."""
    unlocked = statements.STILL_TRIES.cte("mine")
    columns = ["xid", "branch", "participant", "args", "state"]
    given = sa.select(*statements._given()).select_from(unlocked)
    join = sa.insert(tcc_branch_table).from_select(columns, given).returning(tcc_branch_table.c.branch)
    monkeypatch.setattr(statements, "JOIN", join)
    assert await decided(shop) != []
