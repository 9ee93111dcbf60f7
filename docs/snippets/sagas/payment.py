"""A payment of which the first answer is lost, and one that is given back."""

# --8<-- [start:calls]
import asyncio
from datetime import timedelta

from txpatterns import App, Reject, RetryLadder
from txpatterns.errors import SagaFailed
from txpatterns.sagas import Call, Done, NotDone, SagaContext, StepTransaction, Undo

app = App("shop")


class Provider:
    """A payment provider as yours may be: it does each idempotency key once. Its first answer is lost."""

    def __init__(self) -> None:
        self.payments: dict[str, str] = {}
        self.is_flaky = True

    async def charge(self, cents: int, idempotency_key: str) -> str:
        payment = self.payments.setdefault(idempotency_key, f"P-{len(self.payments) + 1}")
        if self.is_flaky:
            self.is_flaky = False
            raise ConnectionError("the answer to the charge is lost")
        return payment

    async def find(self, idempotency_key: str) -> str | None:
        return self.payments.get(idempotency_key)

    async def refund(self, charge_key: str, idempotency_key: str) -> None:
        print("refunded:", self.payments.get(charge_key, "nothing, there is no such charge"))


provider = Provider()


async def charge(call: Call, cents: int) -> str:
    if cents > 100_000:
        raise Reject("above the limit")  # refused: it has had no effect, and another attempt would not help
    print("charging under", call.key, "in attempt", call.attempt)
    return await provider.charge(cents, idempotency_key=call.key)


async def look_up(call: Call, cents: int) -> Done[str] | NotDone:
    payment = await provider.find(idempotency_key=call.key)
    print("found:", payment)
    return NotDone() if payment is None else Done(payment)


async def refund(undo: Undo[str], cents: int) -> None:
    await provider.refund(charge_key=undo.of, idempotency_key=undo.key)


# --8<-- [end:calls]


# --8<-- [start:saga]
class SoldOut(Exception):
    pass


async def pack(tx: StepTransaction, sku: str) -> None:
    if sku == "cup":
        raise SoldOut(f"no {sku} left")


soon = RetryLadder((timedelta(milliseconds=10),) * 3)  # left out: 1 s, 5 s, 30 s, 2 min, 10 min and 30 min


@app.saga(errors=[SoldOut])
async def order(saga: SagaContext, sku: str, cents: int) -> str:
    payment = await saga.call(
        charge, cents, compensate=refund, probe=look_up, timeout=timedelta(seconds=10), retry=soon
    )
    await saga.step(pack, sku)
    return payment


async def main() -> None:
    async with app.running():
        for number, sku in enumerate(["tea", "cup"], start=1):
            async with app.transaction() as session:
                handle = app.sagas.start(session, order, sku, 1999, id=f"order-{number}")
            try:
                print("paid and packed:", await handle.result())
            except SagaFailed as error:
                print(error.message)


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:saga]
