"""A bank in which every transfer is told: the business that the canonical flows do, with a ledger of its own.

The ledger row of a transfer is written in the same transaction as the message, so what was committed is known
without asking the outbox.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count, pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.messages import Event, bucket_of
from txpatterns.outbox import Outbox, Relay, RelaySettings
from txpatterns.outbox.schema import outbox_table, waiting_table
from txpatterns.retries import FailurePolicies, FailurePolicy, OnFailure, RetryLadder
from txpatterns.serialization.registry import EventRegistry
from txpatterns.testing.explorer import INVARIANTS, State, Surroundings, WireBroker, attempts_at_most

TOTAL = 1000
BESIDE_B = next(name for name in map("b{}".format, count()) if bucket_of(name) == bucket_of("b"))
"""Another account, whose messages are published by the same relay as those of b, however many relays there are."""
LADDER = RetryLadder((timedelta(seconds=1), timedelta(seconds=5)))
HOLD, PARK = FailurePolicy(OnFailure.HOLD, LADDER), FailurePolicy(OnFailure.PARK, LADDER)

bank = sa.MetaData()
account = sa.Table(
    "account", bank, sa.Column("name", sa.String(20), primary_key=True), sa.Column("balance", sa.Integer)
)
ledger = sa.Table(
    "ledger",
    bank,
    sa.Column("message_id", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(20)),
    sa.Column("number", sa.Integer),
)
effect = sa.Table(
    "effect",
    bank,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("consumer", sa.String(50)),
    sa.Column("message_id", sa.String(64)),
    sa.Column("key", sa.String(20)),
    sa.Column("number", sa.Integer),
)


class Moved(Event, topic="moves", type="moved", key="account"):
    account: str
    number: int


class Noted(Event, topic="notes", type="noted", key="account"):
    account: str
    number: int


@dataclass
class Bank:
    """One process of the bank."""

    database: Database
    outbox: Outbox
    broker: WireBroker
    around: Surroundings
    policies: FailurePolicies = field(default_factory=lambda: FailurePolicies(HOLD))

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        async with self.database.session() as session, session.begin():
            yield session

    async def transfer(self, session: AsyncSession, to: str, number: int = 0, *, after: timedelta | None = None) -> str:
        """Move one unit, and tell it; the ledger has it as the number-th of its account, or as the next."""
        await session.execute(sa.update(account).where(account.c.name == "bank").values(balance=account.c.balance - 1))
        await session.execute(sa.update(account).where(account.c.name == to).values(balance=account.c.balance + 1))
        if not number:  # the row of the bank is locked now, so that nobody else counts
            last = sa.select(sa.func.max(ledger.c.number)).where(ledger.c.key == to)
            number = 1 + ((await session.execute(last)).scalar() or 0)
        message_id = self.outbox.add(session, Moved(account=to, number=number), deliver_after=after)
        # A scheduled message has no place in the order of its key.
        values = {"message_id": message_id, "key": to, "number": None if after else number}
        await session.execute(sa.insert(ledger).values(**values))
        return message_id

    def runs(self, message_id: str) -> int:
        """Count a run of a handler, in a place that outlives the process; gives which one it is."""
        times = 1 + [record["id"] for record in self.around.log.records("runs")].count(message_id)
        self.around.log.write("runs", id=message_id, times=times)
        return times

    def relay(self, **settings: Any) -> Relay:
        return Relay(
            self.database,
            self.broker,
            settings=RelaySettings(**settings),
            policies=self.policies,
            random=self.around.random,
        )

    async def relay_until_nothing_waits(self, rounds: int = 200) -> None:
        """Publish what is due, jump to later, and again: up to the end of the longest ladder.

        What a paused process has locked is passed over: there are more rounds than that process is kept waiting.
        """
        for _ in range(rounds):
            await self.relay().run_once()
            if not await self.waits():
                return
            self.around.clock.jump(timedelta(hours=1))
        raise AssertionError("messages wait on and on")

    async def waits(self) -> bool:
        return await self.finds(sa.select(waiting_table.c.message_id).where(waiting_table.c.due_at.is_not(None)))

    async def has_unsent(self) -> bool:
        return await self.finds(sa.select(outbox_table.c.position))

    async def finds(self, query: sa.Select[Any]) -> bool:
        return await self.database.read(lambda connection: connection.execute(query.limit(1)).first() is not None)


@asynccontextmanager
async def opened(
    around: Surroundings, *, policies: FailurePolicies | None = None, **broker: object
) -> AsyncIterator[Bank]:
    """Be a process of the bank: tables, accounts, outbox and broker."""
    async with Database(around.url, clock=around.clock) as database:
        if around.life < 0:
            await database.transact(_tables)
        registry = EventRegistry()
        registry.register(Moved)
        registry.register(Noted)
        async with around.broker(**broker) as wire:
            bank = Bank(database, Outbox(database, registry), wire, around)
            bank.policies = policies or bank.policies
            yield bank


def _tables(connection: sa.Connection) -> None:
    if sa.inspect(connection).has_table("account"):
        return
    create_missing(connection)
    bank.create_all(connection)
    rows = [{"name": "bank", "balance": TOTAL}, *({"name": name, "balance": 0} for name in ("a", "b", "c", BESIDE_B))]
    connection.execute(sa.insert(account), rows)


def money_is_conserved(state: State) -> None:
    """I6: what left one account is on another."""
    assert state.rows("SELECT sum(balance) AS total FROM account")[0]["total"] == TOTAL, "I6: money was made or lost"
    moved = state.rows("SELECT sum(balance) AS moved FROM account WHERE name <> 'bank'")[0]["moved"]
    transfers = state.rows("SELECT count(*) AS transfers FROM ledger")[0]["transfers"]
    assert moved == transfers, f"I6: {moved} moved in {transfers} transfers"


def business_and_messages_agree(state: State) -> None:
    """I1, I2: there is a message for each transfer, and a transfer for each message, in the business's order."""
    told = {row["message_id"] for row in state.rows("SELECT message_id FROM ledger")}
    messages = {row["message_id"] for row in state.committed if row["topic"] == "moves"}
    assert told == messages, f"I1, I2: transfers without message {told - messages}, the reverse {messages - told}"
    order = {row["message_id"]: row["position"] for row in state.committed}
    numbered = state.rows("SELECT * FROM ledger WHERE number IS NOT NULL ORDER BY key, number")
    for earlier, later in pairwise(numbered):
        if earlier["key"] == later["key"]:
            assert order[earlier["message_id"]] < order[later["message_id"]], "I4: positions do not follow the business"


def effects_happen_once_in_order(state: State) -> None:
    """I3, I4: one effect for each consumer and message, and per key in the order of the business."""
    effects = state.rows("SELECT * FROM effect ORDER BY id")
    pairs = [(row["consumer"], row["message_id"]) for row in effects]
    assert len(pairs) == len(set(pairs)), f"I3: an effect happened twice: {pairs}"
    last: dict[tuple[str, str], int] = {}
    for row in effects:
        lane = row["consumer"], row["key"]
        assert last.get(lane, -1) < row["number"], f"I4: effects of {lane} are out of order: {effects}"
        last[lane] = row["number"]


BANK = (*INVARIANTS, money_is_conserved, business_and_messages_agree, effects_happen_once_in_order, attempts_at_most(3))
