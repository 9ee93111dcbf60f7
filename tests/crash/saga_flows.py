"""The canonical flows of sagas: the bank's transfers, each a saga of several steps."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from crash.bank import TOTAL, Bank, Noted, account, effect, opened
from txpatterns.hooks import HookList
from txpatterns.messages import Event
from txpatterns.retries import RetryLadder
from txpatterns.sagas.calls import Call, Done, NotDone, Undo
from txpatterns.sagas.context import SagaContext
from txpatterns.sagas.definitions import Definitions, Options
from txpatterns.sagas.engine import SagaEngine
from txpatterns.sagas.facts import Attempted, Begun, Ended, Finished, Restarted, Undone, read
from txpatterns.sagas.queues import ACTIVE
from txpatterns.sagas.rows import SagaCall, SagaStep
from txpatterns.sagas.sagas import Sagas
from txpatterns.sagas.settings import SagaSettings
from txpatterns.sagas.signals import Signal
from txpatterns.sagas.steplist import Saga
from txpatterns.sagas.transactions import StepTransaction, SyncStepTransaction
from txpatterns.tcc import BranchCall, BranchTransaction
from txpatterns.tcc.participants import Intent, Local, Participants
from txpatterns.testing.explorer import INVARIANTS, Flow, Invariant, State, Surroundings, done_at

IDS = ("saga-1", "saga-2")
LADDER = RetryLadder((timedelta(seconds=1),) * 30)
"""Two processes that take each other for dead, each an hour ahead, use up an attempt at every turn."""

SETTINGS = SagaSettings(poisoned_after=100)


@dataclass
class Branch:
    """A process that runs the bank's sagas."""

    bank: Bank
    sagas: Sagas
    engine: SagaEngine
    fails: bool = False
    """Whether its sagas give up in the end."""

    async def run_until_nothing_waits(self, rounds: int = 200) -> None:
        """Run what is due, jumping from due time to due time, and publish what was sent."""
        for _ in range(rounds):
            await self._run_what_is_due()
            if not await self.bank.finds(ACTIVE.rows(ACTIVE.order)):
                await self.bank.relay_until_nothing_waits()
                return
            self.bank.around.clock.jump(timedelta(hours=1))
        raise AssertionError("sagas wait on and on")

    async def _run_what_is_due(self) -> None:
        running = asyncio.ensure_future(self.engine.run())
        caught_up = asyncio.ensure_future(self._catch_up())
        try:
            await asyncio.wait((running, caught_up), return_when=asyncio.FIRST_COMPLETED)
            self.engine.stop()
            await running
        finally:
            running.cancel()
            caught_up.cancel()
            await asyncio.gather(running, caught_up, return_exceptions=True)

    async def _catch_up(self) -> None:
        await self.engine.caught_up(await self.bank.database.moment())

    def tries(self, what: str) -> int:
        """Count a try, in a place that outlives the process; gives which one it is."""
        return self.bank.runs(what)


def values_of(tx: StepTransaction | SyncStepTransaction, name: str, to: str) -> dict[str, Any]:
    return {"consumer": f"{name} {to}", "message_id": tx.saga_id, "key": tx.saga_id}


def moving(to: str, amount: int) -> list[sa.Update]:
    at = {"bank": -amount, to: amount}
    return [
        sa.update(account).where(account.c.name == n).values(balance=account.c.balance + by) for n, by in at.items()
    ]


async def pay(tx: StepTransaction, to: str) -> str:
    for update in moving(to, 1):
        await tx.session.execute(update)
    await tx.session.execute(sa.insert(effect).values(**values_of(tx, "pay", to)))
    tx.emit(Noted(account=to, number=1))
    return f"paid {to}"


async def take_back(tx: StepTransaction, to: str) -> None:
    for update in moving(to, -1):
        await tx.session.execute(update)
    await tx.session.execute(sa.insert(effect).values(**values_of(tx, "undo", to)))


def pay_in_a_thread(tx: SyncStepTransaction, to: str) -> str:
    for update in moving(to, 1):
        tx.session.execute(update)
    tx.session.execute(sa.insert(effect).values(**values_of(tx, "pay", to)))
    return f"paid {to}"


