"""A pretended payment provider: a company of its own, which answers by webhook and may misbehave on request."""
