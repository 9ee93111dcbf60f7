"""What an engine's drivers share, and how they run a saga's code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from txpatterns.clock import Clock
from txpatterns.database import Database
from txpatterns.execution import Execution
from txpatterns.hooks import HookList
from txpatterns.outbox import Outbox
from txpatterns.runtime.outages import Outages
from txpatterns.sagas.grouping import GroupWriter
from txpatterns.sagas.handles import Outcome
from txpatterns.sagas.store import SagaStore

T = TypeVar("T")


@dataclass(slots=True)
class Tools:
    """What an engine's drivers share."""

    database: Database
    store: SagaStore
    execution: Execution
    outbox: Outbox
    hooks: HookList
    outages: Outages
    group: GroupWriter
    slots: asyncio.Semaphore
    random: Random = field(default_factory=Random)
    ended: Callable[[str, str, Outcome | None], None] = lambda *_: None
    """Told of each saga that has ended: its type, its id, and what it has come to."""
    wake: Callable[[], None] = lambda: None
    """Told that other sagas are due."""
    long_journal: int = 1_000
    """From so many rows on a person is told of a saga's journal."""
    longest_journal: int = 10_000
    """From so many rows on a saga does not go on before a person has decided."""
    timeouts_from: float = 0.0
    """From when on, by the monotonic clock, events may be given up: those that came while nobody ran are read first."""

    @property
    def clock(self) -> Clock:
        """Time."""
        return self.database.clock


async def outside_of_tasks(work: Callable[[], T]) -> T:
    """Do something where no task is current, so that a saga's code cannot take part in one."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        if done.done():
            return
        try:
            done.set_result(work())
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            done.set_exception(error)

    loop.call_soon(run)
    return await done
