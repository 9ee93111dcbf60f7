import asyncio
from datetime import timedelta

from txpatterns.resilience import Bulkhead, CircuitBreaker, Retrying

bank = CircuitBreaker("bank")
places = Bulkhead("bank", at_once=20, wait=timedelta(seconds=1))
answers = [ConnectionResetError(), TimeoutError(), 42]


@Retrying(attempts=3)
@bank
@places
async def balance(account: str) -> int:
    answer = answers.pop(0)  # your client's call stands here
    if isinstance(answer, Exception):
        raise answer
    return answer


print(asyncio.run(balance("4711")), "at the third attempt")
