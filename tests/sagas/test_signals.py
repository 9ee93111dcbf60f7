"""Waiting for events: early ones, late ones, several of a key, none at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from sagas.support import PATIENCE, Shop, opened, release, reserve, saga_of
from txpatterns import Event
from txpatterns.errors import SagaDefinitionError, SagaFailed, WaitTimedOut
from txpatterns.hooks import HookList
from txpatterns.sagas import SagaContext, Signal, StepTransaction
from txpatterns.sagas.engine import SagaEngine
from txpatterns.sagas.schema import saga_signal_table, saga_table, saga_wait_table
from txpatterns.testing.clock import ManualClock


class Captured(Event, topic="payments", type="payment.captured", key="order"):
    order: str
    cents: int


class Refused(Event, topic="payments", type="payment.refused", key="payment"):
    payment: str
    order: str


SIGNALS = [Captured, Signal(Refused, by="order")]


async def paid(saga: SagaContext, order: str) -> int:
    await saga.step(reserve, order, compensate=release)
    return (await saga.wait_for(Captured, key=order, timeout=timedelta(hours=1))).cents


async def send(shop: Shop, *events: Event) -> None:
    async with shop.app.transaction() as session:
        for event in events:
            shop.app.outbox.add(session, event)


async def count(shop: Shop, table: sa.Table) -> int:
    query = sa.select(sa.func.count()).select_from(table)
    return await shop.app.database.read(lambda connection: connection.execute(query).scalar_one())


async def test_an_event_wakes_the_saga_that_waits_for_it(shop: Shop) -> None:
    """P4: by its key, in the transaction that handles its message; the wait is a row until then, and no task."""
    saga_of(shop, paid, signals=SIGNALS)
    handle = await shop.start(paid, "A1")
    await shop.rest()
    assert (await shop.row())["status"] == "waiting"
    assert await count(shop, saga_wait_table) == 1
    await send(shop, Captured(order="B2", cents=1), Captured(order="A1", cents=7))
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == 7
    assert await count(shop, saga_wait_table) == 0
    assert await count(shop, saga_signal_table) == 2


async def test_an_event_counts_that_came_before_the_saga(shop: Shop) -> None:
    """P4: also before its start."""
    saga_of(shop, paid, signals=SIGNALS)
    await send(shop, Captured(order="A1", cents=7))
    await shop.rest()
    assert await shop.run(paid, "A1") == 7


async def test_each_of_several_events_is_had_once_in_order(shop: Shop) -> None:
    """P4: by one saga; another one that waits for the same key gets them all, too."""

    async def three(saga: SagaContext, order: str) -> list[int]:
        first = await saga.wait_for(Captured, key=order, timeout=None)
        both = await saga.gather(*(saga.wait_for(Captured, key=order, timeout=None) for _ in range(2)))
        return [first.cents, *(event.cents for event in both)]

    saga_of(shop, three, signals=SIGNALS)
    await send(shop, Captured(order="A1", cents=1))
    handles = [await shop.start(three, "A1", id=id_) for id_ in ("one", "two")]
    await shop.rest()
    await send(shop, Captured(order="A1", cents=2))
    await shop.rest()
    await send(shop, Captured(order="A1", cents=3))
    async with shop.app.running():
        assert [await handle.result(timeout=PATIENCE) for handle in handles] == [[1, 2, 3], [1, 2, 3]]


async def test_a_message_that_comes_again_brings_nothing_new(sqlite_shop: Shop) -> None:
    """P4, P2: the same message is one event, although it is handled twice; a webhook's event is another one."""
    app = sqlite_shop.app
    saga_of(sqlite_shop, paid, signals=SIGNALS)
    event = Captured(order="A1", cents=7)
    for _ in range(2):
        async with app.transaction() as session:
            app.sagas.bring(session, event, "message-1")
    async with app.transaction() as session:
        app.sagas.signal(session, event)
    assert await count(sqlite_shop, saga_signal_table) == 2


