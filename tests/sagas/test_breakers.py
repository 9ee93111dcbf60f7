"""Sagas behind a breaker: what it refuses was not begun."""

import asyncio
from datetime import timedelta

import pytest

from sagas.support import Shop, opened, saga_of
from txpatterns.errors import BulkheadFull, CircuitOpen, NotBegun, RateLimited, SagaFailed
from txpatterns.resilience.breaker import CircuitBreaker, State
from txpatterns.retries import RetryLadder
from txpatterns.sagas import Call, Doubt, SagaContext, StepTransaction
from txpatterns.testing.clock import ManualClock

OPEN_FOR = timedelta(seconds=30)
SAGAS = 20
ONCE = RetryLadder(())


async def test_sagas_wait_for_the_breaker_and_one_of_them_probes(tmp_path) -> None:
    """P4, H176: no attempt is burnt and nothing is in doubt; when it may be closed one call is made, not twenty."""
    clock = ManualClock()
    bank = CircuitBreaker("bank", failures=1, open_for=OPEN_FOR, clock=clock)
    attempts, refused, made, others_came = set(), [], [], asyncio.Event()

    async def charge(call: Call, amount: int) -> str:
        attempts.add(call.attempt)
        try:
            async with bank:
                made.append(amount)
                await others_came.wait()
                return f"charged {amount}"
        except CircuitOpen:
            refused.append(amount)
            if len(refused) == 2 * SAGAS - 1:
                others_came.set()
            raise

    async def order(saga: SagaContext) -> str:
        return await saga.call(charge, 7, doubt=Doubt.ASK, retry=ONCE)

    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        saga_of(shop, order)
        bank.open()
        for number in range(SAGAS):
            await shop.start(order, id=f"order-{number}")
        await shop.rest()
        assert (len(refused), made) == (SAGAS, [])
        clock.advance(OPEN_FOR * 1.25)
        await shop.rest()
        assert (len(refused), made) == (2 * SAGAS - 1, [7])
        assert bank.state is State.CLOSED
        clock.advance(OPEN_FOR * 1.25)
        await shop.rest()
        assert {(await shop.row(f"order-{number}"))["status"] for number in range(SAGAS)} == {"completed"}
    assert (len(made), attempts) == (SAGAS, {1})


@pytest.mark.parametrize("kind", [CircuitOpen, BulkheadFull, RateLimited])
async def test_a_step_and_its_compensation_wait_as_well(sqlite_shop: Shop, kind: type[NotBegun]) -> None:
    """P4, H176: by whichever guard."""
    at_once = timedelta(0)
    refusals = {
        CircuitOpen: lambda: CircuitOpen("bank", retry_at=ManualClock().now(), after=at_once),
        BulkheadFull: lambda: BulkheadFull("bank", 1, after=at_once),
        RateLimited: lambda: RateLimited("bank", after=at_once),
    }
    left, numbers = {"book": 5, "unbook": 5}, set()

    def refuse(what: str, tx: StepTransaction) -> None:
        numbers.add(tx.attempt)
        if left[what]:
            left[what] -= 1
            refusal = refusals[kind]()
            raise refusal

    async def book(tx: StepTransaction) -> str:
        refuse("book", tx)
        return "booked"

    async def unbook(tx: StepTransaction) -> None:
        refuse("unbook", tx)

    async def fail(tx: StepTransaction) -> str:
        raise OSError

    async def order(saga: SagaContext) -> str:
        await saga.step(book, compensate=unbook, retry=ONCE)
        return await saga.step(fail, retry=ONCE)

    saga_of(sqlite_shop, order)
    with pytest.raises(SagaFailed, match="OSError"):
        await sqlite_shop.run(order)
    assert left == {"book": 0, "unbook": 0}
    assert numbers == {1}
    assert (await sqlite_shop.row())["status"] == "compensated"
