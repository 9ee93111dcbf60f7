# --8<-- [start:breaker]
import asyncio
from datetime import timedelta

from txpatterns.errors import CircuitOpen
from txpatterns.resilience import CircuitBreaker

bank = CircuitBreaker("bank", failures=3, open_for=timedelta(seconds=30))


async def ask_the_bank(account: str) -> int:
    raise ConnectionRefusedError("your client's call stands here")


@bank
async def balance(account: str) -> int:
    async with asyncio.timeout(2):
        return await ask_the_bank(account)


# --8<-- [end:breaker]


# --8<-- [start:fallback]
async def shown(account: str) -> str:
    try:
        return str(await balance(account))
    except CircuitOpen as refused:
        return f"not known for {refused.after.seconds + 1} seconds"
    except ConnectionError:
        return "not known"


async def main() -> None:
    for _ in range(4):
        print(await shown("4711"))


asyncio.run(main())
# --8<-- [end:fallback]
