from shop.cart.domain import Line, without_bought


def test_only_what_was_bought_leaves_the_cart():
    """What was added during the checkout stays: more of a line, and lines that are new."""
    cart = [Line("l1", "A", 3), Line("l2", "B", 1), Line("l3", "A", 1)]
    assert without_bought(cart, {"l1": 2, "l2": 1, "gone": 5}) == [Line("l1", "A", 1), Line("l3", "A", 1)]
