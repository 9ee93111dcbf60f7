"""Ids as the outside sees them."""

# --8<-- [start:models]
import os
from typing import Annotated

from pydantic import BaseModel

from txpatterns.ids import Obfuscator

key = os.environ.get("ORDER_KEY", "only for this page, 32 bytes long")
orders = Obfuscator(key, "order")


class OrderShown(BaseModel):
    id: Annotated[int, orders.outgoing]
    sku: str


class OrderAskedFor(BaseModel):
    id: Annotated[int, orders.incoming]


# --8<-- [end:models]

# --8<-- [start:use]
for number in (252620073519284224, 252620073519284225):
    print(OrderShown(id=number, sku="A1").model_dump_json())

text = orders.hide(252620073519284224)
print(OrderAskedFor(id=text).id == orders.reveal(text.upper()) == 252620073519284224)
# --8<-- [end:use]
