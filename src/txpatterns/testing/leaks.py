"""What a life must not leave behind: tasks, connections that were not given back, open transactions."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool

_TURNS = 5
_PATIENCE = 5.0


class Connections:
    """Watches one connection pool, or all that the process has."""

    def __init__(self, pool: Pool | type[Pool] = Pool) -> None:
        self._out: dict[int, Any] = {}
        self._returned = threading.Condition()
        self._open_when_returned: list[str] = []
        event.listen(pool, "checkout", self._checkout)
        event.listen(pool, "checkin", self._checkin)

    def _checkout(self, _dbapi: Any, record: Any, _proxy: Any) -> None:
        self._out[id(record)] = record

    def _checkin(self, dbapi: Any, record: Any) -> None:
        with self._returned:
            self._out.pop(id(record), None)
            self._returned.notify_all()
        if dbapi is not None and _in_transaction(record.driver_connection):
            self._open_when_returned.append(f"a connection went back to its pool inside a transaction: {dbapi!r}")

    def settle(self, within: float) -> None:
        """Let threads come to an end that nobody waits for any more: those of ``def`` handlers that were cancelled."""
        with self._returned:
            self._returned.wait_for(lambda: not self._out, within)

    def leaks(self) -> list[str]:
        """Say what was not given back, or was given back inside a transaction."""
        out = [f"a connection was never given back: {record.dbapi_connection!r}" for record in self._out.values()]
        return out + self._open_when_returned

    def processes(self) -> list[int]:
        """Give the PostgreSQL processes behind what was not given back."""
        drivers = [record.driver_connection for record in self._out.values()]
        return [process for process in map(_process, drivers) if process is not None]


async def tasks_left() -> list[str]:
    """Give the tasks that still run, but for the calling one.

    What is just ending is let end, and so is what a driver does by itself: asyncpg asks the server to cancel the
    statement of a caller that was cancelled, and with SQLAlchemy 2.0 nobody waits for that.
    """
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    drivers = {task for task in asyncio.all_tasks() if _is_of(task, "asyncpg")}
    if drivers:
        await asyncio.wait(drivers, timeout=_PATIENCE)
    return [f"a task was left: {task!r}" for task in asyncio.all_tasks() - {asyncio.current_task()}]


def _is_of(task: asyncio.Task[Any], package: str) -> bool:
    frame = getattr(task.get_coro(), "cr_frame", None)
    return frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package


def _process(driver: Any) -> int | None:
    if hasattr(driver, "get_server_pid"):
        return None if driver.is_closed() else int(driver.get_server_pid())
    if hasattr(driver, "pgconn"):
        return None if driver.closed else int(driver.info.backend_pid)
    return None


def _in_transaction(driver: Any) -> bool:
    if hasattr(driver, "is_in_transaction"):
        return not driver.is_closed() and bool(driver.is_in_transaction())
    if hasattr(driver, "pgconn"):
        return bool(driver.info.transaction_status.name in ("INTRANS", "INERROR", "ACTIVE"))
    return bool(getattr(driver, "in_transaction", False))
