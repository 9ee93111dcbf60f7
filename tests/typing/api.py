"""How handlers and listeners are written, as mypy sees it. Checked, never run.

Each `type: ignore` marks what must be refused:
`mypy --strict --warn-unused-ignores` fails when something that should be refused is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import assert_type

from txpatterns import App
from txpatterns.hooks import HookList, Hooks, Moment, on
from txpatterns.inbox import BatchTransaction, Consumer, SyncBatchTransaction, SyncTransaction, Transaction
from txpatterns.inbox.moments import Handled, HandlerFailed, Handling
from txpatterns.messages import Event, Message
from txpatterns.resilience import Bulkhead, Cache, CircuitBreaker, RateLimit, Retrying
from txpatterns.sagas import (
    PIVOT,
    Call,
    Done,
    Handle,
    NotDone,
    Saga,
    SagaCall,
    Sagas,
    SagaSleep,
    SagaStep,
    SagaWait,
    StepTransaction,
    SyncStepTransaction,
    Undo,
)
from txpatterns.tcc import BranchCall, BranchTransaction, SyncBranchTransaction


class OrderPlaced(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


class OrderPaid(Event, topic="orders", type="order.paid", key="order_id"):
    order_id: str


def register(consumer: Consumer) -> None:
    @consumer.on(OrderPlaced)
    async def start_packing(event: OrderPlaced, tx: Transaction) -> None:
        tx.emit(OrderPaid(order_id=event.order_id))
        await tx.session.flush()

    @consumer.on(OrderPlaced, name="packing", permanent=[KeyError])
    def start_packing_in_a_thread(event: OrderPlaced, tx: SyncTransaction) -> None:
        tx.session.flush()

    @consumer.on(OrderPlaced)
    async def of_any_event(event: Event, tx: Transaction) -> None: ...

    @consumer.on(OrderPlaced)  # type: ignore[arg-type]
    async def of_another_event(event: OrderPaid, tx: Transaction) -> None: ...

    @consumer.on(OrderPlaced)  # type: ignore[arg-type]
    async def of_the_other_transaction(event: OrderPlaced, tx: SyncTransaction) -> None: ...

    @consumer.on(OrderPlaced)  # type: ignore[arg-type]
    def plain_with_the_async_one(event: OrderPlaced, tx: Transaction) -> None: ...

    @consumer.on(OrderPlaced)  # type: ignore[arg-type]
    async def without_transaction(event: OrderPlaced) -> None: ...


def register_batches(app: App, consumer: Consumer) -> None:
    @app.on(OrderPlaced, batch=100)
    async def pack_all(events: list[OrderPlaced], tx: BatchTransaction) -> None:
        for event, message in zip(events, tx.messages, strict=True):
            tx.emit(OrderPaid(order_id=event.order_id), cause=message)
        tx.emit(OrderPaid(order_id="1"))  # type: ignore[call-arg]
        await tx.session.flush()

    @consumer.on(OrderPlaced, batch=100, name="packing", permanent=[KeyError])
    def pack_all_in_a_thread(events: Sequence[OrderPlaced], tx: SyncBatchTransaction) -> None:
        tx.session.flush()

    @app.on(OrderPlaced, batch=100)
    async def of_several_events(events: Sequence[OrderPlaced | OrderPaid], tx: BatchTransaction) -> None: ...

    @app.on(OrderPlaced, batch=100)  # type: ignore[arg-type]
    async def of_one_event(event: OrderPlaced, tx: BatchTransaction) -> None: ...

    @app.on(OrderPlaced, batch=100)  # type: ignore[arg-type]
    async def of_others(events: list[OrderPaid], tx: BatchTransaction) -> None: ...

    @app.on(OrderPlaced, batch=100)  # type: ignore[arg-type]
    async def of_a_single_transaction(events: list[OrderPlaced], tx: Transaction) -> None: ...

    @app.on(OrderPlaced, batch=100)  # type: ignore[arg-type]
    def plain_of_the_async_one(events: list[OrderPlaced], tx: BatchTransaction) -> None: ...

    @app.on(OrderPlaced)  # type: ignore[arg-type]
    async def without_batch(events: list[OrderPlaced], tx: BatchTransaction) -> None: ...


async def calls_stay_typed(consumer: Consumer, event: OrderPlaced, tx: Transaction) -> None:
    async def handler(event: OrderPlaced, tx: Transaction) -> None: ...

    registered = consumer.on(OrderPlaced)(handler)
    await registered(event, tx)
    await registered(OrderPaid(order_id="1"), tx)  # type: ignore[arg-type]


class Listener(Hooks):
    @on(HandlerFailed)
    def failed(self, failed: HandlerFailed) -> None:
        print(failed.message.topic, failed.error, failed.attempt)

    @on(Handling)
    @contextmanager
    def handling(self, handling: Handling) -> Iterator[None]:
        print(handling.consumer)
        yield

    @on(Moment)
    def all(self, moment: Moment) -> None:
        match moment:
            case Handled(consumer=consumer) | HandlerFailed(consumer=consumer):
                print(consumer.upper())
            case _:
                print(moment)

    @on(HandlerFailed)  # type: ignore[arg-type]
    def of_another_moment(self, handled: Handled) -> None: ...

    @on(Handled)  # type: ignore[arg-type]
    async def that_nobody_awaits(self, handled: Handled) -> None: ...

    @on(Handling)  # type: ignore[arg-type]
    def of_a_span_without_an_end(self, handling: Handling) -> None: ...

    @on(Message)  # type: ignore[type-var, arg-type]
    def of_what_is_no_moment(self, message: Message) -> None: ...


def moments_and_spans_are_not_mixed(hooks: HookList, message: Message) -> None:
    hooks.tell(Handled(message, "packing"))
    hooks.within(Handling(message, "packing", 1))
    hooks.tell(Handling(message, "packing", 1))  # type: ignore[arg-type]
    hooks.within(Handled(message, "packing"))  # type: ignore[arg-type]


async def reserve(tx: StepTransaction, order: OrderPlaced) -> str:
    return order.order_id


async def release(tx: StepTransaction, order: OrderPlaced) -> None: ...


def pack(tx: SyncStepTransaction, order: OrderPlaced, reserve: str) -> int:
    return len(reserve)


async def charge(call: Call, order: OrderPlaced, reserve: str) -> int:
    return call.attempt


async def refund(undo: Undo[int], order: OrderPlaced, reserve: str) -> None: ...


async def refund_text(undo: Undo[str], order: OrderPlaced, reserve: str) -> None: ...


async def look_up(call: Call, order: OrderPlaced, reserve: str) -> Done[int] | NotDone:
    return Done(1)


async def look_up_text(call: Call, order: OrderPlaced, reserve: str) -> Done[str]:
    return Done("")


def receipt(order: OrderPlaced, charge: int) -> int:
    return charge


def receipt_of_another(order: OrderPaid, charge: int) -> int:
    return charge


def list_steps(app: App, sagas: Sagas) -> None:
    steps = [
        SagaStep("reserve", reserve, compensate=release),
        SagaStep("pack", pack),
        SagaCall("charge", charge, compensate=refund, probe=look_up),
    ]
    paid = SagaWait("paid", OrderPaid, key=lambda order, reserve: order.order_id, timeout=None)
    whole = Saga("whole", OrderPlaced, [*steps, PIVOT, paid, SagaSleep("later", timedelta(1))], result=receipt)
    bare = app.saga()(Saga("bare", OrderPlaced, steps=[SagaStep("reserve", reserve), PIVOT, paid]))
    at_once = Saga("at_once", OrderPlaced, [steps[0], [steps[1], steps[2]], (paid, paid), PIVOT], result=receipt)
    with app.sync_session() as session:
        number: Handle[int] = sagas.start(session, whole, OrderPlaced(order_id="1"), id="1")
        nothing: Handle[None] = sagas.start(session, bare, OrderPlaced(order_id="1"), id="1")
        sagas.start(session, whole, OrderPaid(order_id="1"), id="1")  # type: ignore[arg-type]
        sagas.start(session, whole, id="1")  # type: ignore[arg-type]
        number = sagas.start(session, at_once, OrderPlaced(order_id="1"), id="1")
    print(number, nothing)


def refused_in_lists() -> None:
    SagaStep("of_a_call", charge)  # type: ignore[arg-type]
    SagaStep("undone_by_another", reserve, compensate=refund)  # type: ignore[arg-type]
    SagaStep("undone_with_other_arguments", pack, compensate=release)  # type: ignore[arg-type]
    SagaCall("of_a_step", reserve)  # type: ignore[arg-type]
    SagaCall("undone_of_another_result", charge, compensate=refund_text)  # type: ignore[arg-type]
    SagaCall("probed_for_another_result", charge, probe=look_up_text)  # type: ignore[arg-type]
    Saga("of_another", OrderPaid, steps=[SagaStep("reserve", reserve)])  # type: ignore[misc]
    Saga("no_step", OrderPlaced, steps=[reserve])  # type: ignore[list-item]
    Saga("of_another_at_once", OrderPaid, [(SagaStep("reserve", reserve), SagaStep("again", reserve))])  # type: ignore[misc]
    Saga("pivot_at_once", OrderPlaced, [[SagaStep("reserve", reserve), PIVOT]])  # type: ignore[list-item]
    Saga("result", OrderPlaced, [SagaStep("reserve", reserve)], result=receipt_of_another)  # type: ignore[arg-type]


async def participants(app: App) -> None:
    """What takes part in TCC: refused are other arguments, and functions of another kind."""

    @app.tcc.participant("stock")
    async def stock(tx: BranchTransaction, sku: str, quantity: int) -> str:
        return sku

    @stock.confirm
    async def sell(tx: BranchTransaction, sku: str, quantity: int) -> None: ...

    @stock.cancel
    async def release(tx: BranchTransaction, sku: str, quantity: int) -> bool:
        return True

    @app.tcc.participant("shelf", mode="local")
    def shelf(tx: SyncBranchTransaction, sku: str) -> int:
        return 1

    @shelf.confirm
    def take(tx: SyncBranchTransaction, sku: str) -> None: ...

    @app.tcc.participant("bank", mode="intent")
    async def charge(call: BranchCall, cents: int) -> str:
        return call.key

    @charge.confirm
    async def capture(call: BranchCall, cents: int) -> None: ...

    @stock.confirm  # type: ignore[arg-type]
    async def other_arguments(tx: BranchTransaction, sku: int) -> None: ...

    @stock.cancel  # type: ignore[arg-type]
    def other_kind(tx: SyncBranchTransaction, sku: str, quantity: int) -> None: ...

    @charge.cancel  # type: ignore[arg-type]
    async def of_a_local_one(tx: BranchTransaction, cents: int) -> None: ...

    @app.tcc.participant("odd", mode="intent")  # type: ignore[arg-type]
    async def odd(tx: BranchTransaction) -> None: ...

    async with app.tcc.transaction("order-1", timeout=None) as tcc:
        assert_type(await tcc.try_(stock, "A1", 2), str)
        assert_type(await tcc.try_(shelf, sku="A1"), int)
        await tcc.try_(charge, cents=5)
        await tcc.try_(stock, "A1")  # type: ignore[call-arg]
        await tcc.try_(stock, "A1", "2")  # type: ignore[arg-type]


bank = CircuitBreaker("bank")


@bank
@Bulkhead("bank", at_once=2)
@Retrying()
async def balance(account: str) -> int:
    return len(account)


async def guarded(cache: Cache[OrderPlaced]) -> None:
    number: int = await balance("4711")
    with bank:
        order: OrderPlaced = cache.get("1", lambda: OrderPlaced(order_id="1"))
    await balance(number)  # type: ignore[arg-type]
    cache.get("1", lambda: number)  # type: ignore[arg-type,return-value]
    print(order, RateLimit("calls", calls=1, per=timedelta(1)).take("key").headers())