def take_back_in_a_thread(tx: SyncStepTransaction, to: str) -> None:
    for update in moving(to, -1):
        tx.session.execute(update)
    tx.session.execute(sa.insert(effect).values(**values_of(tx, "undo", to)))


def of_steps(branch: Branch) -> Any:
    async def transfer(saga: SagaContext, first: str) -> str:
        told = await saga.step(pay, first, compensate=take_back)
        saga.emit(Noted(account=first, number=2))
        told += await saga.step(pay, "b", compensate=take_back) + str(saga.random())
        return told + await saga.step(pay, "c", compensate=take_back)

    return transfer


def at_once(branch: Branch) -> Any:
    async def transfer(saga: SagaContext, first: str) -> str:
        async def late(to: str) -> str:
            await saga.sleep(timedelta(minutes=1))
            return await saga.step(pay, to, compensate=take_back)

        told = await saga.gather(saga.step(pay, first, compensate=take_back), late("b"), late("c"))
        return " ".join(told)

    return transfer


def in_threads(branch: Branch) -> Any:
    async def transfer(saga: SagaContext, first: str) -> str:
        await saga.step(pay_in_a_thread, first, compensate=take_back_in_a_thread)
        await saga.step(pay_in_a_thread, "b", compensate=take_back_in_a_thread)
        raise ValueError("no")

    return transfer


def that_fails(branch: Branch) -> Any:
    async def refuse(tx: StepTransaction, to: str) -> str:
        await pay(tx, to)
        raise ValueError("no such account")

    async def transfer(saga: SagaContext, first: str) -> None:
        await saga.gather(saga.step(pay, first, compensate=take_back), saga.step(pay, "b", compensate=take_back))
        await saga.step(refuse, "c", compensate=take_back)

    return transfer


def that_stumbles(branch: Branch) -> Any:
    async def stumble(tx: StepTransaction, to: str) -> str:
        told = await pay(tx, to)
        if branch.tries(f"{tx.saga_id} {to}") <= 1:
            raise ConnectionError("not yet")
        return told

    async def stumble_back(tx: StepTransaction, to: str) -> None:
        await take_back(tx, to)
        if branch.tries(f"{tx.saga_id} {to} back") <= 1:
            raise ConnectionError("not yet")

    async def transfer(saga: SagaContext, first: str) -> None:
        await saga.step(stumble, first, compensate=stumble_back)
        await saga.step(pay, "b", compensate=take_back)
        raise ValueError("no")

    return transfer


class Asked(Event, topic="asked", type="asked", key="account"):
    account: str
    number: int


def of_events(branch: Branch) -> Any:
    async def transfer(saga: SagaContext, first: str) -> int:
        early = await saga.wait_for(Asked, key=saga.id, timeout=None)
        await saga.step(pay, first, compensate=take_back)
        late, _ = await saga.gather(
            saga.wait_for(Asked, key=saga.id, timeout=timedelta(days=30)), saga.step(pay, "b", compensate=take_back)
        )
        return early.number + late.number

    return transfer


def with_parts(branch: Branch) -> Callable[..., Any]:
    """Register what the transfers start, and give it."""

    async def part(saga: SagaContext, to: str, after: float) -> str:
        told = await saga.step(pay, to, compensate=take_back)
        await saga.sleep(timedelta(minutes=after))
        return told

    branch.sagas.definitions.add(part, "part", Options(retry=LADDER))
    return part


def of_others(branch: Branch) -> Any:
    """A command and its answer, a lock, a child, and one that is cancelled."""
    part = with_parts(branch)

    async def transfer(saga: SagaContext, first: str) -> int:
        ask = Noted(account=first, number=1)
        early = await saga.command(ask, reply=Asked, key=saga.id, timeout=timedelta(days=30))
        await saga.lock("till", timeout=timedelta(days=30))
        late, told = await saga.gather(
            saga.command(ask, reply=Asked, key=saga.id, timeout=timedelta(days=30)),
            saga.child(part, first, 0, id=f"{saga.id}-part"),
        )
        await saga.first(saga.child(part, "b", 10_000, id=f"{saga.id}-late"), saga.sleep(timedelta(minutes=1)))
        return early.number + late.number if told == f"paid {first}" else 0

    return transfer