async def test_an_event_is_found_by_the_field_that_is_declared(shop: Shop) -> None:
    """P4: where that is not its ordering key; whichever of two events comes first is what counts."""

    async def decided(saga: SagaContext, order: str) -> str:
        found = await saga.first(
            saga.wait_for(Captured, key=order, timeout=None),
            saga.wait_for(Refused, key=order, timeout=None),
            saga.sleep(timedelta(days=1)),
        )
        again = await saga.wait_for(Captured, key=order, timeout=None)
        return f"{type(found).__name__} {again.cents}"

    saga_of(shop, decided, signals=SIGNALS)
    handle = await shop.start(decided, "A1")
    await shop.rest()
    assert await count(shop, saga_wait_table) == 2
    async with shop.app.transaction() as session:
        shop.app.sagas.signal(session, Refused(payment="p-1", order="A1"))
    await shop.rest()
    assert await count(shop, saga_wait_table) == 1
    await send(shop, Captured(order="A1", cents=7))
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == "Refused 7"


async def test_what_does_not_come_is_told(tmp_path) -> None:
    """P4: when its time is over; what is not caught undoes the saga. An event that is there by then wins."""
    clock = ManualClock()

    async def patient(saga: SagaContext, order: str) -> str:
        try:
            await saga.wait_for(Captured, key=order, timeout=timedelta(minutes=5))
        except WaitTimedOut:
            return "nothing came"
        return "came"

    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        saga_of(shop, paid, signals=SIGNALS)
        shop.app.saga("patient", signals=SIGNALS)(patient)
        first = await shop.start(paid, "A1", id="1")
        second, third = await shop.start(patient, "B2", id="2"), await shop.start(patient, "C3", id="3")
        await shop.rest()
        clock.advance(timedelta(minutes=4))
        await shop.rest()
        assert {await each.status() for each in (first, second, third)} == {"waiting"}
        clock.advance(timedelta(minutes=2))
        async with shop.app.transaction() as session:
            shop.app.sagas.signal(session, Captured(order="C3", cents=7))
        await shop.rest()
        assert await second.result() == "nothing came"
        assert await third.result() == "came"
        clock.advance(timedelta(hours=1))
        await shop.rest()
        with pytest.raises(SagaFailed, match="WaitTimedOut"):
            await first.result()
        assert await shop.effects() == ["reserve A1", "release A1"]
        assert await count(shop, saga_wait_table) == 0


async def test_after_a_downtime_the_events_are_read_first(tmp_path) -> None:
    """P4, H170: the payment lies at the broker, and the time is over in the table: nothing is given up at once."""
    clock = ManualClock()
    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        saga_of(shop, paid, signals=SIGNALS)
        handle = await shop.start(paid, "A1")
        await shop.rest()
        clock.advance(timedelta(hours=2))
        app = shop.app
        engine = SagaEngine(app.database, app.sagas.definitions, app.outbox, hooks=HookList(), hears_late=True)
        running = asyncio.create_task(engine.run())
        await engine.caught_up(await app.database.moment())
        assert await handle.status() == "waiting"
        async with app.transaction() as session:
            app.sagas.signal(session, Captured(order="A1", cents=7))
        while await handle.status() != "completed":  # its clock stands still, but for what a statement takes
            engine.wake()
            await engine.caught_up(await app.database.moment())
        assert await handle.result() == 7
        engine.stop()
        await running


@pytest.fixture
async def postgres_shop(database) -> AsyncIterator[Shop]:
    async with opened(database.url("asyncpg")) as shop:
        yield shop


async def test_an_event_reaches_a_saga_of_which_something_runs(postgres_shop: Shop) -> None:
    """P4: the branch that has waited for it goes on, and the other one is not disturbed.

    On SQLite nothing arrives while a step runs: there is one writer at a time.
    """
    shop = postgres_shop
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: StepTransaction) -> None:
        begun.set()
        await go_on.wait()

    async def told(tx: StepTransaction, cents: int) -> None:
        go_on.set()

    async def order(saga: SagaContext, sku: str) -> None:
        async def branch() -> None:
            captured = await saga.wait_for(Captured, key=sku, timeout=None)
            await saga.step(told, captured.cents)

        await saga.gather(saga.step(slow), branch())

    saga_of(shop, order, signals=SIGNALS)
    handle = await shop.start(order, "A1")
    async with shop.app.running():
        await begun.wait()
        await send(shop, Captured(order="A1", cents=7))
        await handle.result(timeout=PATIENCE)


