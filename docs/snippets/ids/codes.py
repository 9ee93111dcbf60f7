"""Numbers of lockers: few, and so used again."""

# --8<-- [start:pool]
import asyncio
from datetime import timedelta

from txpatterns import App
from txpatterns.ids import CodePool

app = App("post")
lockers = CodePool(app.database, "lockers", size=200, quarantine=timedelta(hours=1))


async def main() -> None:
    async with app:
        async with app.transaction() as session:
            code = await session.run_sync(lockers.take, "parcel 7")
            print("locker", code)
        async with app.transaction() as session:
            await session.run_sync(lockers.give_back, code, "parcel 7")
            print("locker", await session.run_sync(lockers.take, "parcel 8"), "for the next one")


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:pool]
