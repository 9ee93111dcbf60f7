"""What `import txpatterns` costs a process, beside importing what it is built on."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable

from benchmarks.harness import Case, Table, compare

BASE = "import sqlalchemy.orm, sqlalchemy.ext.asyncio, pydantic"


async def package(rounds: int) -> Table:
    """Milliseconds of CPU, user and system, of a whole process that imports and ends."""
    base = "sqlalchemy (orm, asyncio) and pydantic"
    # Each process that defines an event or connects pays for these, with this library or without it.
    used = "import sqlalchemy.dialects.postgresql, sqlalchemy.dialects.sqlite\nclass Model(pydantic.BaseModel): ..."
    cases = [
        Case(base, _process(BASE)),
        Case("the same, with a model and the two dialects", _process(f"{BASE}\n{used}"), base),
        Case("txpatterns", _process("import txpatterns"), base, 1.5),
    ]
    return await compare("Importing, CPU time of a process", "ms", cases, rounds, lower_is_better=True)


def _process(code: str) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        before = _children()
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True)
        return (_children() - before) * 1000

    return run


def _children() -> float:
    """Seconds of CPU of the child processes that have ended; only one runs here at a time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
