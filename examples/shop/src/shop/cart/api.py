"""What a cart does for its visitor."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from shop.cart.domain import MOST_OF_ONE
from shop.cart.models import CartLineRow, CartRow, MovedLineRow
from shop.events import CartChanged, CartCleared
from shop.money import Money, total
from shop.ports import Cart, CartLine, Catalog
from shop.problems import Problem
from txpatterns import App, new_id


class CartApi:
    """Carts, over their own database. A visitor without a cart has an empty one."""

    def __init__(self, app: App, catalog: Catalog) -> None:
        self.app = app
        self.catalog = catalog

    async def get(self, visitor_id: str) -> Cart:
        """Show the cart."""
        async with self.app.session() as session:
            return _view(visitor_id, await session.get(CartRow, visitor_id))

    async def add(self, visitor_id: str, sku: str, quantity: int, version: int | None) -> Cart:
        """Put so many of a product in; what is there already is added to. With the cart's version that is done once.

        Raises:
            Problem: ``not-found`` for an unknown product, ``invalid`` for too many of one, or less than one,
                ``stale-version`` when the cart is no longer at the given version.
        """
        _checked(quantity)
        product = await self.catalog.product(sku)
        async with self.app.transaction() as session:
            cart = await _locked(session, visitor_id)
            _check_version(cart, version)
            line = next((line for line in cart.lines if line.sku == sku), None)
            if line is None:
                line = CartLineRow(id=new_id(), sku=sku, quantity=0, added_at=datetime.now(UTC))
                cart.lines.append(line)
            line.quantity = _checked(line.quantity + quantity)
            line.name, line.price_minor, line.currency = product.name, product.price.minor, product.price.currency
            self._changed(session, cart)
            return _view(visitor_id, cart)

    async def update(self, visitor_id: str, line_id: str, quantity: int, version: int | None) -> Cart:
        """Set how many of a line are wanted.

        Raises:
            Problem: ``stale-version`` when the cart is no longer at the given version, ``not-found`` for no such line.
        """
        async with self.app.transaction() as session:
            cart = await session.get(CartRow, visitor_id, with_for_update=True)
            line = next((line for line in cart.lines if line.id == line_id), None) if cart else None
            if cart is None or line is None:
                raise Problem("not-found", "There is no such line in the cart.")
            _check_version(cart, version)
            if line.quantity != quantity:
                line.quantity = _checked(quantity)
                self._changed(session, cart)
            return _view(visitor_id, cart)

    async def remove(self, visitor_id: str, line_id: str) -> None:
        """Take a line out. A line that is not there is fine."""
        async with self.app.transaction() as session:
            cart = await session.get(CartRow, visitor_id, with_for_update=True)
            line = next((line for line in cart.lines if line.id == line_id), None) if cart else None
            if cart is not None and line is not None:
                cart.lines.remove(line)
                self._changed(session, cart)

    async def reprice(self, visitor_id: str) -> Cart:
        """Put the catalogue's prices of now on every line. Without a changed price the cart keeps its version."""
        seen = await self.get(visitor_id)
        found = await self.catalog.products_by_sku([line.sku for line in seen.lines])
        prices = {product.sku: product.price for product in found}
        async with self.app.transaction() as session:
            cart = await session.get(CartRow, visitor_id, with_for_update=True)
            if cart is not None:
                changed = [line for line in cart.lines if prices.get(line.sku, _price(line)) != _price(line)]
                for line in changed:
                    line.price_minor, line.currency = prices[line.sku].minor, prices[line.sku].currency
                if changed:
                    self._changed(session, cart)
            return _view(visitor_id, cart)

    async def clear(self, visitor_id: str) -> None:
        """Take everything out. An empty cart stays as it is, and nothing is told."""
        async with self.app.transaction() as session:
            cart = await session.get(CartRow, visitor_id, with_for_update=True)
            if cart is not None and cart.lines:
                cart.lines.clear()
                self._changed(session, cart)
                self.app.outbox.add(session, CartCleared(visitor_id=visitor_id))

    async def take_over(self, visitor_id: str, user_id: str) -> Cart:
        """Put what a visitor has in the cart into that of the account that they signed in to; gives that cart.

        In one transaction, so it is done once however often it is asked for. What is in both is added up, to as many
        as one may have, at the price that the account's cart has already.
        """
        if visitor_id == user_id:
            return await self.get(user_id)
        async with self.app.transaction() as session:
            # The visitor's first: whoever locks both does it in this order.
            source = await session.get(CartRow, visitor_id, with_for_update=True)
            target = await _locked(session, user_id)
            if source is not None and source.lines:
                _move(session, source, target)
                for cart in (source, target):
                    self._changed(session, cart)
            return _view(user_id, target)

    def _changed(self, session: AsyncSession, cart: CartRow) -> None:
        """Note and tell that the cart is not what it was."""
        cart.version += 1
        self.app.outbox.add(session, CartChanged(visitor_id=cart.visitor_id, version=cart.version))


async def _locked(session: AsyncSession, visitor_id: str) -> CartRow:
    """Give a cart, made if there is none yet; nobody else changes it before the commit."""
    cart = await session.get(CartRow, visitor_id, with_for_update=True)
    if cart is not None:
        return cart
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    # Another request of the same visitor may be making it: that is waited for.
    await session.execute(insert(CartRow).values(visitor_id=visitor_id, version=0).on_conflict_do_nothing())
    return await session.get_one(CartRow, visitor_id, with_for_update=True)


def _move(session: AsyncSession, source: CartRow, target: CartRow) -> None:
    there, now = {line.sku: line for line in target.lines}, datetime.now(UTC)
    for line in list(source.lines):
        into = there.get(line.sku)
        if into is None:
            into = CartLineRow(id=new_id(), sku=line.sku, name=line.name, quantity=0, added_at=line.added_at)
            into.price_minor, into.currency = line.price_minor, line.currency
            target.lines.append(into)
        into.quantity = min(into.quantity + line.quantity, MOST_OF_ONE)
        session.add(MovedLineRow(id=line.id, visitor_id=target.visitor_id, line_id=into.id, moved_at=now))
    source.lines.clear()


def _check_version(cart: CartRow, version: int | None) -> None:
    if version is not None and version != cart.version:
        raise Problem("stale-version", f"The cart is at version {cart.version}, not {version}.")


def _checked(quantity: int) -> int:
    if not 1 <= quantity <= MOST_OF_ONE:
        raise Problem("invalid", f"From 1 to {MOST_OF_ONE} of one thing, please.")
    return quantity


def _price(line: CartLineRow) -> Money:
    return Money.of_minor(line.price_minor, line.currency)


def _view(visitor_id: str, cart: CartRow | None) -> Cart:
    lines = []
    for row in cart.lines if cart else ():
        price = _price(row)
        lines.append(
            CartLine(
                id=row.id,
                sku=row.sku,
                name=row.name,
                quantity=row.quantity,
                unit_price=price,
                line_total=price * row.quantity,
            )
        )
    return Cart(
        visitor_id=visitor_id,
        version=cart.version if cart else 0,
        lines=lines,
        total=total([line.line_total for line in lines]),
    )