def of_others_that_are_undone(branch: Branch) -> Any:
    part = with_parts(branch)

    async def transfer(saga: SagaContext, first: str) -> None:
        await saga.lock("till", timeout=timedelta(days=5))
        await saga.step(pay, "b", compensate=take_back)
        await saga.child(part, first, 1, id=f"{saga.id}-part", compensate=take_back_part)
        raise ValueError("no")

    return transfer


async def take_back_part(tx: StepTransaction, to: str, after: float) -> None:
    await take_back(tx, to)


async def start_and_ask(branch: Branch, ids: Sequence[str] = IDS) -> None:
    """Bring the sagas' events before their start, and after."""
    for id_ in ids:
        async with branch.bank.session() as session:
            branch.sagas.bring(session, Asked(account=id_, number=1), f"{id_} 1")
    await start(branch, ids)
    for id_ in ids:
        async with branch.bank.session() as session:
            branch.sagas.bring(session, Asked(account=id_, number=2), f"{id_} 2")


async def ask_and_run(branch: Branch, ids: Sequence[str] = IDS) -> None:
    """Bring events and start sagas while the engine runs; the hours pass only when all has been brought."""
    running = asyncio.ensure_future(branch.engine.run())
    try:
        await start_and_ask(branch, ids)
        branch.engine.stop()
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await branch.run_until_nothing_waits()


async def ask_again_and_run(branch: Branch, ids: Sequence[str] = IDS) -> None:
    """Whoever brings events brings them again when he does not know whether they have come."""
    await start_and_ask(branch, ids)
    await branch.run_until_nothing_waits()


def events_were_had_in_order(state: State) -> None:
    """I24, I23: no saga waits beside its event, and each has had its events once, in their order."""
    assert not state.rows("SELECT * FROM txp_saga_wait"), "I24: something is waited for"
    results = {row["id"]: row["result"] for row in state.rows("SELECT id, result FROM txp_saga")}
    assert results == {"saga-1": "3", "saga-2": "3"}, f"I24: {results}"


def of_calls(branch: Branch) -> Any:
    outside = branch.bank.around.outside()

    async def charge(call: Call, to: str) -> str:
        return await outside.do(f"charge {to}", call.key)

    async def refund(undo: Undo[str], to: str) -> None:
        assert undo.result in (f"charge {to}", None)
        await outside.do(f"refund {to}", undo.key)

    async def look(call: Call, to: str) -> Done[str] | NotDone:
        found = await outside.look_up(call.key)
        return NotDone() if found is None else Done(found)

    async def transfer(saga: SagaContext, first: str) -> str:
        told = await saga.call(charge, first, compensate=refund)
        more = await saga.gather(saga.call(charge, "b", probe=look), saga.step(pay, "c"))
        return told + more[0]

    return transfer


def of_calls_that_are_undone(branch: Branch) -> Any:
    outside = branch.bank.around.outside()

    async def charge(call: Call, to: str) -> str:
        return await outside.do(f"charge {to}", call.key)

    async def refund(undo: Undo[str], to: str) -> None:
        await outside.do(f"refund {to}", undo.key)
        if branch.tries(undo.key) <= 1:
            raise ConnectionError("not yet")

    async def transfer(saga: SagaContext, first: str) -> None:
        await saga.gather(
            saga.call(charge, first, compensate=refund),
            saga.step(pay, "b", compensate=take_back),
            saga.call(charge, "c", compensate=refund),
        )
        raise ValueError("no")

    return transfer


