"""The checkout's saga: what is done, in which order, and what undoes it."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from shop.checkout.reserving import Need, Reserving
from shop.checkout.sessions import complete_session, fail_session, note_reason, open_session
from shop.events import CheckoutCancelRequested, CheckoutRequested, PaymentCaptured, PaymentFailed
from shop.ports import Charge, Inventory, Payments, StockNeed
from shop.problems import Problem
from txpatterns.errors import Reject, StepFailed, WaitTimedOut
from txpatterns.retries import RetryLadder
from txpatterns.sagas import Call, Done, NotDone, SagaContext, Undo

CALL = timedelta(seconds=5)
"""How long another service may take to answer; after that nobody knows what it has done."""
ANSWER = 4.0
"""Seconds that each of those calls has: less, so that silence counts against who is silent and not against who asks."""
AGAIN = RetryLadder(tuple(timedelta(seconds=seconds) for seconds in (0.2, 0.5, 1, 2, 4, 8, 8)))
"""The waits before something is tried again. What is undone is tried for as long as it takes."""
SIGNALS = (PaymentCaptured, PaymentFailed, CheckoutCancelRequested)


class Refused(Exception):
    """A checkout that cannot be done, and the reason, in one word: nothing is wrong with the shop."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Others(Protocol):
    """Who is asked for something: in this process, or over a network."""

    @property
    def inventory(self) -> Inventory:
        """Who keeps the stock."""

    @property
    def payments(self) -> Payments:
        """Who moves the money."""

    @property
    def reserving(self) -> Reserving | None:
        """Who reserves, where it is not the stock alone."""


class CheckoutSaga:
    """Leads one checkout: open a session, reserve, charge, wait for the bank, complete.

    Whatever fails before the end undoes what was done, the last first: the money goes back, the stock goes back, and
    the session ends as failed. Then the customer is told. From the end on nothing is undone: the rest is told by an
    event, and done by whoever has a part in it.

    The stock alone is asked with a call, and put back with another. An order with a coupon or credit needs several that
    all hold or all let go: TCC's participants, whose reservations are confirmed when the money is there.
    """

    def __init__(self, others: Others) -> None:
        self.others = others

    async def run(self, saga: SagaContext, order: CheckoutRequested) -> str:
        """Do it. Gives the id of the order."""
        await saga.step(open_session, order, compensate=fail_session)
        try:
            await self._set_aside(saga, order)
            if order.to_pay.minor:
                key = await self._charge(saga, order)
                await self._wait_for_the_bank(saga, order, key)
        except Refused as refused:
            await saga.step(note_reason, order.order_id, refused.reason)
            saga.abort(refused.reason)
        if order.reduction is not None:
            saga.pivot()
        await saga.step(complete_session, order)
        return order.order_id  # what participants hold is confirmed now, for as long as it takes

    async def _set_aside(self, saga: SagaContext, order: CheckoutRequested) -> None:
        """Have all set aside that the order needs, or nothing."""
        if order.reduction is None:
            await saga.call(self.reserve, order, compensate=self.release, timeout=CALL)
            return
        assert self.others.reserving is not None, "a checkout service has its participants before it runs"
        needs = self.others.reserving.needs(order, order.reduction)
        await saga.gather(*(self._try(saga, need) for need in needs))

    async def _try(self, saga: SagaContext, need: Need) -> None:
        try:
            await saga.reserve(need.participant, *need.arguments)
        except Reject:
            raise Refused(need.reason) from None

    async def _charge(self, saga: SagaContext, order: CheckoutRequested) -> str:
        """Ask for the money; gives the key under which it was asked for."""
        if order.pay_by <= saga.now():
            raise Refused("payment_window")
        return await saga.call(self.charge, order, compensate=self.refund, probe=self.look_for, timeout=CALL)

    async def _wait_for_the_bank(self, saga: SagaContext, order: CheckoutRequested, key: str) -> None:
        """Wait until the bank has paid. Nothing heard in time is no answer: then it is asked."""
        left = max(order.pay_by - saga.now(), timedelta(milliseconds=1))
        try:
            came = await saga.first(
                saga.wait_for(PaymentCaptured, key=order.order_id, timeout=left),
                saga.wait_for(PaymentFailed, key=order.order_id, timeout=left),
                saga.wait_for(CheckoutCancelRequested, key=order.order_id, timeout=left),
            )
        except WaitTimedOut:
            if await self._asked(saga, key) != "captured":
                raise Refused("payment_window") from None
            return
        match came:
            case PaymentFailed():
                raise Refused("payment_failed")
            case CheckoutCancelRequested():
                raise Refused("customer")

    async def _asked(self, saga: SagaContext, key: str) -> str:
        try:
            return await saga.call(self.status_of, key, timeout=CALL)
        except StepFailed:
            return "unknown"  # it is refunded by its key, whatever has become of it

    async def reserve(self, call: Call, order: CheckoutRequested) -> None:
        """Have the order's things set aside."""
        needs = [StockNeed(sku=line.sku, quantity=line.quantity) for line in order.lines]
        try:
            await self.others.inventory.reserve(order.order_id, needs, order.pay_by)
        except Problem as problem:
            if problem.kind.slug not in ("out-of-stock", "conflict"):
                raise
            raise Refused("out_of_stock") from problem

    async def release(self, undo: Undo[None], order: CheckoutRequested) -> None:
        """Have them put back."""
        await self.others.inventory.release(order.order_id)

    async def charge(self, call: Call, order: CheckoutRequested) -> str:
        """Ask for the money, by a key of this call."""
        charge = await self.others.payments.charge(call.key, order.order_id, order.to_pay, order.method, order.pay_by)
        if charge.status == "failed":
            raise Refused("payment_failed")
        return call.key

    async def look_for(self, call: Call, order: CheckoutRequested) -> Done[str] | NotDone:
        """Ask by the key what has become of a charge that nobody knows of."""
        found: Charge | None = await self.others.payments.find(call.key)
        return NotDone() if found is None else Done(call.key)

    async def refund(self, undo: Undo[str], order: CheckoutRequested) -> None:
        """See that no money stays charged: what is captured, now or later, goes back."""
        await self.others.payments.refund(undo.of, order.order_id, order.to_pay, order.method)

    async def status_of(self, call: Call, key: str) -> str:
        """Ask how a charge stands."""
        found = await self.others.payments.find(key)
        return "unknown" if found is None else found.status
