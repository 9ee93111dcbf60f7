"""What `import txpatterns` costs a process, beside importing what it is built on."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable

from benchmarks.harness import Case, Table, compare

BASE = "import sqlalchemy.orm, sqlalchemy.ext.asyncio, pydantic"


async def package(rounds: int) -> Table:
    """Milliseconds of CPU, user and system, of a whole process that imports and ends."""
    base = "sqlalchemy (orm, asyncio) and pydantic"
    # Each process that defines an event or connects pays for these, with this library or without it.
    used = "import sqlalchemy.dialects.postgresql, sqlalchemy.dialects.sqlite\nclass Model(pydantic.BaseModel): ..."
    with tempfile.TemporaryDirectory() as compiled:
        cases = [
            Case(base, _process(BASE, compiled)),
            Case("the same, with a model and the two dialects", _process(f"{BASE}\n{used}", compiled), base),
            Case("txpatterns", _process("import txpatterns", compiled), base, 1.5),
        ]
        for case in cases:  # the first time also compiles
            await case.run()
        table = await compare("Importing, CPU time of a process", "ms", cases, rounds, lower_is_better=True)
    table.notes.append("Everything is compiled before, as an installer does it.")
    return table


def _process(code: str, compiled: str) -> Callable[[], Awaitable[float]]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = compiled

    async def run() -> float:
        before = _children()
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True, env=environment)
        return (_children() - before) * 1000

    return run


def _children() -> float:
    """Seconds of CPU of the child processes that have ended; only one runs here at a time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