def as_a_list(branch: Branch) -> Any:
    """A step, then a call and two steps at the same time, then one that is refused."""
    outside = branch.bank.around.outside()

    async def charge(call: Call, first: str) -> str:
        return await outside.do("charge b", call.key)

    async def refund(undo: Undo[str], first: str) -> None:
        await outside.do("refund b", undo.key)

    async def pay_b(tx: StepTransaction, first: str, a: str) -> str:
        assert a == f"paid {first}"
        return await pay(tx, "b")

    async def take_back_b(tx: StepTransaction, first: str, a: str) -> None:
        await take_back(tx, "b")

    def pay_c(tx: SyncStepTransaction, first: str) -> str:
        return pay_in_a_thread(tx, "c")

    def take_back_c(tx: SyncStepTransaction, first: str) -> None:
        take_back_in_a_thread(tx, "c")

    async def refuse(tx: StepTransaction, first: str, b: str, c: str, charged: str) -> None:
        raise ValueError(f"{b}, {c} and {charged}, but no")

    return Saga(
        "transfer",
        str,
        steps=[
            SagaStep("a", pay, compensate=take_back),
            [
                SagaCall("charged", charge, compensate=refund),
                SagaStep("b", pay_b, compensate=take_back_b),
                SagaStep("c", pay_c, compensate=take_back_c),
            ],
            SagaStep("refused", refuse),
        ],
    )


def that_begins_anew_and_is_late(branch: Branch) -> Any:
    outside = branch.bank.around.outside()

    async def charge(call: Call, to: str) -> str:
        told = await outside.do(f"charge {to}", call.key)
        if branch.tries(call.key) <= 1:
            raise ConnectionError("what came of it is lost")
        return told

    async def refund(undo: Undo[str], to: str) -> None:
        await outside.do(f"refund {to}", undo.key)

    async def transfer(saga: SagaContext, first: str) -> None:
        if saga.run == 1:
            await saga.step(pay, first)
            saga.restart("c")
        await saga.step(pay, first, compensate=take_back)
        await saga.call(charge, "b", compensate=refund, retry=RetryLadder((timedelta(days=1),) * 30))
        await saga.wait_for(Asked, key=saga.id, timeout=None)

    return transfer


def of_reservations(branch: Branch) -> Any:
    """Two participants of TCC, one in this database and one outside, and what is reserved with them."""
    outside, keep = branch.bank.around.outside(), Participants()

    @Local("stock", keep.add)
    async def stock(tx: BranchTransaction, to: str) -> str:
        for update in moving(to, 1):
            await tx.session.execute(update)
        await _note(tx, f"pay {to}")
        return f"paid {to}"

    @stock.confirm
    async def sell(tx: BranchTransaction, to: str) -> None:
        assert tx.result == f"paid {to}"
        await _note(tx, f"pay {to} for good")

    @stock.cancel
    async def give_back(tx: BranchTransaction, to: str) -> None:
        assert tx.result == f"paid {to}"
        for update in moving(to, -1):
            await tx.session.execute(update)
        await _note(tx, f"undo {to}")

    @Intent("bank", keep.add)
    async def bank(call: BranchCall, to: str) -> str:
        return await outside.do(f"charge {to}", call.key)

    @bank.confirm
    async def capture(call: BranchCall, to: str) -> None:
        assert call.result == f"charge {to}"
        await outside.do(f"capture {to}", call.key)

    @bank.cancel
    async def let_go(call: BranchCall, to: str) -> None:
        await outside.do(f"refund {to}", call.key)

    async def transfer(saga: SagaContext, first: str) -> str:
        held = await saga.reserve(stock, first)
        asked, _ = await saga.gather(saga.reserve(bank, "b"), saga.reserve(stock, "c"))
        if branch.fails:
            raise ValueError("no")
        await saga.confirm(asked, held)
        return f"{held.result} {asked.result}"

    return transfer


async def _note(tx: BranchTransaction, what: str) -> None:
    saga = tx.transaction_id.rpartition("/")[0]
    await tx.session.execute(sa.insert(effect).values(consumer=what, message_id=saga, key=saga))


def of_reservations_that_are_undone(branch: Branch) -> Any:
    branch.fails = True
    return of_reservations(branch)


