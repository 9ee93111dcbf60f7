"""What the shop sells: products, categories, sellers."""
