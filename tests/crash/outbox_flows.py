"""The canonical flows of the outbox and the relay."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

from crash.bank import BANK, BESIDE_B, PARK, Bank, opened
from txpatterns.messages import Message
from txpatterns.retries import FailurePolicies
from txpatterns.testing.explorer import Flow
from txpatterns.transport import Capabilities, Verdict

PREFIX = Capabilities(ordered_prefix=True)


async def place_one(bank: Bank) -> None:
    async with bank.session() as session:
        await bank.transfer(session, "a", 1)


async def place_several_keys(bank: Bank) -> None:
    async with bank.session() as session:
        await bank.transfer(session, "a", 1)
        await bank.transfer(session, "b", 1)
        await bank.transfer(session, "a", 2)
    async with bank.session() as session:
        await bank.transfer(session, "b", 2)


async def place_with_savepoints(bank: Bank) -> None:
    async with bank.session() as session:
        await bank.transfer(session, "a", 1)
        undone = await session.begin_nested()
        await bank.transfer(session, "a", 99)
        await undone.rollback()
        async with session.begin_nested():
            await bank.transfer(session, "a", 2)


async def place_again_after_an_error(bank: Bank) -> None:
    """What a caller does who looks first whether its last try was committed after all (H5)."""
    for _ in range(2):
        try:
            async with bank.session() as session:
                await bank.transfer(session, "a", 1)
            return
        except Exception:  # noqa: BLE001 - whatever it is, the caller has to look
            if await _has_balance(bank):
                return


async def _has_balance(bank: Bank) -> bool:
    async with bank.database.session() as session:
        found = await session.connection()
        return bool((await found.exec_driver_sql("SELECT balance FROM account WHERE name = 'a'")).scalar())


async def six_messages(bank: Bank) -> None:
    await bank.relay().run_once()  # the first relay ever makes the leases
    for number in (1, 2):
        for key in "abc":
            async with bank.session() as session:
                await bank.transfer(session, key, number)


async def scheduled_messages(bank: Bank) -> None:
    async with bank.session() as session:
        await bank.transfer(session, "a", 1, after=timedelta(minutes=5))
        await bank.transfer(session, "b", 1)
        await bank.transfer(session, "b", 2)


async def publish(bank: Bank) -> None:
    await bank.relay().run_once()


async def publish_and_wait_for_later(bank: Bank) -> None:
    await bank.relay_until_nothing_waits()


async def publish_while_others_come(bank: Bank) -> None:
    """Each message that is not answered is followed by another one: only beside those its silence counts against it.

    And only where both are the same relay's. Of two that share the keys, one may have nothing but the silent message:
    to that one the broker is as good as away, and it would try for as long as the other lives.
    """
    silent = asyncio.Event()
    refuses = bank.broker.refuses

    def listening(message: Message, sent: int) -> Verdict | None:
        verdict = refuses(message, sent)
        if verdict is not None:
            silent.set()
        return verdict

    bank.broker.refuses = listening
    async with going_on(place_others(bank, silent)):
        await bank.relay_until_nothing_waits()
    await bank.relay().run_once()  # what came last


async def place_others(bank: Bank, silent: asyncio.Event) -> None:
    while True:
        await silent.wait()
        silent.clear()
        with suppress(Exception):  # a struck one is missing; the next silence is followed by another
            async with bank.session() as session:
                await bank.transfer(session, BESIDE_B)


@asynccontextmanager
async def going_on(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run these beside the block; none is left when it ends."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def publish_until_stopped(bank: Bank) -> None:
    """A graceful stop when the work is done."""
    relay = bank.relay(batch=2)
    async with going_on(relay.run(), relay.drained()) as (running, drained):
        await asyncio.wait((running, drained), return_when=asyncio.FIRST_COMPLETED)
        relay.stop()
        await running


async def two_relays_take_turns(bank: Bank) -> None:
    """The second takes its share from the first, and all of it when the first stops."""
    first, second = bank.relay(batch=2), bank.relay(batch=2)
    async with going_on(first.run(), second.run(), first.drained()) as (one, two, drained):
        await asyncio.wait((one, drained), return_when=asyncio.FIRST_COMPLETED)
        first.stop()
        await one
        async with going_on(second.drained()) as (rested,):
            await asyncio.wait((two, rested), return_when=asyncio.FIRST_COMPLETED)
        second.stop()
        await two


def refuses_first_of_b_once(message: Message, sent: int) -> Verdict | None:
    return Verdict.UNKNOWN if message.key == "b" and b'"number":1' in message.payload and sent <= 3 else None


def rejects_first_of_b(message: Message, sent: int) -> Verdict | None:
    return Verdict.REJECTED if message.key == "b" and b'"number":1' in message.payload else None


def never_answers_for_first_of_b(message: Message, sent: int) -> Verdict | None:
    return Verdict.UNKNOWN if message.key == "b" and b'"number":1' in message.payload else None


recover = publish_and_wait_for_later

OUTBOX_FLOWS = [
    Flow("enqueue one", opened, place_one, recover, invariants=BANK),
    Flow("enqueue several keys", opened, place_several_keys, recover, invariants=BANK),
    Flow("enqueue with savepoints", opened, place_with_savepoints, recover, invariants=BANK),
    Flow("enqueue again after an error", opened, place_again_after_an_error, recover, invariants=BANK),
    Flow("publish and settle", opened, publish, recover, six_messages, BANK),
    Flow("publish with prefix", partial(opened, capabilities=PREFIX), publish, recover, six_messages, BANK),
    Flow("graceful stop", opened, publish_until_stopped, recover, six_messages, BANK),
    Flow("takeover", opened, two_relays_take_turns, recover, six_messages, BANK),
    Flow("scheduled", opened, publish_and_wait_for_later, recover, scheduled_messages, BANK),
    Flow(
        "hold, retry, release",
        partial(opened, refuses=refuses_first_of_b_once),
        publish_and_wait_for_later,
        recover,
        six_messages,
        BANK,
    ),
    Flow(
        "rejected, dead letter",
        partial(opened, refuses=rejects_first_of_b),
        publish_and_wait_for_later,
        recover,
        six_messages,
        BANK,
    ),
    Flow(
        "attempts used up, parked",
        partial(opened, refuses=never_answers_for_first_of_b, policies=FailurePolicies(PARK)),
        publish_while_others_come,
        publish_while_others_come,
        six_messages,
        BANK,
    ),
]
