from datetime import timedelta

import pytest

from txpatterns import App
from txpatterns.sagas import Call, SagaContext, StepTransaction, Undo
from txpatterns.testing.harness import Txp

app = App("shop")
charged: list[str] = []


async def reserve(tx: StepTransaction, sku: str) -> None: ...
async def release(tx: StepTransaction, sku: str) -> None: ...


async def charge(call: Call, cents: int) -> None:
    charged.append(call.key)


async def refund(undo: Undo[None], cents: int) -> None: ...


@app.saga()
async def checkout(saga: SagaContext, sku: str) -> None:
    await saga.step(reserve, sku, compensate=release)
    await saga.call(charge, 300, compensate=refund)
    await saga.sleep(timedelta(days=1))
    saga.abort("nobody has packed it")


@pytest.fixture
def txp_app() -> App:
    return app


async def test_a_checkout_that_nobody_packs_is_undone(txp: Txp) -> None:
    async with app.transaction() as session:
        handle = app.sagas.start(session, checkout, "tea", id="cart-1")
    txp.crash(after="charge")
    await txp.drain()
    assert len(charged) == 2
    assert len(set(charged)) == 1  # made again, with the same key
    await txp.advance(days=2)
    saga = await txp.saga(handle)
    assert (saga.status, saga.undone) == ("compensated", ["charge", "reserve"])
