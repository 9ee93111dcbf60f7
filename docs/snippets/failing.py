"""One message of each key fails for good; what the messages behind it do is the topic's choice."""

# --8<-- [start:policies]
import asyncio
from datetime import timedelta

import sqlalchemy as sa

from txpatterns import App, Event, FailurePolicies, FailurePolicy, OnFailure, Reject, RetryLadder, Transaction
from txpatterns.deadletters.schema import dead_letter_table

quick = RetryLadder((timedelta(milliseconds=50), timedelta(milliseconds=100)))
policies = FailurePolicies(
    default=FailurePolicy(OnFailure.HOLD, quick),
    topics={
        "parked": FailurePolicy(OnFailure.PARK, quick),
        "skipping": FailurePolicy(OnFailure.SKIP, quick),
    },
)
app = App("policies", policies=policies)
# --8<-- [end:policies]


# --8<-- [start:handlers]
class Held(Event, topic="held", type="held", key="key"):
    key: str
    number: int


class Parked(Event, topic="parked", type="parked", key="key"):
    key: str
    number: int


class Skipping(Event, topic="skipping", type="skipping", key="key"):
    key: str
    number: int


def handle(event: Held | Parked | Skipping) -> None:
    if event.number == 2:
        raise ConnectionError("no")
    print(event.key, event.number)


@app.on(Held, permanent=[KeyError])  # a KeyError makes a dead letter at once
async def held(event: Held, tx: Transaction) -> None:
    handle(event)


@app.on(Parked, retries={ConnectionError: RetryLadder((timedelta(milliseconds=20),))})  # other waits for this error
async def parked(event: Parked, tx: Transaction) -> None:
    handle(event)


@app.on(Skipping)
async def skipping(event: Skipping, tx: Transaction) -> None:
    if event.number == 4:
        raise Reject("not for us")  # a dead letter at once, with this reason
    handle(event)


# --8<-- [end:handlers]


# --8<-- [start:release]
async def let_go_on() -> None:
    await app.inbox.release("policies.parked", "parked", "Parked")  # consumer, topic, key


# --8<-- [end:release]


# --8<-- [start:run]
async def main() -> None:
    async with app.running():
        for event in (Held, Parked, Skipping):
            async with app.session() as session, session.begin():
                for number in (1, 2, 3):
                    app.outbox.add(session, event(key=event.__name__, number=number))
            await dead_letters(["held", "parked", "skipping"].index(event.__name__.lower()) + 1)
        print("an operator lets the parked key go on")
        await let_go_on()
        while await waiting():
            await asyncio.sleep(0.02)
    async with app.session() as session:
        for letter in await session.execute(sa.select(dead_letter_table).order_by(dead_letter_table.c.id)):
            print("dead letter:", letter.consumer, letter.reason, letter.attempts)


async def dead_letters(number: int) -> None:
    while await value("SELECT count(*) FROM txp_dead_letter") < number:
        await asyncio.sleep(0.02)
    while await value("SELECT count(*) FROM txp_inbox_waiting WHERE due_at IS NOT NULL") > 0:
        await asyncio.sleep(0.02)


async def waiting() -> int:
    return await value("SELECT count(*) FROM txp_inbox_waiting")


async def value(query: str) -> int:
    async with app.session() as session:
        return (await session.execute(sa.text(query))).scalar_one()


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:run]
