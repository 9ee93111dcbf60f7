"""What the orders answer: place one, show it, list them, call one off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import CheckoutRequested, OrderCreated, OrderLine, PaymentWindowClosed
from shop.money import Money, total
from shop.orders.app import tell
from shop.orders.domain import Signal, Status, decide
from shop.orders.models import LedOrderRow, OrderedCartRow, OrderRow, ReductionRow
from shop.ports import CartLine, Mode, NewOrder, Order, OrderPage
from shop.problems import Problem
from shop.reductions import Reduction
from txpatterns import App
from txpatterns.correlation import CORRELATION_ID, current_lineage
from txpatterns.errors import IdsUnavailable
from txpatterns.ids import DatabaseBlocks, IdChain


class OrdersApi:
    """Orders, over their own database.

    Args:
        app: The service's App.
        window: How long an order waits for its payment.
    """

    def __init__(self, app: App, window: timedelta) -> None:
        self.app = app
        self.window = window
        self.blocks = DatabaseBlocks(app.database)  # for when the machine has stood still, or its clock is wrong
        self.ids = IdChain(app.ids, self.blocks, hooks=app.hooks)

    async def place(self, order: NewOrder) -> Order:
        """Place an order. The same checkout again gives the order that it made the first time.

        Of a cart at one version there is one order at a time, whichever checkouts ask for it; one that was canceled
        makes room for the next. The order, its first event and the timer of its payment window are stored in one
        transaction. Where a saga leads the checkout, the first event starts that, and the time to pay is the saga's.

        Raises:
            Problem: ``cart-empty``, ``invalid`` for less than one of a thing, ``cart-ordered`` when another checkout
                ordered this cart, ``conflict`` when another visitor used this checkout, or ``unavailable`` when no
                order can be numbered.
        """
        wrong = _wrong_with(order)
        if wrong is not None:
            found = await self.made(order.visitor_id, order.checkout_id, order.cart_version)
            if found is None:
                raise wrong
            return found
        row = self._row(order)
        try:
            async with self.app.transaction() as session:
                session.add(row)
                await session.flush()
                await _take_cart(session, order, row.id)
                if order.mode is Mode.ORCHESTRATED:
                    self.app.outbox.add(session, _requested(row))
                    return _view(row)
                first = self.app.outbox.add(session, _created(row))
                self.app.outbox.add(
                    session,
                    PaymentWindowClosed(order_id=row.id),
                    headers={CORRELATION_ID: current_lineage().get(CORRELATION_ID, first)},
                    deliver_after=self.window,
                )
                return _view(row)
        except IntegrityError:
            # The same checkout, or the same cart, came before. Who asks us first whether it did, as the checkout does,
            # is not made to pay for a second look.
            found = await self.made(order.visitor_id, order.checkout_id, order.cart_version)
            if found is None:
                raise
            return found

    async def made(self, visitor_id: str, checkout_id: str, cart_version: int) -> Order | None:
        """Give the order that a checkout made, if it made one.

        Raises:
            Problem: ``cart-ordered`` when another checkout ordered the cart at this version and that order is not
                canceled, or ``conflict`` when another visitor used this checkout.
        """
        async with self.app.session() as session:
            row = await session.scalar(select(OrderRow).where(OrderRow.checkout_id == checkout_id))
            if row is not None and row.visitor_id != visitor_id:
                raise Problem("conflict", "This checkout belongs to somebody else.")
            if row is not None:
                return _view(row)
            taken = await session.get(OrderedCartRow, (visitor_id, cart_version))
            if taken is not None:
                await _check_ended(session, taken)
            return None

    async def get(self, visitor_id: str, order_id: str) -> Order:
        """Show an order to the visitor who placed it.

        Raises:
            Problem: ``not-found``, also for an order of somebody else.
        """
        async with self.app.session() as session:
            row = await session.get(OrderRow, order_id)
            if row is None or row.visitor_id != visitor_id:
                raise Problem("not-found", "You have no such order.")
            return _view(row)

    async def list(self, visitor_id: str, after: str | None, limit: int) -> OrderPage:
        """List a visitor's orders, newest first; ``next`` is where the following page starts, if there is one."""
        query = select(OrderRow).where(OrderRow.visitor_id == visitor_id).order_by(OrderRow.id.desc())
        if after is not None:
            query = query.where(OrderRow.id < after)
        async with self.app.session() as session:
            rows = (await session.scalars(query.limit(limit + 1))).all()
        items = [_view(row) for row in rows[:limit]]
        return OrderPage(items=items, next=items[-1].id if len(rows) > limit else None)

    async def cancel(self, visitor_id: str, order_id: str) -> Order:
        """Call an order off that is not paid yet. Again, or too late to matter, changes nothing.

        Raises:
            Problem: ``not-found``, or ``conflict`` once it is paid.
        """
        async with self.app.transaction() as session:
            row = await session.get(OrderRow, order_id, with_for_update=True)
            if row is None or row.visitor_id != visitor_id:
                raise Problem("not-found", "You have no such order.")
            decision = decide(row.life, Signal.CANCEL_ASKED)
            if not decision.facts and row.canceling is None:
                raise Problem("conflict", "It is paid already, so it can no longer be called off.")
            row.life = decision.life
            for fact in decision.facts:
                self.app.outbox.add(session, tell(fact, row))
            return _view(row)

    def _new_id(self) -> str:
        """Make an order's number, with zeros before it: as text it sorts as it does as a number."""
        try:
            return f"{self.ids.next_id():019}"
        except IdsUnavailable as error:
            raise Problem("unavailable", "No order can be numbered at this moment.") from error

    def _row(self, order: NewOrder) -> OrderRow:
        now = datetime.now(UTC)
        sum_of_lines = total([line.unit_price * line.quantity for line in order.lines])
        return OrderRow(
            id=self._new_id(),
            checkout_id=order.checkout_id,
            visitor_id=order.visitor_id,
            status="PENDING",
            canceling=None,
            lines=[_stored(line) for line in order.lines],
            total_minor=sum_of_lines.minor,
            currency=sum_of_lines.currency,
            method=order.method,
            created_at=now,
            pay_by=now + self.window,
            saga=LedOrderRow(reduction=_kept(order.reduction)) if order.mode is Mode.ORCHESTRATED else None,
        )


