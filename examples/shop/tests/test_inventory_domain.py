import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop.inventory.domain import NotEnough, Stock, needs, shortages

STEPS = st.lists(st.tuples(st.sampled_from(["reserve", "release", "sell"]), st.integers(1, 9)), max_size=40)


@given(st.integers(0, 30), STEPS)
def test_nothing_is_lost_or_made(stocked, steps):
    """P5, I7: available + reserved + sold stays what was stocked, whatever is tried."""
    stock = Stock(stocked)
    for step, quantity in steps:
        try:
            stock = getattr(stock, step)(quantity)
        except NotEnough:
            continue
        assert stock.stocked == stocked
        assert min(stock.available, stock.reserved, stock.sold) >= 0


def test_lines_with_one_sku_are_summed():
    """P5: two lines that draw on one shelf are checked together."""
    wanted = needs([("A", 3), ("B", 1), ("A", 3)])
    assert wanted == {"A": 6, "B": 1}
    assert shortages(wanted, {"A": 5, "B": 1}) == {"A": 5}
    assert shortages(wanted, {"B": 1}) == {"A": 0}


def test_more_than_there_is_cannot_be_set_aside():
    with pytest.raises(NotEnough):
        Stock(2).reserve(3)
