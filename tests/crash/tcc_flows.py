"""The canonical flows of TCC: the bank's transfers, each reserved by two participants, then confirmed or cancelled."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from crash.bank import TOTAL, Bank, Noted, account, effect, opened
from txpatterns.errors import TccUndecided
from txpatterns.hooks import HookList
from txpatterns.retries import RetryLadder
from txpatterns.tcc import BranchCall, BranchTransaction, SyncBranchTransaction, Tcc, TccCoordinator, TccSettings
from txpatterns.tcc.queues import ACTIVE
from txpatterns.testing.explorer import INVARIANTS, Flow, Invariant, State, Surroundings, done_at

LADDER = RetryLadder((timedelta(seconds=1),) * 3)
ESCROW = "c"
"""Where what is reserved lies until it is decided."""


@dataclass
class Teller:
    """A process that runs the bank's transactions."""

    bank: Bank
    tcc: Tcc
    paid: Any = None
    paid_in_a_thread: Any = None
    charged: Any = None

    async def transfer(self, id: str, *participants: Any, fails: bool = False) -> None:
        """Run a transaction, and write down what its caller was told: in a place that outlives the process."""
        told = "confirmed"
        try:
            async with self.tcc.transaction(id, timeout=timedelta(minutes=1)) as tcc:
                for to, participant in zip("ab", participants, strict=True):
                    await tcc.try_(participant, to)
                if fails:
                    raise ValueError("no")
        except TccUndecided:
            return
        except Exception:  # noqa: BLE001 - whatever it is, its caller takes it for cancelled
            told = "cancelled"
        self.bank.around.log.write("told", id=id, status=told)

    async def run_until_nothing_waits(self, rounds: int = 200) -> None:
        """Recover what is due, jumping from due time to due time, and publish what was sent."""
        for _ in range(rounds):
            await self._recover()
            if not await self.bank.finds(ACTIVE.rows(ACTIVE.order)):
                await self.bank.relay_until_nothing_waits()
                return
            self.bank.around.clock.jump(timedelta(hours=1))
        raise AssertionError("transactions wait on and on")

    async def _recover(self) -> None:
        coordinator = TccCoordinator(self.tcc)
        running = asyncio.ensure_future(coordinator.run())
        caught_up = asyncio.ensure_future(self._catch_up(coordinator))
        try:
            await asyncio.wait((running, caught_up), return_when=asyncio.FIRST_COMPLETED)
            coordinator.stop()
            await running
        finally:
            running.cancel()
            caught_up.cancel()
            await asyncio.gather(running, caught_up, return_exceptions=True)

    async def _catch_up(self, coordinator: TccCoordinator) -> None:
        await coordinator.caught_up(await self.bank.database.moment())


def moving(source: str, to: str) -> list[sa.Update]:
    return [
        sa.update(account).where(account.c.name == name).values(balance=account.c.balance + by)
        for name, by in ((source, -1), (to, 1))
    ]


def noted(tx: BranchTransaction | SyncBranchTransaction) -> sa.Insert:
    return sa.insert(effect).values(consumer=tx.key.rpartition("/")[2], message_id=tx.reservation, key=tx.key)


async def move(tx: BranchTransaction, source: str, to: str) -> None:
    for update in moving(source, to):
        await tx.session.execute(update)
    await tx.session.execute(noted(tx))


def move_in_a_thread(tx: SyncBranchTransaction, source: str, to: str) -> None:
    for update in moving(source, to):
        tx.session.execute(update)
    tx.session.execute(noted(tx))


def define(teller: Teller) -> None:
    """Register the participants of the bank."""
    outside = teller.bank.around.outside()

    @teller.tcc.participant("paid")
    async def paid(tx: BranchTransaction, to: str) -> str:
        await move(tx, "bank", ESCROW)
        tx.emit(Noted(account=to, number=1))
        return f"held for {to}"

    @paid.confirm
    async def pay(tx: BranchTransaction, to: str) -> None:
        assert tx.result == f"held for {to}"
        await move(tx, ESCROW, to)

    @paid.cancel
    async def give_back(tx: BranchTransaction, to: str) -> None:
        await move(tx, ESCROW, "bank")

    @teller.tcc.participant("paid_in_a_thread")
    def paid_in_a_thread(tx: SyncBranchTransaction, to: str) -> None:
        move_in_a_thread(tx, "bank", ESCROW)

    @paid_in_a_thread.confirm
    def pay_in_a_thread(tx: SyncBranchTransaction, to: str) -> None:
        move_in_a_thread(tx, ESCROW, to)

    @paid_in_a_thread.cancel
    def give_back_in_a_thread(tx: SyncBranchTransaction, to: str) -> None:
        move_in_a_thread(tx, ESCROW, "bank")

    @teller.tcc.participant("charged", mode="intent")
    async def charged(call: BranchCall, to: str) -> str:
        return await outside.do(f"charge {to}", call.key)

    @charged.confirm
    async def capture(call: BranchCall, to: str) -> None:
        await outside.do(f"capture {to}", call.key)

    @charged.cancel
    async def refund(call: BranchCall, to: str) -> None:
        await outside.do(f"refund {to}", call.key)

    teller.paid, teller.paid_in_a_thread, teller.charged = paid, paid_in_a_thread, charged


@asynccontextmanager
async def teller(around: Surroundings) -> AsyncIterator[Teller]:
    """Be a process of the bank that runs transactions."""
    async with opened(around) as bank:
        settings = TccSettings(ladder=LADDER)
        made = Teller(bank, Tcc("bank", bank.database, bank.outbox, hooks=HookList(), settings=settings))
        define(made)
        yield made


