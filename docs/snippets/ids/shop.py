"""Orders whose ids are made by the App."""

# --8<-- [start:app]
import asyncio

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App
from txpatterns.ids import IdType, explain


class Base(DeclarativeBase): ...


app = App("shop", metadata=Base.metadata)


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(IdType, primary_key=True, autoincrement=False, default=app.ids.next_id)
    sku: Mapped[str]


# --8<-- [end:app]


# --8<-- [start:main]
async def main() -> None:
    async with app.running(relay=False, consume=False):  # there are no messages here
        async with app.transaction() as session:
            session.add_all([Order(sku="A1"), Order(sku="B2")])
        first, second = app.ids.take(2)  # for a bulk insert: many times as fast as one by one
        async with app.session() as session:
            stored = list(await session.scalars(sa.select(Order.id).order_by(Order.id)))
        print("they grow:", stored == sorted(stored) and stored[-1] < first < second)
        print("made under worker number", explain(first).worker)


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:main]