def _wrong_with(order: NewOrder) -> Problem | None:
    if not order.lines:
        return Problem("cart-empty", "There is nothing to order.")
    if not all(line.quantity >= 1 for line in order.lines):
        return Problem("invalid", "One can order one of a thing, or more.")
    if order.reduction is not None and order.mode is not Mode.ORCHESTRATED:
        return Problem("invalid", "Only a saga sees to it that a coupon or credit is used once.")
    return None


async def _take_cart(session: AsyncSession, order: NewOrder, order_id: str) -> None:
    """Note that a cart at its version is ordered; refused while another order of it is not canceled."""
    taken = await session.get(OrderedCartRow, (order.visitor_id, order.cart_version), with_for_update=True)
    if taken is None:
        session.add(OrderedCartRow(visitor_id=order.visitor_id, cart_version=order.cart_version, order_id=order_id))
        await session.flush()
    else:
        await _check_ended(session, taken)
        taken.order_id = order_id


async def _check_ended(session: AsyncSession, taken: OrderedCartRow) -> None:
    earlier = await session.get_one(OrderRow, taken.order_id)
    if earlier.life.status is not Status.CANCELED:
        raise Problem("cart-ordered", "What is in this cart is ordered already.", order=earlier.id)


def _stored(line: CartLine) -> dict[str, object]:
    kept = OrderLine(
        cart_line_id=line.id, sku=line.sku, name=line.name, quantity=line.quantity, unit_price=line.unit_price
    )
    return kept.model_dump(mode="json")


def _created(row: OrderRow) -> OrderCreated:
    return OrderCreated(
        order_id=row.id,
        visitor_id=row.visitor_id,
        lines=tuple(OrderLine.model_validate(line) for line in row.lines),
        total=Money.of_minor(row.total_minor, row.currency),
        pay_by=row.pay_by,
        method=row.method,
    )


def _requested(row: OrderRow) -> CheckoutRequested:
    created = _created(row)
    return CheckoutRequested(
        key=row.checkout_id,
        reduction=_reduction(row),
        **{name: getattr(created, name) for name in OrderCreated.model_fields},
    )


def _kept(reduction: Reduction | None) -> ReductionRow | None:
    if reduction is None:
        return None
    return ReductionRow(
        coupon=reduction.coupon,
        discount_minor=reduction.discount.minor,
        credit_minor=reduction.credit.minor,
        to_pay_minor=reduction.to_pay.minor,
    )


def _reduction(row: OrderRow) -> Reduction | None:
    kept = None if row.saga is None else row.saga.reduction
    if kept is None:
        return None
    return Reduction(
        coupon=kept.coupon,
        discount=Money.of_minor(kept.discount_minor, row.currency),
        credit=Money.of_minor(kept.credit_minor, row.currency),
        to_pay=Money.of_minor(kept.to_pay_minor, row.currency),
    )


def _view(row: OrderRow) -> Order:
    lines = []
    for stored in row.lines:
        line = OrderLine.model_validate(stored)
        lines.append(
            CartLine(
                id=line.cart_line_id,
                sku=line.sku,
                name=line.name,
                quantity=line.quantity,
                unit_price=line.unit_price,
                line_total=line.unit_price * line.quantity,
            )
        )
    return Order(
        id=row.id,
        visitor_id=row.visitor_id,
        status=row.status,
        canceling=row.canceling,
        lines=lines,
        total=Money.of_minor(row.total_minor, row.currency),
        method=row.method,
        created_at=row.created_at,
        pay_by=row.pay_by,
        mode=Mode.ORCHESTRATED if row.saga is not None else Mode.CHOREOGRAPHED,
        reduction=_reduction(row),
    )
