"""A transfer of which nobody knows whether it was made: a person is asked, and tells what the bank says."""

# --8<-- [start:file]
import asyncio
from datetime import timedelta

from txpatterns import App, Hooks, RetryLadder
from txpatterns.hooks import on
from txpatterns.sagas import Call, Doubt, SagaContext
from txpatterns.sagas.moments import SagaNeedsAttention


class Pager(Hooks):
    def __init__(self) -> None:
        self.pages = 0

    @on(SagaNeedsAttention)
    def page(self, saga: SagaNeedsAttention) -> None:
        print("page somebody:", saga.saga_id, "-", saga.reason)
        self.pages += 1


pager = Pager()
app = App("bank", hooks=[pager])


async def transfer(call: Call, euros: int) -> str:
    raise ConnectionError("the bank has hung up")  # it takes no idempotency key, and tells nothing afterwards


@app.saga()
async def pay_out(saga: SagaContext, euros: int) -> str:
    once = RetryLadder((timedelta(milliseconds=10),))
    number = await saga.call(transfer, euros, doubt=Doubt.ASK, retry=once)
    return f"paid out by {number}"


async def main() -> None:
    async with app.running():
        async with app.transaction() as session:
            handle = app.sagas.start(session, pay_out, 20, id="payout-7")
        while not pager.pages and await handle.status() != "completed":
            await asyncio.sleep(0.02)
        print(handle.id, "is", await handle.status())


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:file]
