"""How many of each thing there are, and for whom some are set aside."""
