"""A generator without App, and a chain behind it."""

# --8<-- [start:numbers]
import asyncio

from txpatterns import Database
from txpatterns.database.setup import create_missing
from txpatterns.ids import DatabaseBlocks, IdChain, SnowflakeGenerator, Uuid7, WorkerNumbers

database = Database("sqlite+aiosqlite:///alone.db")
numbers = WorkerNumbers(database)
ids = SnowflakeGenerator(numbers)
# --8<-- [end:numbers]

# --8<-- [start:chain]
blocks = DatabaseBlocks(database)
chain = IdChain(ids, blocks, Uuid7())
# --8<-- [end:chain]


# --8<-- [start:main]
def main() -> None:
    asyncio.run(database.transact(create_missing))  # on SQLite; elsewhere `txp db upgrade`
    with numbers, blocks:  # gives the worker number back at the end
        print("an id:", ids.next_id() > 0)
        print("one of the chain:", type(chain.next_id()).__name__)
    asyncio.run(database.close())


if __name__ == "__main__":
    main()
# --8<-- [end:main]