@asynccontextmanager
async def branch(
    around: Surroundings, *, define: Callable[[Branch], Any], deadline: timedelta | None = None
) -> AsyncIterator[Branch]:
    """Be a process of the bank that runs these sagas."""
    async with opened(around) as bank:
        definitions, hooks = Definitions("bank"), HookList()
        engine = SagaEngine(bank.database, definitions, bank.outbox, hooks=hooks, settings=SETTINGS)
        sagas = Sagas(bank.database, definitions, hooks=hooks, runner=lambda: engine)
        made = Branch(bank, sagas, engine)
        options = Options(errors=(ValueError,), signals=(Signal(Asked),), retry=LADDER, deadline=deadline)
        definitions.add(define(made), "transfer", options)
        yield made


async def start_two(branch: Branch) -> None:
    await start(branch, IDS)


async def start_one(branch: Branch) -> None:
    await start(branch, IDS[:1])


async def start(branch: Branch, ids: Sequence[str]) -> None:
    definition = next(each for each in branch.sagas.definitions if each.type == "bank.transfer")
    for id_ in ids:
        async with branch.bank.session() as session:
            branch.sagas.start(session, definition.function, "a", id=id_)


async def start_and_run(branch: Branch) -> None:
    await start_two(branch)
    await branch.run_until_nothing_waits()


async def run(branch: Branch) -> None:
    await branch.run_until_nothing_waits()


def money_is_conserved(state: State) -> None:
    """I6: what left one account is on another."""
    assert state.rows("SELECT sum(balance) AS total FROM account")[0]["total"] == TOTAL, "I6: money was made or lost"


def steps_happen_once(state: State) -> None:
    """I20: each step has its effect once, exactly where the fact of it is; so has each undoing."""
    effects = [(row["message_id"], row["consumer"]) for row in state.rows("SELECT * FROM effect")]
    assert len(effects) == len(set(effects)), f"I20: twice: {sorted(effects)}"
    steps, undone = 0, 0
    for facts in journals(state).values():
        steps += sum(isinstance(fact, Ended) and fact.mark.kind == "step" for fact in facts)
        undone += sum(isinstance(fact, Undone) and fact.mark.kind in ("step", "child") for fact in facts)
    told = sum(consumer.startswith("pay") for _, consumer in effects), sum(c.startswith("undo") for _, c in effects)
    assert told == (steps, undone), f"I20: effects {told}, facts {(steps, undone)}"


def what_is_compensated_is_undone_in_reverse(state: State) -> None:
    """I22: all that was done is undone once, the last first, and nothing else."""
    for saga in state.rows("SELECT * FROM txp_saga"):
        facts = of_the_last_run(journals(state)[saga["number"]])
        done = [f.mark.path for f in facts if isinstance(f, Ended) and f.mark.kind in ("step", "call", "child")]
        done += [path for path in in_doubt(facts) if path not in done]
        undone = [fact.mark.path for fact in facts if isinstance(fact, Undone)]
        expected = done[::-1] if saga["status"] == "compensated" else []
        assert undone == expected, f"I22: {saga['id']} is {saga['status']}, done {done}, undone {undone}"


def of_the_last_run(facts: list[Any]) -> list[Any]:
    begins = max((number for number, fact in enumerate(facts, 1) if isinstance(fact, Restarted)), default=0)
    return facts[begins:]


def in_doubt(facts: list[Any]) -> list[str]:
    """Give the calls that may have been under way, by their paths."""
    begun = {f.mark.path: f.begun if isinstance(f, Attempted) else True for f in facts if is_about_a_beginning(f)}
    return [path for path, is_begun in begun.items() if is_begun]


def is_about_a_beginning(fact: Any) -> bool:
    return isinstance(fact, Begun) or (isinstance(fact, Attempted) and fact.mark.kind == "call" and not fact.undoing)


