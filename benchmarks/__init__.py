"""How fast it is, always beside the raw limit and a peer, in one run. ``python -m benchmarks --help``."""
