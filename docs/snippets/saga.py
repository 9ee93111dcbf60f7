"""A checkout of three steps, two of which are undone when the third cannot be done."""

# --8<-- [start:saga]
import asyncio

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App
from txpatterns.errors import SagaFailed
from txpatterns.sagas import SagaContext, StepTransaction


class Base(DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"
    sku: Mapped[str] = mapped_column(primary_key=True)
    left: Mapped[int]


class Account(Base):
    __tablename__ = "account"
    owner: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]


app = App("shop", metadata=Base.metadata)


class NotEnough(Exception):
    pass


async def reserve(tx: StepTransaction, sku: str) -> None:
    await tx.session.execute(sa.update(Stock).where(Stock.sku == sku).values(left=Stock.left - 1))


async def release(tx: StepTransaction, sku: str) -> None:
    await tx.session.execute(sa.update(Stock).where(Stock.sku == sku).values(left=Stock.left + 1))


async def pay(tx: StepTransaction, owner: str, cents: int) -> int:
    account = await tx.session.get_one(Account, owner, with_for_update=True)
    if account.cents < cents:
        raise NotEnough(f"{account.cents} of {cents} cents")
    account.cents -= cents
    return account.cents


@app.saga(errors=[NotEnough])
async def checkout(saga: SagaContext, owner: str, skus: list[str]) -> int:
    await saga.gather(*(saga.step(reserve, sku, compensate=release) for sku in skus))
    return await saga.step(pay, owner, 300 * len(skus))


# --8<-- [end:saga]


# --8<-- [start:run]
async def main() -> None:
    async with app, app.transaction() as session:
        if await session.get(Account, "Ada") is None:
            session.add_all([Stock(sku="tea", left=9), Stock(sku="cup", left=9), Account(owner="Ada", cents=1000)])
    async with app.running():
        for number in (1, 2):
            async with app.transaction() as session:
                handle = app.sagas.start(session, checkout, "Ada", ["tea", "cup"], id=f"cart-{number}")
            try:
                print("paid, left on the account:", await handle.result())
            except SagaFailed as error:
                print(error.id, "is", error.status, "for", error.failure)
    async with app.session() as session:
        for stock in await session.scalars(sa.select(Stock).order_by(Stock.sku)):
            print(stock.sku, stock.left)


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:run]