async def confirm_local_ones(teller: Teller) -> None:
    await teller.transfer("tcc-1", teller.paid, teller.paid)
    await teller.run_until_nothing_waits()


async def confirm_and_cancel_both_kinds(teller: Teller) -> None:
    await teller.transfer("tcc-1", teller.paid, teller.paid_in_a_thread)
    await teller.transfer("tcc-2", teller.paid_in_a_thread, teller.paid, fails=True)
    await teller.run_until_nothing_waits()


async def confirm_and_cancel_outside(teller: Teller) -> None:
    await teller.transfer("tcc-1", teller.paid, teller.charged)
    await teller.transfer("tcc-2", teller.charged, teller.paid, fails=True)
    await teller.run_until_nothing_waits()


async def leave_two(teller: Teller) -> None:
    """Be gone when one has tried, and when another is decided."""
    for number in (1, 2):
        tcc = teller.tcc.transaction(f"tcc-{number}", timeout=timedelta(minutes=1))
        await tcc.__aenter__()
        await tcc.try_(teller.paid, "a")
        await tcc.try_(teller.charged, "b")
    decided = "UPDATE txp_tcc SET status = 'confirming' WHERE id = 'tcc-2'"
    await teller.bank.database.transact(lambda connection: connection.exec_driver_sql(decided))


async def recover(teller: Teller) -> None:
    await teller.run_until_nothing_waits()


def money_is_conserved(state: State) -> None:
    """I6, I26: nothing stays reserved, and what was confirmed is where it belongs."""
    stands = {row["name"]: row["balance"] for row in state.rows("SELECT name, balance FROM account")}
    assert sum(stands.values()) == TOTAL, f"I6: money was made or lost: {stands}"
    assert stands[ESCROW] == 0, f"I26: {stands[ESCROW]} stay reserved"
    confirmed = Counter(row["key"].split("/")[1] for row in effects(state) if row["consumer"] == "confirm")
    assert stands["a"] + stands["b"] == sum(confirmed.values()), f"I26: {stands}, confirmed {confirmed}"


def effects(state: State) -> list[Any]:
    return list(state.rows("SELECT * FROM effect ORDER BY id"))


def all_have_ended(state: State) -> None:
    """I19, I26: each transaction has come to its end, and its branches to the same."""
    for row in state.rows("SELECT * FROM txp_tcc"):
        assert row["status"] in ("confirmed", "cancelled"), f"I19: {row['id']} is {row['status']}"
        xid = f"{row['app']}/{row['id']}"
        states = {each["state"] for each in state.rows(f"SELECT state FROM txp_tcc_branch WHERE xid = '{xid}'")}
        wanted = {"confirmed"} if row["status"] == "confirmed" else {"cancelled"}
        assert states <= wanted, f"I26: {row['id']} is {row['status']}, and its branches are {states}"


def each_is_done_once(state: State) -> None:
    """I20, I28: each branch has its effects once: tried, and then confirmed or cancelled, as its row says."""
    done = Counter((row["message_id"], row["consumer"]) for row in effects(state))
    twice = [what for what, times in done.items() if times > 1]
    assert not twice, f"I20: twice: {twice}"
    local = "SELECT * FROM txp_tcc_branch WHERE participant LIKE 'paid%'"
    found = {(f"{row['xid']}/{row['branch']}", row["state"]) for row in state.rows(local)}
    words = {"confirmed": "confirm", "cancelled": "cancel"}
    wanted = {(key, "try") for key, _ in found} | {(key, words.get(is_, "?")) for key, is_ in found}
    assert set(done) == wanted, f"I28: effects {sorted(done)}, branches {sorted(found)}"


def callers_were_told_the_truth(state: State) -> None:
    """H355, I26: of a transaction whose caller was told that it is confirmed nothing is cancelled, and the reverse."""
    stands = {row["id"]: row["status"] for row in state.rows("SELECT id, status FROM txp_tcc")}
    for record in state.log.records("told"):
        status = stands.get(record["id"], "cancelled")  # what was rolled back is nowhere
        assert status == record["status"], f"I26: {record['id']} was told to be {record['status']}, and is {status}"


def charges_are_captured_or_refunded(state: State) -> None:
    """I25, I26: what was charged outside is captured or refunded, as its transaction was decided, and once."""
    done = done_at(state.log)
    by_branch: dict[str, set[str]] = {}
    for key, what in done.items():
        by_branch.setdefault(key.rpartition("/")[0], set()).add(what.split()[0])
    stands = {f"{row['app']}/{row['id']}": row["status"] for row in state.rows("SELECT app, id, status FROM txp_tcc")}
    for branch, words in by_branch.items():
        right = "capture" if stands[branch.rpartition("/")[0]] == "confirmed" else "refund"
        assert words - {"charge"} == {right}, f"I26: {branch} has {sorted(words)}"


RIGHT: tuple[Invariant, ...] = (
    *INVARIANTS,
    money_is_conserved,
    all_have_ended,
    each_is_done_once,
    callers_were_told_the_truth,
    charges_are_captured_or_refunded,
)

TCC_FLOWS = [
    Flow("tcc, confirmed", teller, confirm_local_ones, recover, None, RIGHT),
    Flow("tcc of both kinds", teller, confirm_and_cancel_both_kinds, recover, None, RIGHT),
    Flow("tcc outside", teller, confirm_and_cancel_outside, recover, None, RIGHT),
    Flow("tcc, recovered", teller, recover, recover, leave_two, RIGHT),
]
