"""The peer of the sagas: the same calls as a DBOS workflow, on the same server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import sqlalchemy as sa


@asynccontextmanager
async def peer(url: str, calls: int, next_id: Callable[[], int]) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Run DBOS on the database of a URL; gives what does one workflow from its start to its result."""
    from dbos import DBOS, SetWorkflowID

    config = {
        "name": "bench",
        "system_database_url": sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False),
        "log_level": "ERROR",
        "run_admin_server": False,
    }
    DBOS(config=config)

    async def call(n: int) -> int:
        return n

    async def workflow() -> int:
        return sum([await step(n) for n in range(calls)])

    step, registered = DBOS.step()(call), DBOS.workflow()(workflow)

    async def one() -> object:
        with SetWorkflowID(f"peer-{next_id()}"):
            handle = await DBOS.start_workflow_async(registered)
        return await handle.get_result()

    DBOS.launch()
    try:
        yield one
    finally:
        DBOS.destroy(destroy_registry=True)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())  # it takes the loop's along