async def test_what_a_saga_does_not_declare_it_cannot_wait_for(sqlite_shop: Shop) -> None:
    """P4: nobody would hear it."""

    class Other(Event, topic="others", type="other"):
        number: int

    async def order(saga: SagaContext) -> None:
        await saga.wait_for(Other, key="1", timeout=None)

    saga_of(sqlite_shop, order, signals=[Captured])
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    assert "does not declare Other" in (await sqlite_shop.row())["attention"]
    with pytest.raises(SagaDefinitionError, match="has no key"):
        Signal(Other)
    with pytest.raises(SagaDefinitionError, match="no field"):
        Signal(Other, by="order")
    async with sqlite_shop.app.transaction() as session:
        with pytest.raises(SagaDefinitionError, match="No saga waits for Other"):
            sqlite_shop.app.sagas.signal(session, Other(number=1))


async def test_a_saga_that_slept_through_an_event_is_woken(shop: Shop) -> None:
    """P4, H169: should a wake-up have been lost all the same, a look at everything finds it."""
    saga_of(shop, paid, signals=SIGNALS)
    handle = await shop.start(paid, "A1")
    await shop.rest()
    async with shop.app.transaction() as session:
        values = {"channel": "payment.captured:", "key": "A1", "message_id": "1", "received_at": sa.func.now()}
        payload = Captured(order="A1", cents=7).model_dump_json()
        if shop.app.database.is_sqlite:
            values["received_at"] = sa.text("'2026-01-01 00:00:00.000000'")
        await session.execute(sa.insert(saga_signal_table).values(**values, payload=payload))
    await shop.rest()
    assert await handle.status() == "waiting"
    signals = shop.app._make_engine()._store.signals
    assert await shop.app.database.transact(signals.sweep) == 1
    assert await shop.app.database.transact(signals.sweep) == 0
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == 7


async def test_events_are_kept_for_a_while(shop: Shop) -> None:
    """P4, I16: and then forgotten, in small pieces."""
    saga_of(shop, paid, signals=SIGNALS)
    async with shop.app.transaction() as session:
        for number in range(3):
            shop.app.sagas.signal(session, Captured(order=f"{number}", cents=7))
    signals = shop.app._make_engine()._store.signals
    clean = signals.clean
    assert await shop.app.database.transact(lambda connection: clean(connection, timedelta(days=7))) == 0
    assert await shop.app.database.transact(lambda connection: clean(connection, timedelta(seconds=-60))) == 3


async def test_an_event_that_a_saga_waits_for_is_kept_until_it_has_it(shop: Shop) -> None:
    """P4, I24: however long nobody runs the saga; of those that it has had none is kept for it."""
    saga_of(shop, paid, signals=SIGNALS)
    handle = await shop.start(paid, "1")
    await shop.rest()
    async with shop.app.transaction() as session:
        for number in range(3):
            shop.app.sagas.signal(session, Captured(order=f"{number}", cents=7))
    clean = shop.app._make_engine()._store.signals.clean
    assert await shop.app.database.transact(lambda connection: clean(connection, timedelta(seconds=-60))) == 2
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == 7
    assert await shop.app.database.transact(lambda connection: clean(connection, timedelta(seconds=-60))) == 1


async def test_many_waiting_sagas_are_rows(sqlite_shop: Shop) -> None:
    """P4, H181: nothing of them is in memory, and those whose event comes are woken."""
    saga_of(sqlite_shop, paid, signals=SIGNALS)
    async with sqlite_shop.app.transaction() as session:
        handles = [sqlite_shop.app.sagas.start(session, paid, f"{n}", id=f"order-{n}") for n in range(100)]
    await sqlite_shop.rest()
    waiting = sa.select(sa.func.count()).where(saga_table.c.status == "waiting", saga_table.c.owner.is_(None))
    assert await sqlite_shop.app.database.read(lambda connection: connection.execute(waiting).scalar_one()) == 100
    await send(sqlite_shop, *(Captured(order=f"{n}", cents=n) for n in range(100)))
    async with sqlite_shop.app.running():
        assert [await handle.result(timeout=PATIENCE) for handle in handles] == list(range(100))
