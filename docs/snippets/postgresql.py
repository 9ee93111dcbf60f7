"""One App on PostgreSQL, straight or through PgBouncer: `python postgresql.py direct|asyncpg|psycopg`."""

# --8<-- [start:pool]
import asyncio
import os
import sys
from uuid import uuid4

from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from txpatterns import App, AppSettings, Event, Transaction

DATABASE = os.environ.get("DATABASE_URL", "postgresql+asyncpg://user:password@localhost:5432/orders")
POOLER = os.environ.get("POOLER_URL", DATABASE)  # the same through PgBouncer


def direct() -> AsyncEngine:
    return create_async_engine(
        DATABASE,
        pool_size=20,  # as many handlers may run at a time
        max_overflow=0,
        pool_pre_ping=True,
    )


# --8<-- [end:pool]


# --8<-- [start:asyncpg]
def asyncpg() -> AsyncEngine:
    return create_async_engine(
        POOLER,
        poolclass=NullPool,  # PgBouncer is the pool
        connect_args={
            "statement_cache_size": 0,  # asyncpg's own
            "prepared_statement_cache_size": 0,  # SQLAlchemy's
            "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
        },
    )


# --8<-- [end:asyncpg]


# --8<-- [start:psycopg]
def psycopg() -> AsyncEngine:
    return create_async_engine(POOLER, poolclass=NullPool, connect_args={"prepare_threshold": None})


# --8<-- [end:psycopg]


# --8<-- [start:app]
def make_app(engine: AsyncEngine) -> App:
    settings = AppSettings(listen_url=DATABASE)  # wake-ups need a connection that is not pooled
    return App("orders", database=engine, settings=settings)


# --8<-- [end:app]


# --8<-- [start:run]
class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id"):
    order_id: str


async def main(engine: AsyncEngine) -> None:
    app, handled = make_app(engine), asyncio.Event()

    @app.on(OrderPlaced)
    async def pack(event: OrderPlaced, tx: Transaction) -> None:
        print("packing", event.order_id)
        handled.set()

    async with app.running():
        async with app.session() as session, session.begin():
            app.outbox.add(session, OrderPlaced(order_id="1"))
        await handled.wait()
        await app.drained()
    await engine.dispose()


if __name__ == "__main__" and len(sys.argv) > 1:
    asyncio.run(main({"direct": direct, "asyncpg": asyncpg, "psycopg": psycopg}[sys.argv[1]]()))
# --8<-- [end:run]
