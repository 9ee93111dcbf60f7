import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop.money import Money, total


def test_amounts_travel_as_strings():
    """An amount is never a float on the wire, and 12.3 is written 12.30."""
    assert json.loads(Money(amount="12.3").model_dump_json()) == {"amount": "12.30", "currency": "EUR"}


@given(st.integers(-(10**12), 10**12), st.sampled_from(["EUR", "JPY"]))
def test_minor_units_are_exact(minor, currency):
    assert Money.of_minor(minor, currency).minor == minor
    assert Money.model_validate_json(Money.of_minor(minor, currency).model_dump_json()).minor == minor


@pytest.mark.parametrize(("amount", "currency"), [("1.001", "EUR"), ("1.5", "JPY"), ("1", "XXX"), ("NaN", "EUR")])
def test_impossible_amounts_are_refused(amount, currency):
    with pytest.raises(ValueError, match="1 validation error"):
        Money(amount=amount, currency=currency)


def test_sums_keep_their_currency():
    assert str(total([Money(amount="1.10"), Money(amount="2.20") * 2])) == "€5.50"
    assert total([]).minor == 0
    with pytest.raises(ValueError, match="cannot be added"):
        Money(amount="1", currency="USD") + Money(amount="1")
