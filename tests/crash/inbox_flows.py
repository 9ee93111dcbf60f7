"""The canonical flows of the inbox and the consumer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import sqlalchemy as sa

from crash.bank import BANK, HOLD, Bank, Moved, Noted, effect, opened
from crash.outbox_flows import six_messages
from txpatterns.errors import Reject
from txpatterns.inbox.consumer import Consumer
from txpatterns.inbox.inbox import Inbox
from txpatterns.inbox.schema import inbox_waiting_table
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.inbox.transaction import BatchTransaction, SyncTransaction, Transaction
from txpatterns.retries import FailurePolicies, FailurePolicy, OnFailure, RetryLadder
from txpatterns.testing.explorer import Flow, Invariant, State, Surroundings

RUNS = "runs"


@dataclass
class Office:
    """A process that handles what the bank tells."""

    bank: Bank
    consumer: Consumer

    async def consume_until_nothing_waits(self, rounds: int = 200) -> None:
        """Handle what the broker has, and what waits in the database, jumping from due time to due time.

        What a paused process has locked is passed over: there are more rounds than that process is kept waiting.
        """
        await self.consume()
        for _ in range(rounds):
            while await self.consumer.retry_due():
                continue
            if not await self.waits():
                return
            self.bank.around.clock.jump(timedelta(hours=1))
        raise AssertionError("messages wait at the consumer on and on")

    async def consume(self) -> None:
        """Run until the broker has nothing more for the group."""
        running = asyncio.ensure_future(self.consumer.run())
        rested = asyncio.ensure_future(self.bank.broker.rested(self.consumer.handlers.group, {"moves", "notes"}))
        try:
            await asyncio.wait((running, rested), return_when=asyncio.FIRST_COMPLETED)
            self.consumer.stop()
            await running
        finally:
            running.cancel()
            rested.cancel()
            await asyncio.gather(running, rested, return_exceptions=True)

    async def waits(self) -> bool:
        waiting = sa.select(inbox_waiting_table.c.id).where(inbox_waiting_table.c.due_at.is_not(None))
        return await self.bank.finds(waiting)


def noted(message_id: str, consumer: str, event: Moved | Noted) -> sa.Insert:
    values = {"consumer": consumer, "message_id": message_id, "key": event.account, "number": event.number}
    return sa.insert(effect).values(**values)


def with_effect(office: Office) -> None:
    @office.consumer.on(Moved)
    async def write(event: Moved, tx: Transaction) -> None:
        await tx.session.execute(noted(tx.message.id, tx.consumer, event))


def with_effect_in_a_thread(office: Office) -> None:
    @office.consumer.on(Moved)
    def write(event: Moved, tx: SyncTransaction) -> None:
        tx.session.execute(noted(tx.message.id, tx.consumer, event))


def that_emits(office: Office) -> None:
    @office.consumer.on(Moved)
    async def pass_on(event: Moved, tx: Transaction) -> None:
        await tx.session.execute(noted(tx.message.id, tx.consumer, event))
        tx.emit(Noted(account=event.account, number=event.number))

    @office.consumer.on(Noted)
    async def keep(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(noted(tx.message.id, tx.consumer, event))


def that_fails_at_first(office: Office) -> None:
    @office.consumer.on(Moved)
    async def stumble(event: Moved, tx: Transaction) -> None:
        await tx.session.execute(noted(tx.message.id, tx.consumer, event))
        if (event.account, event.number) == ("b", 1) and office.bank.runs(tx.message.id) <= 1:
            raise ConnectionError("not yet")


def that_never_succeeds(office: Office) -> None:
    @office.consumer.on(Moved)
    async def fail(event: Moved, tx: Transaction) -> None:
        await tx.session.execute(noted(tx.message.id, tx.consumer, event))
        if (event.account, event.number) == ("b", 1):
            office.bank.runs(tx.message.id)
            raise ConnectionError("never")


def that_rejects(office: Office) -> None:
    @office.consumer.on(Moved)
    async def reject(event: Moved, tx: Transaction) -> None:
        await tx.session.execute(noted(tx.message.id, tx.consumer, event))
        if (event.account, event.number) == ("b", 1):
            raise Reject("no such account")


def in_batches(office: Office) -> None:
    @office.consumer.on(Moved, batch=4)
    async def write_all(events: list[Moved], tx: BatchTransaction) -> None:
        for event, message in zip(events, tx.messages, strict=True):
            await tx.session.execute(noted(message.id, tx.consumer, event))
            tx.emit(Noted(account=event.account, number=event.number), cause=message)

    @office.consumer.on(Noted)
    async def keep(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(noted(tx.message.id, tx.consumer, event))


def in_batches_with_a_poison(office: Office) -> None:
    """The poison of a batch succeeds in the end, alone."""

    @office.consumer.on(Moved, batch=6)
    async def stumble_in_batches(events: list[Moved], tx: BatchTransaction) -> None:
        for event, message in zip(events, tx.messages, strict=True):
            await tx.session.execute(noted(message.id, tx.consumer, event))
            if (event.account, event.number) != ("b", 2):
                continue
            if len(events) > 1 or office.bank.runs(message.id) <= 1:
                raise ConnectionError("not yet")


# Two processes that take each other for dead, each an hour ahead of the other, use up an attempt at every turn.
PATIENT = FailurePolicy(OnFailure.HOLD, RetryLadder((timedelta(seconds=1),) * 30))


@asynccontextmanager
async def office(
    around: Surroundings, *, register: Callable[[Office], None], policy: FailurePolicy = HOLD
) -> AsyncIterator[Office]:
    """Be a process of the bank with a consumer that has these handlers."""
    async with opened(around) as bank:
        settings = ConsumerSettings(policies=FailurePolicies(policy))
        consumer = Consumer(
            bank.database, bank.broker, bank.outbox.registry, group="office", emitter=bank.outbox, settings=settings
        )
        made = Office(bank, consumer)
        register(made)
        yield made


async def published_messages(office: Office) -> None:
    await six_messages(office.bank)
    await office.bank.relay_until_nothing_waits()


async def published_twice(office: Office) -> None:
    """The broker has every message two times, and the second copies of a key are behind its later messages."""
    await published_messages(office)
    for sent in list(office.bank.broker.log.published):
        async for _ in office.bank.broker.publish([sent.message]):
            continue


async def published_in_runs(office: Office) -> None:
    """The broker gives out one at a time: while the first of a key is handled, the others come together."""
    await office.bank.relay().run_once()  # the first relay ever makes the leases
    for number in (1, 2, 3, 4):
        for key in "ab":
            async with office.bank.session() as session:
                await office.bank.transfer(session, key, number)
    await office.bank.relay_until_nothing_waits()


async def handled_messages(office: Office) -> None:
    await published_messages(office)
    await office.consume_until_nothing_waits()


async def consume(office: Office) -> None:
    await office.consume()


async def finish(office: Office) -> None:
    """Everything: publish, handle, and again what was emitted by that."""
    for _ in range(200):  # what a paused process has locked is passed over
        await office.bank.relay_until_nothing_waits()
        await office.consume_until_nothing_waits()
        if not await office.bank.has_unsent():
            return
    raise AssertionError("messages are emitted on and on")


async def clean(office: Office) -> None:
    """Forget what was handled long ago; what may still come again is not touched."""
    office.bank.around.clock.jump(timedelta(days=30))
    await Inbox(office.bank.database).clean(timedelta(days=14))


def all_is_handled(consumers: Sequence[str], *, but: frozenset[tuple[str, int]] = frozenset()) -> Invariant:
    """I1: each committed transfer has its effect at each consumer, but for those that must be dead letters."""
    return partial(_everything_is_handled, consumers=consumers, but=but)


def _everything_is_handled(state: State, *, consumers: Sequence[str], but: frozenset[tuple[str, int]]) -> None:
    for consumer in consumers:
        query = f"SELECT key, number FROM effect WHERE consumer = '{consumer}'"
        done = {(row["key"], row["number"]) for row in state.rows(query)}
        told = {(row["key"], row["number"]) for row in state.rows("SELECT key, number FROM ledger")}
        assert done == told - but, f"I1: {consumer} handled {sorted(done)} of {sorted(told)}"


def runs_are_bounded(state: State) -> None:
    """I10: a failing handler runs at most as often as the ladder says, and once more for each crash."""
    often = [r for r in state.log.records(RUNS) if r["times"] > 3 + state.strikes]
    assert not often, f"I10: ran too often: {often}"


HANDLED = (*BANK, runs_are_bounded)
DEAD = (*HANDLED, all_is_handled(["office.fail"], but=frozenset({("b", 1)})))

INBOX_FLOWS = [
    Flow(
        "handle",
        partial(office, register=with_effect),
        consume,
        finish,
        published_messages,
        (*HANDLED, all_is_handled(["office.write"])),
    ),
    Flow(
        "handle in a thread",
        partial(office, register=with_effect_in_a_thread),
        consume,
        finish,
        published_messages,
        (*HANDLED, all_is_handled(["office.write"])),
    ),
    Flow(
        "redelivery",
        partial(office, register=with_effect),
        consume,
        finish,
        published_twice,
        (*HANDLED, all_is_handled(["office.write"])),
    ),
    Flow(
        "handle in batches",
        partial(office, register=in_batches),
        finish,
        finish,
        published_twice,
        (*HANDLED, all_is_handled(["office.write_all", "office.keep"])),
    ),
    Flow(
        "poison in a batch",
        partial(office, register=in_batches_with_a_poison, policy=PATIENT),
        finish,
        finish,
        published_in_runs,
        (*HANDLED, all_is_handled(["office.stumble_in_batches"])),
    ),
    Flow(
        "handler that emits",
        partial(office, register=that_emits),
        finish,
        finish,
        published_messages,
        (*HANDLED, all_is_handled(["office.pass_on", "office.keep"])),
    ),
    Flow(
        "handler fails, then succeeds",
        partial(office, register=that_fails_at_first, policy=PATIENT),
        finish,
        finish,
        published_messages,
        (*HANDLED, all_is_handled(["office.stumble"])),
    ),
    Flow(
        "handler fails for ever",
        partial(office, register=that_never_succeeds),
        finish,
        finish,
        published_messages,
        DEAD,
    ),
    Flow(
        "handler rejects",
        partial(office, register=that_rejects),
        finish,
        finish,
        published_messages,
        (*HANDLED, all_is_handled(["office.reject"], but=frozenset({("b", 1)}))),
    ),
    Flow(
        "cleanup",
        partial(office, register=with_effect),
        clean,
        finish,
        handled_messages,
        (*HANDLED, all_is_handled(["office.write"])),
    ),
]
