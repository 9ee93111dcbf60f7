"""What a saga is given that does not fit is refused where it is given, in words that say what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from sagas.by_hand import replay_of
from sagas.support import Shop, Told, release, reserve, saga_of
from txpatterns.errors import SagaDefinitionError, SagaValueRefused
from txpatterns.messages import Event
from txpatterns.sagas import Call, SagaContext, Signal, StepTransaction, Undo
from txpatterns.sagas.replay import Broken
from txpatterns.sagas.strands import Error
from txpatterns.sagas.waiting import SagaWaits

NO: Any = None


class Paid(Event, topic="paid", type="paid", key="payment"):
    payment: str
    order_id: str


class Keyless(Event, topic="keyless", type="keyless"):
    order_id: str
    shop: str


async def order(saga: SagaContext, sku: str) -> str:
    return sku


async def charge(call: Call, cents: int) -> int:
    return cents


def charge_plainly(call: Call, cents: int) -> int:
    return cents


async def refund(undo: Undo[int]) -> None: ...
def refund_plainly(undo: Undo[int], cents: int) -> None: ...
async def let_go(tx: StepTransaction) -> None: ...


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"deadline": 30}, "deadline= is given 30, which is no timedelta"),
        ({"deadline": timedelta(0)}, "deadline= must be more than nothing"),
        ({"retry": 3}, "retry= is given 3, which is no RetryLadder"),
        ({"errors": ValueError}, r"errors= takes a list.*errors=\[ValueError\]"),
        ({"signals": Paid}, r"signals= takes a list.*signals=\[PaymentCaptured\]"),
        ({"signals": Signal(Paid)}, "signals= takes a list"),
        ({"version": "2"}, "version= is given '2', which is no int"),
        ({"name": order}, r"without brackets.*Write: @app.saga\(\)"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], words: str, sqlite_shop: Shop):
    """P4, H369: at the decorator, and not when the saga runs."""
    with pytest.raises(SagaDefinitionError, match=words):
        sqlite_shop.app.saga(**options)


@pytest.mark.parametrize("id", [5, None, "", "ä", "a b", "x" * 201])
async def test_ids_that_are_none(id: Any, sqlite_shop: Shop):
    """P4, H369: of the wrong class, too."""
    saga_of(sqlite_shop, order)
    async with sqlite_shop.app.transaction() as session:
        with pytest.raises(SagaDefinitionError, match=r"no id for a saga|id= is given"):
            sqlite_shop.app.sagas.start(session, order, "tea", id=id)


async def test_arguments_that_do_not_fit(sqlite_shop: Shop):
    """P4, H369: the error says which of them, and what is wrong with it."""
    saga_of(sqlite_shop, order)
    start: Any = sqlite_shop.app.sagas.start
    async with sqlite_shop.app.transaction() as session:
        with pytest.raises(SagaValueRefused, match="arguments of order does not fit what is said of it: 0: Field req"):
            start(session, order, id="order-1")
        with pytest.raises(SagaValueRefused, match="cannot be written as JSON"):
            start(session, order, "\ud800", id="order-1")


def told_by(code: Callable[[SagaContext], Any]) -> str:
    """Run code by hand until it is refused; gives the refusal."""

    async def run(saga: SagaContext) -> None:
        await code(saga)

    end = replay_of(run).begin().end
    assert isinstance(end, (Error, Broken)), end
    assert isinstance(end, Broken) or isinstance(end.error, SagaDefinitionError)
    return str(end.error) if isinstance(end, Error) else end.text


SECOND: Any = 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (lambda saga: saga.sleep(SECOND), "sleep is given 1, which is no timedelta"),
        (lambda saga: saga.sleep(timedelta(-1)), "no time to sleep for"),
        (lambda saga: saga.lock(SECOND, timeout=timedelta(1)), "lock is given 1, which is no str"),
        (lambda saga: saga.lock("till", timeout=SECOND), "The timeout of the lock till is given 1"),
        (lambda saga: saga.call(charge, 3, timeout=SECOND), "The timeout of charge is given 1"),
        (lambda saga: saga.call(charge, 3, retry=SECOND), "retry= of charge is given 1"),
        (lambda saga: saga.step(reserve, "tea", retry=SECOND), "retry= of reserve is given 1"),
        (lambda saga: saga.step(reserve), "reserve cannot be called with its transaction and 0 arguments"),
        (lambda saga: saga.step(reserve, "tea", compensate=let_go), "let_go cannot be called with its transaction"),
        (lambda saga: saga.step(reserve, "tea", compensate="release"), "'release' cannot be called"),
        (lambda saga: saga.call(charge), "charge cannot be called with its Call and 0 arguments"),
        (lambda saga: saga.call(charge, 3, compensate=refund), "refund cannot be called with its Undo and 1 argument:"),
        (lambda saga: saga.call(charge_plainly, 3), "charge_plainly is no async def"),
        (lambda saga: saga.call(charge, 3, compensate=refund_plainly), "refund_plainly is no async def"),
        (lambda saga: saga.call(charge, 3, probe=charge_plainly), "charge_plainly is no async def"),
    ],
)
def test_what_the_code_gives_that_does_not_fit(code: Callable[[SagaContext], Any], words: str):
    """P4, H369: at once, and not when it has failed for the sixth time, or is to be undone."""
    assert words in told_by(code)


def test_what_was_called_already():
    """P4, H369: an action is given, and its arguments behind it."""
    called: Any = reserve(NO, "tea")
    assert "reserve has been called already" in told_by(lambda saga: saga.step(called))
    called.close()


def test_what_cannot_be_told_is_taken_for_right():
    """P4, H369: a lambda that gives what is to be awaited, for example, and an object that says nothing of itself."""

    class Undoing:
        __hash__ = NO

        async def __call__(self, undo: Undo[int], cents: int) -> None: ...

    async def run(saga: SagaContext) -> None:
        await saga.gather(
            saga.call(charge, 3, compensate=lambda undo, cents: refund(undo)),
            saga.call(charge, 3, compensate=Undoing()),
        )

    assert replay_of(run).begin().end is None


def waited_for(signals: Sequence[Signal], **options: Any) -> str:
    """Say for which channel code waits, or why it does not."""
    found: list[str] = []

    async def run(saga: SagaContext) -> None:
        waits = SagaWaits(saga._replay, signals)
        found.append(waits.wait_for(options.pop("event", Paid), key="1", timeout=None, **options).mark.name)

    end = replay_of(run).begin().end
    return found[0] if found else str(end.error) if isinstance(end, Error) else ""


def test_an_event_that_is_declared_by_several_fields():
    """P4, H369: without `by=` that which is declared by its key is meant; where there is none, the error says which."""
    both = [Signal(Paid), Signal(Paid, by="order_id")]
    assert waited_for(both) == "paid:"
    assert waited_for(both, by="order_id") == "paid:order_id"
    assert "does not declare Paid by payment as one of its signals; they are: Paid, Paid by order_id." in waited_for(
        both, by="payment"
    )
    neither = [Signal(Keyless, by="order_id"), Signal(Keyless, by="shop")]
    told = waited_for(neither, event=Keyless)
    assert "declared by several of its fields" in told
    assert 'by="order_id" or by="shop"' in told


async def test_a_mistake_about_an_event_undoes_nothing(sqlite_shop: Shop):
    """P4, H171, H369: what is no event is a mistake in the code, as a mistyped name is."""

    async def code(saga: SagaContext, sku: str) -> None:
        await saga.step(reserve, sku)
        event: Any = sku
        saga.emit(event)

    await sqlite_shop.start(saga_of(sqlite_shop, code), "tea")
    await sqlite_shop.rest()
    row = await sqlite_shop.row()
    assert row["status"] == "running"
    assert "is no event" in row["attention"]


async def test_what_cannot_be_sent_undoes_nothing(sqlite_shop: Shop):
    """P4, H171, H369: an event that is too large is a mistake as a result is, whoever sends it: a person is told."""

    async def sends(tx: StepTransaction, sku: str) -> str:
        tx.emit(Told(what="x" * 2_000_000))
        return sku

    async def order(saga: SagaContext, sku: str) -> None:
        await saga.step(reserve, sku, compensate=release)
        if sku == "tea":
            await saga.step(sends, sku)
        saga.emit(Told(what="x" * 2_000_000))
        await saga.step(reserve, sku)

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order, "tea")
    await sqlite_shop.start(order, "cup", id="order-2")
    async with sqlite_shop.app.running():
        for order_id in ("order-1", "order-2"):
            while (flag := (await sqlite_shop.row(order_id))["attention"]) is None:
                await sqlite_shop.watch.flagged.wait()
            assert "the limit is" in flag
    assert await sqlite_shop.effects() == ["reserve tea"]
