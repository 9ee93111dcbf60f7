import os
from datetime import timedelta

from txpatterns.resilience import CircuitBreaker, SharedBreakers

bank = CircuitBreaker("bank", failures=5, open_for=timedelta(seconds=30))
post = CircuitBreaker("post")

with SharedBreakers(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"), bank, post), bank:
    print("the bank is", bank.state)  # your program runs here
