from shop.catalog.seed import CATEGORIES, SELLERS, products


def test_the_seeded_catalogue():
    """Sixty products, eight categories, three sellers; the same seed makes the same shop."""
    made = products(42)
    assert len(made) == len({product.sku for product in made}) == 60
    assert {product.category for product in made} == {slug for slug, _ in CATEGORIES}
    assert len(CATEGORIES) == 8
    assert {product.seller for product in made} == set(SELLERS)
    assert made == products(42)
    assert made != products(43)
    assert all(product.price > 0 and product.stock > 0 for product in made)
