"""Ids as the outside sees them: texts that tell nothing, strings in JSON, columns that refuse what is no id."""

import json
import random
from itertools import pairwise
from typing import Annotated

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event
from txpatterns.errors import ConfigurationError, IdInvalid, PayloadInvalid
from txpatterns.ids import Id, IdType, Obfuscator
from txpatterns.ids.layout import LAST_ID
from txpatterns.ids.short import ShortIds

KEY = "a key that is for tests only"
ORDERS, CARTS = Obfuscator(KEY, "order"), Obfuscator(KEY, "cart")
ids = st.integers(0, LAST_ID)


@given(ids)
def test_each_id_has_a_text_and_comes_back(id_):
    """H302: 13 letters and digits, read with capitals, too."""
    text = ORDERS.hide(id_)
    assert len(text) == 13
    assert ORDERS.reveal(text) == ORDERS.reveal(text.upper()) == id_


def test_neighbours_look_unrelated():
    """H302: of two ids in a row, half of the bits differ, as of any two; each bit does in its turn."""
    begin = 252620073519284224
    values = [decoded(ORDERS.hide(begin + n)) for n in range(4000)]
    differ = [a ^ b for a, b in pairwise(values)]
    assert 31.5 < sum(each.bit_count() for each in differ) / len(differ) < 32.5
    for bit in range(64):
        assert 0.45 < sum(each >> bit & 1 for each in differ) / len(differ) < 0.55


def decoded(text: str) -> int:
    value = 0
    for letter in text:
        value = value << 5 | "0123456789abcdefghjkmnpqrstvwxyz".index(letter)
    return value


def test_many_round_trips():
    """H302: no two ids have one text."""
    wanted = [random.randrange(LAST_ID) for _ in range(10_000)]
    texts = [ORDERS.hide(each) for each in wanted]
    assert [ORDERS.reveal(text) for text in texts] == wanted
    assert len(set(texts)) == len(set(wanted))


@pytest.mark.soak
def test_a_million_round_trips():
    """H302: the same for longer."""
    for id_ in range(252620073519284224, 252620073520284224):
        assert ORDERS.reveal(ORDERS.hide(id_)) == id_


def test_another_kind_or_key_has_another_text():
    """H302: a text of an order is none of a cart."""
    others = [CARTS, Obfuscator(KEY + "!", "order"), Obfuscator(KEY)]
    assert len({each.hide(1) for each in [ORDERS, *others]}) == 4
    assert Obfuscator(KEY.encode(), "order").hide(1) == ORDERS.hide(1)
    assert KEY not in repr(ORDERS)


def test_the_text_of_an_id_stays():
    """H302: addresses that were given out are read by later releases, too."""
    assert ORDERS.hide(252620073519284224) == "dr1d11z8r2zz1"


@pytest.mark.parametrize("text", ["", "1", "0" * 12, "0" * 14, "u" * 13, "-" * 13, "z" * 13, "é" * 13, " " * 13])
def test_what_is_no_text_is_refused(text):
    """H302: without a word of what was given."""
    with pytest.raises(IdInvalid, match="stands for no id"):
        ORDERS.reveal(text)


def test_letters_that_look_like_digits_are_read_as_those():
    """H302: as somebody types them who reads them off a screen."""
    text = next(text for text in map(ORDERS.hide, range(1000)) if {"0", "1"} <= {*text})
    assert ORDERS.reveal(text.replace("0", "O").replace("1", "l")) == ORDERS.reveal(text.replace("1", "I"))


def test_a_short_key_is_refused():
    """H302: it could be tried out."""
    with pytest.raises(ConfigurationError, match="has 5 bytes, and needs 16"):
        Obfuscator("short")


class Order(BaseModel):
    id: Annotated[int, ORDERS.outgoing]


class Asked(BaseModel):
    id: Annotated[int, ORDERS.incoming]


def test_what_is_given_out_has_no_id_and_what_comes_in_must_have_none():
    """H302, H140: the text in JSON and in its schema; a number is refused, so that nobody tries them out."""
    told = Order(id=7).model_dump_json()
    assert json.loads(told) == {"id": ORDERS.hide(7)}
    assert Asked.model_validate_json(told).id == 7
    assert Order.model_json_schema(mode="serialization")["properties"]["id"]["type"] == "string"
    assert Asked.model_json_schema()["properties"]["id"]["type"] == "string"
    for wrong in (7, "7", CARTS.hide(7) + "0", None):
        with pytest.raises(ValidationError):
            Asked(id=wrong)


class Placed(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: Id


def test_an_id_in_an_event_is_a_string():
    """H13, H140: and comes back as the number that it is; what is no id is refused."""
    placed = Placed(order_id=LAST_ID)
    assert json.loads(placed.model_dump_json()) == {"order_id": str(LAST_ID)}
    assert Placed.model_validate_json(placed.model_dump_json()) == placed
    for wrong in (-1, LAST_ID + 1, "x"):
        with pytest.raises((ValidationError, PayloadInvalid)):
            Placed(order_id=wrong)


class Base(DeclarativeBase):
    pass


async def test_a_column_that_makes_its_ids(tmp_path):
    """P6, H140: by the default of the column, and of the right type on the way in."""
    app = App("shop", f"sqlite+aiosqlite:///{tmp_path}/shop.db", metadata=Base.metadata)

    class Bought(Base):
        __tablename__ = "bought"
        id: Mapped[int] = mapped_column(IdType, primary_key=True, autoincrement=False, default=app.ids.next_id)

    async with app.running():
        async with app.transaction() as session:
            rows = [Bought() for _ in range(3)]
            session.add_all(rows)
            await session.flush()
            assert len({row.id for row in rows}) == 3
        async with app.session() as session:
            assert set(await session.scalars(sa.select(Bought.id))) == {row.id for row in rows}
        async with app.session() as session:
            session.add(Bought(id=-1))
            with pytest.raises(StatementError, match="is no id"):
                await session.flush()


@given(ids)
def test_short_ids_come_back(id_):
    """H302: they are short, and hide nothing; so their documentation says."""
    assert ShortIds().reveal(ShortIds().hide(id_)) == id_


def test_a_short_id_has_one_text():
    """H302: another text for the same id would be a second address of it."""
    short = ShortIds(min_length=8)
    assert len(short.hide(1)) == 8
    for wrong in ("", "?", ShortIds().hide(1), ShortIds()._sqids.encode([1, 2]), "aaaaaaaaaaaaaaaaaaaaaaaaa"):
        with pytest.raises(IdInvalid):
            short.reveal(wrong)
    with pytest.raises(ConfigurationError, match="Sqids refuses"):
        ShortIds("aa")
