"""What is handled in order, and what is not."""

# --8<-- [start:events]
import asyncio
from collections import defaultdict

from txpatterns import App, Event, Transaction

app = App("ledger")


class Deposited(Event, topic="accounts", type="deposited", key="account"):
    account: str
    amount: int


class Withdrawn(Event, topic="accounts", type="withdrawn", key="account"):  # same topic, same key: one order
    account: str
    amount: int


class LimitChanged(Event, topic="limits", type="limit.changed", key="account", order="strict"):
    account: str
    limit: int


class RatePublished(Event, topic="rates", type="rate.published"):  # no key: no order
    rate: str


# --8<-- [end:events]

# --8<-- [start:run]
seen: dict[str, list[str]] = defaultdict(list)


@app.on(Deposited)
async def deposit(event: Deposited, tx: Transaction) -> None:
    seen[event.account].append(f"+{event.amount}")


@app.on(Withdrawn)
async def withdraw(event: Withdrawn, tx: Transaction) -> None:
    seen[event.account].append(f"-{event.amount}")


async def main() -> None:
    async with app.running():
        async with app.session() as session, session.begin():
            for amount in (1, 2, 3):
                for account in ("a", "b"):
                    app.outbox.add(session, Deposited(account=account, amount=amount))
                    app.outbox.add(session, Withdrawn(account=account, amount=amount))
        await app.drained()
    for account in sorted(seen):
        print(account, *seen[account])


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:run]
