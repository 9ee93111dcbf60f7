import asyncio
import os

from txpatterns.resilience import Cache, RedisEntries


async def rate() -> float:
    return 1.17  # your load stands here


async def main() -> None:
    async with RedisEntries(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")) as entries:
        rates = Cache("rate", float, entries=entries)
        print(await rates.aget("EUR/USD", rate))


asyncio.run(main())
