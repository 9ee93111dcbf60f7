import asyncio

from pydantic import BaseModel

from txpatterns.resilience import Cache


class Product(BaseModel):
    sku: str
    price: int
    version: int


row = {"sku": "A1", "price": 10, "version": 1}  # stands for a row of your database
products = Cache("product", Product, version=lambda product: product.version)


async def load() -> Product:
    print("reads the row")
    return Product(**row)


async def main() -> None:
    found = await asyncio.gather(*(products.aget("A1", load) for _ in range(100)))
    print(len(found), "at", found[0].price)

    row.update(price=12, version=2)  # in your transaction; and behind its commit:
    await products.awrote("A1", version=2)
    print("now at", (await products.aget("A1", load)).price)


asyncio.run(main())
