"""How stock is used, as mypy sees it. Checked, never run; each `type: ignore` marks what must be refused."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.sagas import StepTransaction, SyncStepTransaction
from txpatterns.tcc.stock import Decision, MemoryStock, Reservation, SqlStock, Stock, sweep
from txpatterns.tcc.stock.ledger import Ledger
from txpatterns.tcc.stock.ledger_sql import SqlLedger
from txpatterns.tcc.stock.redis import RedisStock


def kinds(memory: MemoryStock, sql: SqlStock, redis: RedisStock, ledger: SqlLedger) -> tuple[list[Stock], Ledger]:
    return [memory, sql, redis, ledger.stock], ledger


async def asynchronous(stock: SqlStock, session: AsyncSession, tx: StepTransaction, until: datetime) -> bool:
    made: Reservation = await stock.within(session).reserve("r", [("A", 1), ("B", 2)], until)
    await stock.within(tx.session).reserve("s", {"A": 1}, until)
    stock.within(session).load({"A": "1"})  # type: ignore[dict-item, unused-coroutine]
    return await stock.within(session).confirm(made.id)


def plain(stock: SqlStock, session: Session, tx: SyncStepTransaction, until: datetime) -> bool:
    made: Reservation = stock.within(session).reserve("r", {"A": 1}, until)
    stock.within(tx.session).reserve("s", {"A": 1}, until)
    stock.within("session")  # type: ignore[call-overload]
    return stock.within(session).confirm(made.id)


async def swept(stock: Stock) -> int:
    async def decision(reservation_id: str) -> Decision:
        return Decision.OPEN

    async def text(reservation_id: str) -> str:
        return "open"

    await sweep(stock, text)  # type: ignore[arg-type]
    return (await sweep(stock, decision)).left
