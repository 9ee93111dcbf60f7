import asyncio
import os
from datetime import timedelta

from txpatterns.resilience import RateLimit, RedisBuckets


async def main() -> None:
    async with RedisBuckets(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")) as buckets:
        calls = RateLimit("bank", calls=100, per=timedelta(seconds=1), burst=20, buckets=buckets)
        taken = await calls.atake("all of us")
        taken.check()
        print(f"{taken.remaining} more at once")


asyncio.run(main())
