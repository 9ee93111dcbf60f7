"""Credit that visitors have with the shop, in books of double entry."""