def journals_have_no_gaps(state: State) -> None:
    """I21: the rows of a journal are numbered without a gap."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in state.rows("SELECT saga, run, n FROM txp_saga_journal ORDER BY saga, run, n"):
        found[row["saga"], row["run"]].append(row["n"])
    for saga, numbers in found.items():
        assert numbers == list(range(1, len(numbers) + 1)), f"I21: the journal of {saga} has rows {numbers}"


def sagas_have_ended(state: State, *, as_: str) -> None:
    """I19: each saga that was started has come to its end, and to the right one."""
    statuses = {row["id"]: row["status"] for row in state.rows("SELECT id, status FROM txp_saga")}
    assert set(statuses.values()) <= {as_}, f"I19: {statuses}"
    unfinished = [saga for saga, facts in journals(state).items() if not any(isinstance(f, Finished) for f in facts)]
    assert not unfinished, f"I19: no end in the journals of {unfinished}"


def journals(state: State) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {row["number"]: [] for row in state.rows("SELECT number FROM txp_saga")}
    for row in state.rows("SELECT * FROM txp_saga_journal ORDER BY saga, run, n"):
        found[row["saga"]] += read(row["facts"])
    return found


def all_is_sent(state: State, *, times: int) -> None:
    """I1, I2: what each saga and its steps send is committed with the facts: once."""
    sent = sum(row["topic"] == "notes" for row in state.committed)
    assert sent == times * len(journals(state)), f"I1, I2: {sent} messages of {len(journals(state))} sagas"


def calls_have_one_effect(state: State, *, charges: int) -> None:
    """I20, I22, I25: one effect for each call, under a key of its own, and one for undoing it."""
    done = done_at(state.log)
    for saga in state.rows("SELECT * FROM txp_saga"):
        of_saga = {key: what for key, what in done.items() if f"/{saga['id']}/" in key}
        charged = {key for key, what in of_saga.items() if what.startswith("charge")}
        refunded = {key.removesuffix("/undo") for key, what in of_saga.items() if what.startswith("refund")}
        assert len(charged) == charges, f"I25: {saga['id']} has charged {sorted(charged)}"
        wanted = charged if saga["status"] == "compensated" else set()
        assert refunded == wanted, f"I22: {saga['id']} has charged {sorted(charged)}, refunded {sorted(refunded)}"


def reservations_have_one_end(state: State, *, to: str) -> None:
    """I26, I25: what is reserved outside is confirmed or cancelled, once, under keys of its own."""
    done = done_at(state.log)
    for saga in state.rows("SELECT id FROM txp_saga"):
        told = sorted(what for key, what in done.items() if f"/{saga['id']}/" in key)
        assert told == sorted(["charge b", f"{to} b"]), f"I26: {saga['id']}: {told}"
    ends = len(state.rows("SELECT * FROM effect WHERE consumer LIKE '% for good' OR consumer LIKE 'undo%'"))
    assert ends == 2 * len(IDS), f"I26: {ends} ends of {2 * len(IDS)} reservations"


def families_have_ended(state: State) -> None:
    """I19, I24, I1: a parent and the child that it waited for; the other is cancelled; each command is sent once."""
    _are_families(state, IDS[:1], {"": "completed", "-part": "completed", "-late": "compensated"})
    results = {row["result"] for row in state.rows("SELECT result FROM txp_saga WHERE parent IS NULL")}
    assert results == {"3"}, f"I24: {results}"
    assert not state.rows("SELECT * FROM txp_saga_wait"), "I24: something is waited for"
    paid = len(state.rows("SELECT * FROM effect WHERE consumer LIKE 'pay%'"))
    commands = sum(row["topic"] == "notes" for row in state.committed) - paid
    assert commands == 2, f"I1: {commands} commands"


def families_that_failed_have_ended(state: State) -> None:
    """I19: the parents are undone, and their children are not: what those did the parents have undone."""
    _are_families(state, IDS, {"": "compensated", "-part": "completed"})


def _are_families(state: State, parents: Sequence[str], expected: dict[str, str]) -> None:
    statuses = {row["id"]: row["status"] for row in state.rows("SELECT id, status FROM txp_saga")}
    wanted = {f"{parent}{end}": status for parent in parents for end, status in expected.items()}
    assert statuses == wanted, f"I19: {statuses}"


def locks_are_had_one_after_the_other(state: State) -> None:
    """I24: each has had the lock, none has it still, and nobody did anything between what one has done with it."""
    assert not state.rows("SELECT * FROM txp_saga_lock"), "I24: something is locked"
    had = [f for facts in journals(state).values() for f in facts if isinstance(f, Ended) and f.mark.kind == "lock"]
    assert len(had) == 2, f"I24: {len(had)} have had the lock"
    parents = [row["message_id"] for row in state.rows("SELECT * FROM effect ORDER BY id")]
    turns = [id_ for id_, _ in groupby(id_ for id_ in parents if id_ in ("saga-1", "saga-2"))]
    assert len(turns) == len(set(turns)), f"I24: two have had the lock at once: {parents}"


def nothing_stays_charged(state: State) -> None:
    """I22: what was charged, whoever knows of it, is refunded under its own key."""
    done = done_at(state.log)
    charged = {key for key, what in done.items() if what.startswith("charge")}
    left = charged - {key.removesuffix("/undo") for key, what in done.items() if what.startswith("refund")}
    assert not left, f"I22: nobody has refunded {sorted(left)}"


def the_deadline_has_ended_them(state: State) -> None:
    """Each saga was ended by its deadline, and once; in the run that it had begun anew."""
    assert {row["run"] for row in state.rows("SELECT run FROM txp_saga")} == {2}, "I19: it has not begun anew"
    for saga, facts in journals(state).items():
        ends = [fact.by for fact in facts if isinstance(fact, Finished)]
        assert ends == ["deadline"], f"the ends of {saga}: {ends}"
    assert not state.rows("SELECT * FROM txp_saga_wait"), "I24: something is waited for"


RIGHT: tuple[Invariant, ...] = (
    *INVARIANTS,
    money_is_conserved,
    steps_happen_once,
    what_is_compensated_is_undone_in_reverse,
    journals_have_no_gaps,
)
COMPLETED: tuple[Invariant, ...] = (*RIGHT, partial(sagas_have_ended, as_="completed"))
COMPENSATED: tuple[Invariant, ...] = (*RIGHT, partial(sagas_have_ended, as_="compensated"))


def flow(name: str, define: Callable[[Branch], Any], invariants: Any, *, starts: bool = False) -> Flow[Branch]:
    make = partial(branch, define=define)
    if starts:
        return Flow(name, make, start_and_run, run, None, invariants)
    return Flow(name, make, run, run, start_two, invariants)


SAGA_FLOWS = [
    flow("saga of steps", of_steps, (*COMPLETED, partial(all_is_sent, times=4)), starts=True),
    flow("saga of steps at once", at_once, COMPLETED),
    flow("saga in threads, undone", in_threads, COMPENSATED),
    flow("saga that fails", that_fails, COMPENSATED),
    flow("saga of calls", of_calls, (*COMPLETED, partial(calls_have_one_effect, charges=2)), starts=True),
    flow("saga of calls, undone", of_calls_that_are_undone, (*COMPENSATED, partial(calls_have_one_effect, charges=2))),
    flow("saga as a list, undone", as_a_list, (*COMPENSATED, partial(calls_have_one_effect, charges=1))),
    Flow(
        "saga of events",
        partial(branch, define=of_events),
        ask_and_run,
        ask_again_and_run,
        None,
        (*COMPLETED, events_were_had_in_order),
    ),
    Flow(
        "saga of others",
        partial(branch, define=of_others),
        partial(ask_and_run, ids=IDS[:1]),
        partial(ask_again_and_run, ids=IDS[:1]),
        None,
        (*RIGHT, families_have_ended),
    ),
    flow(
        "saga of others, undone",
        of_others_that_are_undone,
        (*RIGHT, families_that_failed_have_ended, locks_are_had_one_after_the_other),
    ),
    flow("saga of reservations", of_reservations, (*COMPLETED, partial(reservations_have_one_end, to="capture"))),
    flow(
        "saga of reservations, undone",
        of_reservations_that_are_undone,
        (*COMPENSATED, partial(reservations_have_one_end, to="refund")),
    ),
    flow("saga that stumbles", that_stumbles, COMPENSATED),
    Flow(
        "saga that begins anew and is late",
        partial(branch, define=that_begins_anew_and_is_late, deadline=timedelta(hours=5)),
        run,
        run,
        start_one,
        (*COMPENSATED, nothing_stays_charged, the_deadline_has_ended_them),
    ),
]
